//! placeholder
/// x
#[derive(Debug)]
pub struct ConfigError;
