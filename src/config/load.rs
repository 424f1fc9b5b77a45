//! From a file to a [`Config`], or to everything that is wrong with it.

use std::path::Path;

use super::build::build;
use super::document::Document;
use super::{Config, ConfigError, Finding};

fn text(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path).map_err(|reason| ConfigError::Unreadable { path: path.to_owned(), reason })
}

fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

impl Config {
    /// Reads the file at `path`; without one, the defaults hold. Reads also what the file names: password files,
    /// certificate authorities, and environment variables given as `env:NAME`. Blocking, for the start only (I11).
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        let Some(path) = path else { return Ok(Self::default()) };
        Self::parse(&text(path)?, &path.display().to_string())
    }

    /// As [`Config::load`]; what `examine` finds wrong besides is told with the rest, each at its place. It sees a
    /// configuration whose values can all be read, whether or not they go together.
    pub fn load_examined(path: Option<&Path>, examine: &mut dyn FnMut(&Self) -> Vec<Finding>) -> Result<Self, ConfigError> {
        let (text, origin) = match path {
            Some(path) => (text(path)?, path.display().to_string()),
            None => (String::new(), "the defaults".to_owned()),
        };
        let (document, raw) = Document::read(&text, &origin)?;
        build(document, raw, &environment, examine)
    }

    /// Reads TOML that came from `origin`, which is what errors call it.
    pub fn parse(text: &str, origin: &str) -> Result<Self, ConfigError> {
        Self::parse_with(text, origin, &environment)
    }

    /// As [`Config::parse`], in a given environment.
    pub(super) fn parse_with(text: &str, origin: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let (document, raw) = Document::read(text, origin)?;
        build(document, raw, env, &mut |_| Vec::new())
    }
}
