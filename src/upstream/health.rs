//! What is known of one address of an upstream: whether it works ([`super::breaker`]), whether it wants to be left
//! alone ([`super::holdback`]), whether it can answer HEAD.
//!
//! Everything is under one lock that is never held across an await. A request that is let through has an
//! [`Admitted`], which takes its outcome in; dropped without one, it gives a probe back. Used by [`super::Upstream`].

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::breaker::{Breaker, Condition, Need, Verdict};
use super::error::{Class, Reason, UpstreamError};
use super::holdback::Holdback;
use crate::config;

/// For how long an address that cannot answer HEAD is not asked by HEAD again.
const NO_HEAD: Duration = Duration::from_secs(3600);

/// What an upstream may refuse apart from the rest: registries count pulls and not HEADs, and layers not at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Temper {
    /// HEAD.
    Check = 0,
    /// GET of a manifest or list.
    Pull = 1,
    /// GET of a blob.
    Layer = 2,
}

/// Whether to ask, for one who has a choice.
#[derive(Clone, Debug)]
pub enum Readiness {
    /// Ask.
    Ready,
    /// Ask, but let nobody wait for it: it is only to see whether the upstream is back.
    Probe,
    /// Do not.
    Away(UpstreamError),
}

#[derive(Debug)]
struct State {
    breaker: Breaker,
    holds: [Holdback; 3],
    /// The last failure.
    why: String,
    /// When it last answered: what was sent before that and fails now says nothing of how it is now.
    answered: Option<Instant>,
    no_head: Option<Instant>,
    no_head_told: bool,
}

#[derive(Debug)]
pub(super) struct Health(Mutex<State>);

/// A request that may be sent.
#[derive(Debug)]
pub(super) struct Admitted {
    health: Arc<Health>,
    temper: Temper,
    sent: Instant,
    /// The breaker's probe, the hold's probe.
    probes: (bool, bool),
    settled: bool,
}

/// What came of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    None,
    /// It is not asked any more.
    Opened,
    /// It is back.
    Closed,
}

