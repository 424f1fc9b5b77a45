//! A secret that cannot be printed by accident (I9), and where one comes from.

use std::fmt;
use std::path::Path;

use zeroize::Zeroizing;

/// A password, token or key. `Debug` and `Display` show no byte of it; [`Secret::expose`] marks each place that uses it.
/// Its memory is overwritten when it is dropped. (What it was read from, and the headers made of it, are not.)
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Wraps a secret.
    pub fn new(secret: impl Into<String>) -> Self {
        Self(Zeroizing::new(secret.into()))
    }

    /// The secret itself, for an `Authorization` header and nothing else.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The value of a key: the text itself, or the environment variable that `env:NAME` names. No error repeats it.
    pub(super) fn from_text(text: Self, env: &dyn Fn(&str) -> Option<String>) -> Result<Self, String> {
        let secret = match text.0.strip_prefix("env:") {
            Some(name) => env(name).ok_or_else(|| format!("the environment variable {name:?} is not set, or not UTF-8"))?,
            None => text.0.to_string(),
        };
        if secret.is_empty() { Err("it is empty".into()) } else { Ok(Self::new(secret)) }
    }

    /// The content of `file`, without the end of its last line.
    pub fn from_file(file: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(file).map_err(|error| format!("cannot read {}: {error}", file.display()))?;
        let text = Zeroizing::new(text);
        let secret = text.trim_end_matches(['\n', '\r']);
        if secret.is_empty() { Err(format!("{} is empty", file.display())) } else { Ok(Self::new(secret)) }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_never_prints() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret:?} {secret}"), "*** ***");
        assert_eq!(secret.expose(), "hunter2");
    }
}
