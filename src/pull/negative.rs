//! What is not there: remembered for a moment, so that look-ups of absent signatures do not drown the upstream.

use std::time::Duration;

use moka::sync::Cache;
use tokio::time::Instant;

use crate::oci::Scope;

/// Absences remembered at one time.
const REMEMBERED: u64 = 100_000;

/// The absent things of all repositories.
#[derive(Debug)]
pub struct Negative(Cache<(Scope, String), Instant>);

impl Negative {
    /// Nothing is absent.
    pub fn new() -> Self {
        Self(Cache::new(REMEMBERED))
    }

    /// Whether the upstream said so recently enough.
    pub fn is_remembered(&self, scope: &Scope, what: &str) -> bool {
        self.0.get(&(scope.clone(), what.to_owned())).is_some_and(|until| Instant::now() < until)
    }

    /// The upstream says that it has no `what`; believed for `negative`.
    pub fn remember(&self, scope: &Scope, what: &str, negative: Duration) {
        if !negative.is_zero() {
            self.0.insert((scope.clone(), what.to_owned()), Instant::now() + negative);
        }
    }
}

impl Default for Negative {
    fn default() -> Self {
        Self::new()
    }
}
