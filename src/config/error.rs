//! What is wrong with a configuration, told so that it can be put right: place, key, what was found, what would do.

use std::fmt;
use std::io;
use std::path::PathBuf;

use super::Finding;

/// Why there is no [`Config`](super::Config).
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {}: {reason}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: io::Error,
    },
    /// A flag of the command line makes it wrong.
    #[error("{flag}: {problem}")]
    Flag {
        /// The flag.
        flag: &'static str,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// The text is wrong in at least one place. Shown one problem a line, in the order of the text.
    #[error("{}", Lines(.0))]
    Invalid(Vec<Problem>),
    /// Other machines reach the mirror, and nothing says who may pull, or everybody may what an upstream is read for as
    /// somebody. Shown one a line.
    #[error("{}", Lines(.0))]
    Exposed(Vec<Finding>),
    /// A flag and the file contradict each other.
    #[error(
        "--open lets everybody pull everything, and yet there are [[access.rule]] in the configuration; leave out one of the two"
    )]
    OpenWithRules,
}

/// One thing that is wrong. Never holds a secret (I9).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file, or whatever the text came from.
    pub origin: String,
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// The full key path, as in `upstream."ghcr.io".stall_timeout`; empty where the text is no TOML.
    pub key: String,
    /// What was found and what would be right.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: ", self.origin, self.line, self.column)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

struct Lines<'a, T>(&'a [T]);

impl<T: fmt::Display> fmt::Display for Lines<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}
