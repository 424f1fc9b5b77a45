//! Whether an address is asked for what it answers with an error of its own, as a pure state machine.
//!
//! A 5xx, or a body that breaks off, comes from an address that is there. What fails may be one thing: a layer that
//! the registry's storage has lost, or one whose redirect leads to a host that is down. Or it is all of a kind: the
//! storage of layers, while tags come out of a database. So there is one [`Failing`] for each kind of request of an
//! address, and in it a breaker for each thing that has failed lately. A thing counts once against its kind, however
//! often it is asked for. Without that, one client that asks for one broken layer again and again would keep everything
//! from everybody, and would use up the probes that would show that the rest is well.
//!
//! No connection and no answer at all have nothing to do with what was asked for: these count for the address as a
//! whole, in [`super::health`].

use std::collections::HashMap;

use tokio::time::Instant;

use super::breaker::{Breaker, Fault};
use crate::config;

/// How many things are remembered. Further ones are asked for all the same, and do not count.
const THINGS: usize = 1000;

/// What fails of one kind of request to an address.
#[derive(Debug)]
pub(super) struct Failing {
    config: config::Breaker,
    kind: Breaker,
    things: HashMap<String, Breaker>,
    /// When one of this kind was last answered well: what was sent before that and fails now is no news.
    well: Option<Instant>,
}

impl Failing {
    pub(super) fn new(config: config::Breaker) -> Self {
        Self { config, kind: Breaker::new(config), things: HashMap::new(), well: None }
    }

    /// The breaker of the whole kind.
    pub(super) fn kind(&self) -> &Breaker {
        &self.kind
    }

    /// The breakers that have a say in whether a thing is asked for.
    pub(super) fn breakers(&self, what: Option<&str>) -> impl Iterator<Item = &Breaker> {
        std::iter::once(&self.kind).chain(what.and_then(|what| self.things.get(what)))
    }

    /// The same, to be changed.
    pub(super) fn breakers_mut(&mut self, what: &str) -> impl Iterator<Item = &mut Breaker> {
        std::iter::once(&mut self.kind).chain(self.things.get_mut(what))
    }

    /// For a moment other addresses are asked for this kind first.
    pub(super) fn avoid(&mut self, now: Instant) {
        self.kind.avoid(now);
    }

    /// It was answered well. Whether that ends the failing of the kind.
    pub(super) fn success(&mut self, now: Instant, what: &str) -> bool {
        self.well = Some(now);
        self.things.remove(what);
        self.kind.success()
    }

    /// It failed, in answer to a question of `sent`. Whether the kind is not asked for any more.
    pub(super) fn failure(&mut self, now: Instant, sent: Instant, what: &str, fault: Fault, why: &str) -> bool {
        let outdated = self.well.is_some_and(|well| well > sent);
        !outdated && self.thing_failed(now, what, fault, why) && self.kind.failure(now, fault, why)
    }

    /// It failed where the address has sent the mirror for it. The address has answered well, and says so of its kind; but
    /// the thing is not to be had, and another address may lead elsewhere. Whether that ends the failing of the kind.
    pub(super) fn failure_elsewhere(&mut self, now: Instant, what: &str, fault: Fault, why: &str) -> bool {
        self.well = Some(now);
        self.thing_failed(now, what, fault, why);
        self.kind.avoid(now);
        self.kind.success()
    }

    /// Whether that is the first failure of this thing for a while.
    fn thing_failed(&mut self, now: Instant, what: &str, fault: Fault, why: &str) -> bool {
        self.things.retain(|_, breaker| !breaker.is_over(now));
        let (known, full) = (self.things.contains_key(what), self.things.len() >= THINGS);
        if known || !full {
            self.things.entry(what.to_owned()).or_insert_with(|| Breaker::new(self.config)).failure(now, fault, why);
        }
        !known && !full
    }
}

#[cfg(test)]
mod tests {
    use super::super::breaker::{Condition, Need, Verdict};
    use super::*;
    use std::time::Duration;

    const CONFIG: config::Breaker =
        config::Breaker { failures: 3, window: Duration::from_secs(30), probe_every: Duration::from_secs(5) };

    fn may_ask(failing: &Failing, now: Instant, what: &str) -> bool {
        failing.breakers(Some(what)).all(|breaker| !matches!(breaker.peek(now, Need::Content), Verdict::Not(_)))
    }

    #[tokio::test(start_paused = true)]
    async fn one_thing_rests_alone_and_several_are_the_kind() {
        let (now, mut failing) = (Instant::now(), Failing::new(CONFIG));
        for _ in 0..10 {
            assert!(!failing.failure(now, now, "a", Fault::Failing, "500"));
        }
        assert_eq!((may_ask(&failing, now, "a"), may_ask(&failing, now, "b")), (false, true));
        assert!(may_ask(&failing, now + CONFIG.probe_every, "a"), "it is probed");
        assert!(!failing.failure(now, now, "b", Fault::Failing, "500"));
        assert!(failing.failure(now, now, "c", Fault::Failing, "500"));
        assert!(!may_ask(&failing, now, "d"));
        assert!(failing.success(now, "d"));
        assert_eq!((may_ask(&failing, now, "a"), may_ask(&failing, now, "b")), (false, true), "each by itself");
        failing.success(now, "a");
        assert!(may_ask(&failing, now, "a"));
    }

    #[tokio::test(start_paused = true)]
    async fn what_failed_long_ago_counts_again() {
        let (now, mut failing) = (Instant::now(), Failing::new(CONFIG));
        failing.failure(now, now, "a", Fault::Failing, "500");
        let later = now + Duration::from_secs(31);
        assert!(!failing.failure(later, later, "b", Fault::Failing, "500"));
        assert!(!failing.failure(later, later, "a", Fault::Failing, "500"), "the second in this window");
        assert!(failing.failure(later, later, "c", Fault::Failing, "500"));
        assert_eq!(failing.things.len(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn where_a_redirect_leads_is_not_the_kind() {
        let (now, mut failing) = (Instant::now(), Failing::new(CONFIG));
        for what in ["a", "b", "c", "d", "a", "a"] {
            assert!(!failing.failure_elsewhere(now, what, Fault::Unreachable, "down"));
        }
        assert_eq!(failing.kind().condition(), Condition::Closed);
        assert_eq!(failing.kind().rank(now), 1, "tried after the others");
        assert_eq!((may_ask(&failing, now, "a"), may_ask(&failing, now, "b")), (false, true));
    }

    #[tokio::test(start_paused = true)]
    async fn memory_is_bounded() {
        let (now, mut failing) = (Instant::now(), Failing::new(CONFIG));
        for number in 0..2 * THINGS {
            failing.failure(now, now, &number.to_string(), Fault::Failing, "500");
        }
        assert_eq!(failing.things.len(), THINGS);
    }
}
