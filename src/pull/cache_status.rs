//! Where an answer came from, in the three forms in which that is told: the outcome that is counted, `Cache-Status` (RFC
//! 9211) and `Warning`.
//!
//! Made by whoever found the content; [`super::respond`] puts it into the head.

use std::borrow::Cow;
use std::time::Duration;

use crate::cache::Tier;
use crate::metrics::Outcome;

/// Why something is served that the upstream has not confirmed.
#[derive(Clone, Debug)]
pub struct Stale {
    /// How long ago its freshness ended.
    pub overdue: Duration,
    /// Why, for the client's log.
    pub why: String,
    /// Why, in a word.
    pub reason: &'static str,
}

/// Where the content of an answer came from.
#[derive(Clone, Debug)]
pub struct ServedFrom {
    /// How it is counted.
    pub outcome: Outcome,
    /// The member of `Cache-Status` that is this mirror's own.
    pub(super) cache_status: Cow<'static, str>,
    /// `Warning`, of what is stale.
    pub(super) warning: Option<String>,
}

impl ServedFrom {
    fn new(outcome: Outcome, cache_status: impl Into<Cow<'static, str>>) -> Self {
        Self { outcome, cache_status: cache_status.into(), warning: None }
    }

    /// From the cache.
    pub fn cache(tier: Tier) -> Self {
        match tier {
            Tier::Memory => Self::new(Outcome::Memory, "roadstead; hit; detail=memory"),
            Tier::Disk => Self::new(Outcome::Disk, "roadstead; hit; detail=disk"),
        }
    }

    /// From the upstream into the cache; `joined`: another request had begun it.
    pub fn upstream(joined: bool) -> Self {
        match joined {
            true => Self::new(Outcome::Joined, "roadstead; fwd=miss; collapsed"),
            false => Self::new(Outcome::Fill, "roadstead; fwd=miss; stored"),
        }
    }

    /// From the upstream past the cache.
    pub fn uncached(joined: bool) -> Self {
        match joined {
            true => Self::new(Outcome::Joined, "roadstead; fwd=miss; collapsed; detail=uncached"),
            false => Self::new(Outcome::Fill, "roadstead; fwd=miss; detail=uncached"),
        }
    }

    /// From the cache, after the upstream confirmed it.
    pub fn revalidated() -> Self {
        Self::new(Outcome::Revalidated, "roadstead; fwd=stale; detail=revalidated")
    }

    /// From the cache, unconfirmed.
    pub fn stale(Stale { overdue, why, reason }: &Stale) -> Self {
        let status = format!("roadstead; hit; ttl=-{}; reason={reason}; detail=stale", overdue.as_secs());
        Self { warning: Some(warning(why)), ..Self::new(Outcome::Stale, status) }
    }

    /// As it is, by a tag that nobody confirmed: the manifest itself had to be pulled, as it had gone meanwhile.
    pub fn by_stale_tag(self, Stale { why, .. }: &Stale) -> Self {
        Self { cache_status: format!("{}; detail=stale", self.cache_status).into(), warning: Some(warning(why)), ..self }
    }

    /// A list that is made here of what was pulled, because of `why`. It was never fresh.
    pub fn made_here(why: &str, reason: &'static str) -> Self {
        let status = format!("roadstead; hit; reason={reason}; detail=stale");
        Self { warning: Some(warning(why)), ..Self::new(Outcome::Stale, status) }
    }
}

/// `Warning: 299`, which containerd and podman show to people. Without what would end the quoted text.
fn warning(why: &str) -> String {
    let why: String = why.chars().filter(|c| !c.is_control() && *c != '"' && *c != '\\' && c.is_ascii()).take(300).collect();
    format!("299 - \"stale: {why}\"")
}
