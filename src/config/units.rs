//! Amounts as people write them: `50GiB`, `80%`.

/// Bytes, or a share of a file system.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Amount {
    /// So many bytes.
    Bytes(u64),
    /// A share of the file system's size, in percent, above 0 and up to 100.
    Percent(f64),
}

impl Amount {
    /// The amount in bytes on a file system of `total` bytes.
    pub fn of(self, total: u64) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Percent(percent) => (total as f64 * percent / 100.0) as u64,
        }
    }
}
