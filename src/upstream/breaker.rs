//! Whether an address of an upstream is asked at all: a circuit breaker, as a pure state machine.
//!
//! Closed: everybody asks. Suspect, after the first failure to reach it: those who have something cached to fall back
//! on do not ask; those who have nothing still do, because one lost connection is no outage. Open, after several
//! failures: nobody asks. In the last two states one request each `probe_every` is let through, as a probe, and its
//! success closes the breaker. Knows no clock but what it is told. [`super::health`] has one for an address as a whole,
//! [`super::failing`] those for what it is asked for.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::config;

/// For how long an address that failed is tried after the others.
const AVOID: Duration = Duration::from_secs(10);

/// How much depends on a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Something cached stands in if it is not sent.
    Fallback,
    /// Without it a client gets an error.
    Content,
}

/// What to do with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Send it.
    Go,
    /// Send it: whether the address is back depends on it. It must be settled, or given up, in the end.
    Probe,
    /// Do not; the next probe is due then.
    Not(Instant),
}

/// How an address failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// No connection, or no answer in time.
    Unreachable,
    /// It answers, and says that it cannot.
    Failing,
    /// A body broke off.
    Broken,
}

/// The state, for people and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Condition {
    /// It is asked.
    Closed,
    /// It failed; it is asked only for what is not cached.
    Suspect,
    /// It is not asked, but for probes.
    Open,
}

impl Condition {
    /// In a word.
    pub fn label(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Suspect => "suspect",
            Self::Open => "open",
        }
    }
}

#[derive(Debug)]
pub(super) struct Breaker {
    config: config::Breaker,
    condition: Condition,
    /// When the next probe is due. Of no meaning while closed.
    probe_at: Option<Instant>,
    /// The failures since the last success, as far as they lie in the window.
    failures: VecDeque<Instant>,
    last_failure: Option<Instant>,
    /// What the last failure was.
    why: String,
}

impl Breaker {
    pub(super) fn new(config: config::Breaker) -> Self {
        let (failures, last_failure, why) = (VecDeque::new(), None, String::new());
        Self { config, condition: Condition::Closed, probe_at: None, failures, last_failure, why }
    }

    /// What the last failure was.
    pub(super) fn why(&self) -> &str {
        &self.why
    }

