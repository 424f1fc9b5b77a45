//! How many files the process may have open: as many as the system lets it, and a word where that is not enough.
//!
//! Most systems start a process with a soft limit of 1024, for the sake of programs that use select(2), and a hard one far
//! above it. Each client's connection is a file descriptor here. Called by `serve` alone, at the start.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::cache::memory::OPEN_FILES;
use crate::config::Server;

/// For connections to upstreams, downloads under way, records that are read, sockets, the log.
const OTHERS: u64 = 512;

/// Raises the soft limit to the hard one. Warns where that is less than the mirror may need.
pub(super) fn raise(server: &Server) {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })
    {
        tracing::debug!(%error, "the limit of open files cannot be raised");
    }
    if let Some((limit, needed)) = lacking(getrlimit(Resource::Nofile).current, server.max_connections) {
        tracing::warn!(
            limit,
            needed,
            max_connections = server.max_connections,
            "the process may open fewer files than server.max_connections and the cache's open files need: when they are \
             used up, pulls fail; raise the limit (LimitNOFILE= of the unit, ulimit -Hn) or lower server.max_connections"
        );
    }
}

/// The limit and what is needed, where the one is below the other. `None` as a limit is none.
fn lacking(limit: Option<u64>, max_connections: usize) -> Option<(u64, u64)> {
    let needed = (max_connections as u64).saturating_add(OPEN_FILES + OTHERS);
    limit.filter(|limit| *limit < needed).map(|limit| (limit, needed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_needed_is_the_connections_and_the_files() {
        assert_eq!(lacking(Some(1024), 10_000), Some((1024, 11_024)));
        assert_eq!(lacking(Some(11_024), 10_000), None);
        assert_eq!(lacking(None, usize::MAX), None);
    }
}
