//! What the system said of the cache's files, with what was tried and on which file: an error of the disk is for people who
//! have to find it. Its kind is still the system's.

use std::io;
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}: {error}", .path.display())]
struct At {
    action: &'static str,
    path: PathBuf,
    error: io::Error,
}

/// Adds to an error what was tried, and on which file.
pub(super) fn at(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> io::Error {
    move |error| io::Error::new(error.kind(), At { action, path: path.to_owned(), error })
}

/// What the system itself said.
pub fn origin(error: &io::Error) -> &io::Error {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<At>()) {
        Some(At { error, .. }) => error,
        None => error,
    }
}
