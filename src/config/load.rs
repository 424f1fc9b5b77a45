//! From a file to a [`Config`], or to everything that is wrong with it.

use std::path::Path;

use super::build::build;
use super::document::Document;
use super::{Config, ConfigError};

impl Config {
    /// Reads the file at `path`; without one, the defaults hold. Reads also what the file names: password files,
    /// certificate authorities, and environment variables given as `env:NAME`. Blocking, for the start only (I11).
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        let Some(path) = path else { return Ok(Self::default()) };
        let text = std::fs::read_to_string(path).map_err(|reason| ConfigError::Unreadable { path: path.to_owned(), reason })?;
        Self::parse(&text, &path.display().to_string())
    }

    /// Reads TOML that came from `origin`, which is what errors call it.
    pub fn parse(text: &str, origin: &str) -> Result<Self, ConfigError> {
        Self::parse_with(text, origin, &|name| std::env::var(name).ok())
    }

    /// As [`Config::parse`], in a given environment.
    pub(super) fn parse_with(text: &str, origin: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let (document, raw) = Document::read(text, origin)?;
        build(document, raw, env)
    }
}