    /// Whether its last failure is so long ago that it means nothing any more.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        let long = self.config.window.max(self.config.probe_every);
        self.last_failure.is_none_or(|at| now.saturating_duration_since(at) > long)
    }

    /// For a while it is tried after the others, although it may be asked.
    pub(super) fn avoid(&mut self, now: Instant) {
        self.last_failure = Some(now);
    }

    pub(super) fn condition(&self) -> Condition {
        self.condition
    }

    /// Where it stands in the order in which addresses are tried; the smallest first.
    pub(super) fn rank(&self, now: Instant) -> u8 {
        match self.condition {
            Condition::Closed if self.last_failure.is_none_or(|at| now >= at + AVOID) => 0,
            Condition::Closed => 1,
            Condition::Suspect => 2,
            Condition::Open => 3,
        }
    }

    /// What [`Self::admit`] would say, without taking the probe.
    pub(super) fn peek(&self, now: Instant, need: Need) -> Verdict {
        match (self.condition, need) {
            (Condition::Closed, _) | (Condition::Suspect, Need::Content) => Verdict::Go,
            _ => match self.probe_at {
                Some(at) if now < at => Verdict::Not(at),
                _ => Verdict::Probe,
            },
        }
    }

    /// A probe that has no answer yet does not put the next one off: one that was sent into a black hole would else
    /// hide for the whole of its time-out that the upstream is back.
    pub(super) fn admit(&mut self, now: Instant, need: Need) -> Verdict {
        let verdict = self.peek(now, need);
        if verdict == Verdict::Probe {
            self.probe_at = Some(now + self.config.probe_every);
        }
        verdict
    }

    /// It answered. Whether that closes the breaker.
    pub(super) fn success(&mut self) -> bool {
        self.failures.clear();
        std::mem::replace(&mut self.condition, Condition::Closed) != Condition::Closed
    }

    /// It failed. Whether that opens the breaker.
    pub(super) fn failure(&mut self, now: Instant, fault: Fault, why: &str) -> bool {
        self.last_failure = Some(now);
        why.clone_into(&mut self.why);
        self.failures.push_back(now);
        while self.failures.front().is_some_and(|first| now.saturating_duration_since(*first) > self.config.window)
            || self.failures.len() > self.config.failures
        {
            self.failures.pop_front();
        }
        let before = self.condition;
        if self.failures.len() >= self.config.failures {
            self.condition = Condition::Open;
        } else if before == Condition::Closed && fault == Fault::Unreachable {
            self.condition = Condition::Suspect;
        }
        // In the same state the next probe is due when it was due.
        if before != self.condition {
            self.probe_at = Some(now + self.config.probe_every);
        }
        self.condition == Condition::Open && before != Condition::Open
    }

    /// It takes long to answer: whoever has something cached does not wait for it, for a while.
    pub(super) fn slow(&mut self, now: Instant) {
        if self.condition == Condition::Closed {
            self.condition = Condition::Suspect;
            self.probe_at = Some(now + self.config.probe_every);
            "it takes long to answer".clone_into(&mut self.why);
        }
    }

    /// A probe was given up by whoever had it; the next request is one.
    pub(super) fn abandon(&mut self) {
        self.probe_at = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CONFIG: config::Breaker =
        config::Breaker { failures: 3, window: Duration::from_secs(30), probe_every: Duration::from_secs(5) };

    fn seconds(from: Instant, seconds: u64) -> Instant {
        from + Duration::from_secs(seconds)
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_failure_spares_those_who_have_a_fallback() {
        let (now, mut breaker) = (Instant::now(), Breaker::new(CONFIG));
        assert!(!breaker.failure(now, Fault::Unreachable, ""));
        assert_eq!(breaker.admit(now, Need::Content), Verdict::Go);
        assert_eq!(breaker.admit(now, Need::Fallback), Verdict::Not(seconds(now, 5)));
        assert_eq!(breaker.admit(seconds(now, 5), Need::Fallback), Verdict::Probe);
        assert!(matches!(breaker.admit(seconds(now, 5), Need::Fallback), Verdict::Not(_)), "one probe an interval");
        assert!(breaker.success());
        assert_eq!(breaker.admit(seconds(now, 5), Need::Fallback), Verdict::Go);
        assert_eq!(breaker.rank(seconds(now, 5)), 1, "still tried after the others");
        assert_eq!(breaker.rank(seconds(now, 10)), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn failures_in_a_window_open_it_for_all() {
        let (now, mut breaker) = (Instant::now(), Breaker::new(CONFIG));
        // Too far apart.
        for at in [0, 20, 40, 60] {
            assert!(!breaker.failure(seconds(now, at), Fault::Failing, ""));
        }
        assert_eq!(breaker.condition(), Condition::Closed, "it answers");
        assert!(breaker.failure(seconds(now, 61), Fault::Failing, ""));
        assert_eq!(breaker.admit(seconds(now, 62), Need::Content), Verdict::Not(seconds(now, 66)));
        // What was sent before it opened changes nothing.
        assert!(!breaker.failure(seconds(now, 63), Fault::Unreachable, ""));
        assert_eq!(breaker.admit(seconds(now, 66), Need::Content), Verdict::Probe);
        assert!(!breaker.failure(seconds(now, 67), Fault::Unreachable, ""));
        assert_eq!(breaker.admit(seconds(now, 70), Need::Content), Verdict::Not(seconds(now, 71)));
        assert_eq!(breaker.admit(seconds(now, 71), Need::Fallback), Verdict::Probe);
        breaker.abandon();
        assert_eq!(breaker.admit(seconds(now, 71), Need::Content), Verdict::Probe, "an abandoned probe is nobody's");
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Ask(Need, Option<Fault>),
        Wait(u64),
        Abandon,
    }

    fn step() -> impl Strategy<Value = Step> {
        let fault = prop_oneof![Just(Fault::Unreachable), Just(Fault::Failing), Just(Fault::Broken)];
        let need = prop_oneof![Just(Need::Content), Just(Need::Fallback)];
        prop_oneof![
            4 => (need, proptest::option::of(fault)).prop_map(|(need, fault)| Step::Ask(need, fault)),
            3 => (0u64..12).prop_map(Step::Wait),
            1 => Just(Step::Abandon),
        ]
    }

    proptest! {
        /// While open: never two requests within one probe interval; closed only by a success; never stuck.
        #[test]
        fn one_probe_an_interval_and_never_stuck(steps in proptest::collection::vec(step(), 1..200)) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let mut now = runtime.block_on(async { Instant::now() });
            let mut breaker = Breaker::new(CONFIG);
            let mut last_sent_open: Option<Instant> = None;
            for step in steps {
                match step {
                    Step::Wait(time) => now = seconds(now, time),
                    Step::Abandon => {
                        breaker.abandon();
                        last_sent_open = None;
                    }
                    Step::Ask(need, fault) => {
                        let open = breaker.condition() == Condition::Open;
                        let verdict = breaker.admit(now, need);
                        if let Verdict::Not(until) = verdict {
                            prop_assert!(until > now && until <= now + CONFIG.probe_every);
                            continue;
                        }
                        if open {
                            prop_assert_eq!(verdict, Verdict::Probe);
                            prop_assert!(last_sent_open.is_none_or(|last| now >= last + CONFIG.probe_every));
                            last_sent_open = Some(now);
                        }
                        match fault {
                            Some(fault) => { breaker.failure(now, fault, ""); }
                            None => {
                                breaker.success();
                                last_sent_open = None;
                                prop_assert_eq!(breaker.condition(), Condition::Closed);
                            }
                        }
                    }
                }
                let later = now + CONFIG.probe_every;
                prop_assert!(!matches!(breaker.peek(later, Need::Fallback), Verdict::Not(_)));
            }
        }
    }
}