impl Health {
    pub(super) fn new(breaker: config::Breaker) -> Self {
        let (holds, why) = Default::default();
        let breaker = Breaker::new(breaker);
        Self(Mutex::new(State { breaker, holds, why, answered: None, no_head: None, no_head_told: false }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its place in the order of addresses, the best first.
    pub(super) fn rank(&self) -> u8 {
        self.state().breaker.rank(Instant::now())
    }

    pub(super) fn condition(&self) -> Condition {
        self.state().breaker.condition()
    }

    /// The last failure, while it matters.
    pub(super) fn why(&self) -> Option<String> {
        let state = self.state();
        (state.breaker.condition() != Condition::Closed).then(|| state.why.clone())
    }

    /// For how long requests of a kind are held back yet.
    pub(super) fn held(&self, temper: Temper) -> Option<Duration> {
        let now = Instant::now();
        match self.state().holds[temper as usize].peek(now) {
            Verdict::Go => None,
            Verdict::Probe => Some(Duration::ZERO),
            Verdict::Not(until) => Some(until - now),
        }
    }

    /// Whether a request would be let through, and as what.
    pub(super) fn peek(&self, temper: Temper, need: Need) -> Result<Verdict, Reason> {
        let (now, state) = (Instant::now(), self.state());
        state.verdict(now, temper, need)
    }

    /// Lets a request through, or says why not.
    pub(super) fn admit(self: &Arc<Self>, temper: Temper, need: Need) -> Result<Admitted, Reason> {
        let now = Instant::now();
        let mut state = self.state();
        state.verdict(now, temper, need)?;
        let breaker = state.breaker.admit(now, need) == Verdict::Probe;
        let hold = state.holds[temper as usize].admit(now) == Verdict::Probe;
        drop(state);
        Ok(Admitted { health: self.clone(), temper, sent: now, probes: (breaker, hold), settled: false })
    }

    /// It takes long: until the next probe nobody waits for it who has a choice.
    pub(super) fn slow(&self) {
        let mut state = self.state();
        if state.breaker.condition() == Condition::Closed {
            "it takes long to answer".clone_into(&mut state.why);
        }
        state.breaker.slow(Instant::now());
    }

    /// A body that it had begun to send broke off.
    pub(super) fn broke(&self, error: &UpstreamError) -> Turn {
        let Some(fault) = error.fault() else { return Turn::None };
        let mut state = self.state();
        state.why = error.reason().to_string();
        if state.breaker.failure(Instant::now(), fault) { Turn::Opened } else { Turn::None }
    }

    /// Whether HEAD is of use here.
    pub(super) fn knows_head(&self) -> bool {
        self.state().no_head.is_none_or(|until| Instant::now() >= until)
    }

    /// HEAD is of no use here. Whether that is news.
    pub(super) fn lacks_head(&self) -> bool {
        let mut state = self.state();
        state.no_head = Some(Instant::now() + NO_HEAD);
        !std::mem::replace(&mut state.no_head_told, true)
    }
}

impl State {
    /// `Go` or `Probe`; otherwise the reason of the refusal.
    fn verdict(&self, now: Instant, temper: Temper, need: Need) -> Result<Verdict, Reason> {
        let hold = self.holds[temper as usize].peek(now);
        if let Verdict::Not(until) = hold {
            return Err(Reason::HeldBack(until - now));
        }
        match self.breaker.peek(now, need) {
            Verdict::Not(until) => Err(Reason::Resting { why: self.why.clone(), retry_in: until - now }),
            Verdict::Go => Ok(hold),
            Verdict::Probe => Ok(Verdict::Probe),
        }
    }
}

impl Admitted {
    /// It answered; `error` is what that means, if it is no success.
    pub(super) fn answered(mut self, error: Option<&UpstreamError>, jitter: f64) -> Turn {
        self.settled = true;
        let mut state = self.health.state();
        let now = Instant::now();
        if let Some(fault) = error.and_then(UpstreamError::fault) {
            return self.faulted(state, error, fault);
        }
        // A token service that is down says nothing of HTTP statuses; one of 429 does.
        if let Some(Class::RateLimited { retry_after }) = error.map(UpstreamError::class) {
            state.holds[self.temper as usize].throttled(now, retry_after, self.probes.1, jitter);
            if self.temper == Temper::Check {
                // No registry counts a HEAD: this is the general limit.
                state.holds[Temper::Pull as usize].throttled(now, retry_after, false, jitter);
            }
        } else {
            state.holds[self.temper as usize].answered(self.probes.1);
        }
        state.answered = Some(now);
        if state.breaker.success() { Turn::Closed } else { Turn::None }
    }

    fn faulted(&self, mut state: MutexGuard<'_, State>, error: Option<&UpstreamError>, fault: super::breaker::Fault) -> Turn {
        if state.answered.is_some_and(|answered| answered > self.sent) {
            return Turn::None;
        }
        state.why = error.map_or_else(String::new, |error| error.reason().to_string());
        if state.breaker.failure(Instant::now(), fault) { Turn::Opened } else { Turn::None }
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        if self.settled || self.probes == (false, false) {
            return;
        }
        let mut state = self.health.state();
        if self.probes.0 {
            state.breaker.abandon();
        }
        if self.probes.1 {
            state.holds[self.temper as usize].abandon(Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A request that hung in an outage fails when that is long over.
    #[tokio::test(start_paused = true)]
    async fn a_failure_from_before_the_last_answer_changes_nothing() {
        let health = Arc::new(Health::new(config::Breaker { failures: 1, ..config::Breaker::default() }));
        let timeout = UpstreamError::new(&"r.example".parse().unwrap(), "r.example", Reason::Timeout(Duration::from_secs(15)));
        let hung = health.admit(Temper::Check, Need::Content).unwrap();
        tokio::time::advance(Duration::from_secs(1)).await;
        health.admit(Temper::Check, Need::Content).unwrap().answered(None, 0.5);
        assert_eq!(hung.answered(Some(&timeout), 0.5), Turn::None);
        assert_eq!(health.condition(), Condition::Closed);

        tokio::time::advance(Duration::from_secs(1)).await;
        let hung = health.admit(Temper::Check, Need::Content).unwrap();
        assert_eq!(hung.answered(Some(&timeout), 0.5), Turn::Opened);
        assert_eq!(health.condition(), Condition::Open);
    }
}
