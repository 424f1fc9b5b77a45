//! What is not there: remembered for a moment, so that look-ups of absent signatures do not drown the upstream.

use std::time::Duration;

use moka::sync::Cache;
use tokio::time::Instant;

use super::visibility::{Asker, Key};
use crate::oci::Scope;

/// Absences remembered at one time.
const REMEMBERED: u64 = 100_000;

/// The absent things of all repositories. What an upstream says to one login is nobody else's business, and may be
/// untrue for them.
#[derive(Debug)]
pub struct Negative(Cache<(Scope, String, Option<Key>), Instant>);

impl Negative {
    /// Nothing is absent.
    pub fn new() -> Self {
        Self(Cache::new(REMEMBERED))
    }

    /// Whether the upstream said so recently enough.
    pub fn is_remembered(&self, scope: &Scope, asker: &Asker, what: &str) -> bool {
        self.0.get(&(scope.clone(), what.to_owned(), asker.key())).is_some_and(|until| Instant::now() < until)
    }

    /// The upstream says that it has no `what`; believed for `negative`.
    pub fn remember(&self, scope: &Scope, asker: &Asker, what: &str, negative: Duration) {
        if !negative.is_zero() {
            self.0.insert((scope.clone(), what.to_owned(), asker.key()), Instant::now() + negative);
        }
    }
}

impl Default for Negative {
    fn default() -> Self {
        Self::new()
    }
}
