//! What is wrong with a key, found by who tries what the configuration asks for.
//!
//! Knows the key and not its place: the text may be read no more, or a flag may stand in its place. While the text is read,
//! [`Config::load_examined`](super::Config::load_examined) gives it one.

use std::fmt;
use std::path::Path;

use super::document::written;

/// Something that is wrong with a key. Never holds a secret (I9).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The path of the key; if it may stand in several places, of each.
    pub(super) keys: Vec<Vec<String>>,
    /// What it says there.
    pub(super) text: Option<String>,
    /// What is wrong, and what would be right.
    pub(super) message: String,
}

impl Finding {
    /// Of the key at `path`.
    pub fn new(path: &[&str], message: impl fmt::Display) -> Self {
        Self { keys: vec![owned(path)], text: None, message: message.to_string() }
    }

    /// The key may also stand at `path`.
    #[must_use]
    pub fn or_at(mut self, path: &[&str]) -> Self {
        self.keys.push(owned(path));
        self
    }

    /// The key names `file`.
    #[must_use]
    pub fn naming(self, file: &Path) -> Self {
        Self { text: Some(file.display().to_string()), ..self }
    }
}

fn owned(path: &[&str]) -> Vec<String> {
    path.iter().map(|key| (*key).to_owned()).collect()
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = self.keys.first().map(|key| written(key)).unwrap_or_default();
        write!(f, "{key}: {}", self.message)
    }
}
