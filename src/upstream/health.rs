//! What is known of one address of an upstream: whether it can be reached ([`super::breaker`]) and does what it is asked
//! for ([`super::failing`]), whether it wants to be left alone, and by whom ([`super::accounts`]), whether it can answer HEAD.
//!
//! No connection, or no answer, says something of the address, for all requests. A 5xx says that the address is there,
//! and that this thing, or its kind, is not to be had: layers that fail say nothing of tags. A failure where a redirect
//! has led says that the address itself has answered well.
//!
//! Everything is under one lock that is never held across an await. A request that is let through has an [`Admitted`],
//! which is told the outcome; dropped without one, it gives its probes back. Used by [`super::Upstream`].

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

use super::accounts::{Account, Accounts, Admission, Told};
use super::breaker::{Breaker, Condition, Fault, Need, Verdict};
use super::error::{Class, Reason, UpstreamError};
use super::failing::Failing;
use super::quota::Quota;
use super::traffic::Traffic;
use crate::config;

/// For how long an address that cannot answer HEAD is not asked by HEAD again.
const NO_HEAD: Duration = Duration::from_secs(3600);

/// For how long an address that sent something wrong is tried after the others: clients come back after pauses of up to five
/// minutes, and are to find the right one.
const MISLED: Duration = Duration::from_secs(600);

/// Whether to ask, for callers that have a choice.
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
    /// Whether it can be reached.
    reach: Breaker,
    /// What it fails at, by [`Traffic`].
    failing: [Failing; 3],
    accounts: Accounts,
    /// When it last sent something that cannot be right.
    misled: [Option<Instant>; 3],
    /// When it last answered: that a request from before then got no answer says nothing of how it is now.
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
    admission: Admission,
    what: String,
    sent: Instant,
    /// Of which breakers it is the probe, in their order.
    probes: [bool; BREAKERS],
    settled: bool,
}

/// How many breakers may have a say in a request: those of the address, the kind and the thing.
const BREAKERS: usize = 3;

/// What changed by an outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    None,
    /// It is not asked any more.
    Opened,
    /// It is not asked for this kind any more.
    Failing(Traffic),
    /// It is back.
    Closed,
}

impl Health {
    pub(super) fn new(breaker: config::Breaker) -> Self {
        let failing = Traffic::ALL.map(|_| Failing::new(breaker));
        let (reach, accounts, misled) = (Breaker::new(breaker), Default::default(), Default::default());
        Self(Mutex::new(State { reach, failing, accounts, misled, answered: None, no_head: None, no_head_told: false }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock()
    }

    /// Its place in the order of addresses for a kind of request, the best first; of those that have misled, the one whose
    /// last lie is the oldest.
    pub(super) fn rank(&self, traffic: Traffic) -> (u8, Option<Instant>) {
        let (now, state) = (Instant::now(), self.state());
        let misled = state.misled[traffic as usize].filter(|at| now < *at + MISLED);
        let rank = state.breakers(traffic, None).map(|breaker| breaker.rank(now)).max().unwrap_or_default();
        (rank.max(misled.is_some().into()), misled)
    }

    /// How it is asked for a kind of request.
    pub(super) fn condition(&self, traffic: Traffic) -> Condition {
        self.state().worst(traffic).condition()
    }

    /// The last failure of a kind of request, while it matters.
    pub(super) fn why(&self, traffic: Traffic) -> Option<String> {
        let state = self.state();
        let worst = state.worst(traffic);
        (worst.condition() != Condition::Closed).then(|| worst.why().to_owned())
    }

    /// For how long the mirror's own requests of a kind are held back yet.
    pub(super) fn held(&self, traffic: Traffic) -> Option<Duration> {
        self.state().accounts.held(Instant::now(), traffic)
    }

    /// It told an account its quota.
    pub(super) fn told_quota(&self, account: Account, quota: Quota) {
        self.state().accounts.told(Instant::now(), account, quota);
    }

    /// The quotas of the mirror's own accounts.
    pub(super) fn quotas(&self) -> Vec<Told> {
        self.state().accounts.quotas().cloned().collect()
    }

    /// Whether a request would be let through, and as what; `what` it is for, or anything of that kind.
    pub(super) fn peek(&self, account: Account, traffic: Traffic, what: Option<&str>, need: Need) -> Result<Verdict, Reason> {
        let (now, state) = (Instant::now(), self.state());
        state.verdict(now, account, traffic, what, need)
    }

    /// Lets a request through, or says why not. `account`: who it will be made as, to begin with.
    pub(super) fn admit(
        self: &Arc<Self>,
        account: Account,
        traffic: Traffic,
        what: String,
        need: Need,
    ) -> Result<Admitted, Reason> {
        let now = Instant::now();
        let mut state = self.state();
        state.verdict(now, account, traffic, Some(&what), need)?;
        let mut probes = [false; BREAKERS];
        for (probe, breaker) in probes.iter_mut().zip(state.breakers_mut(traffic, &what)) {
            *probe = breaker.admit(now, need) == Verdict::Probe;
        }
        let admission = state.accounts.admit(now, account, traffic);
        drop(state);
        Ok(Admitted { health: self.clone(), admission, what, sent: now, probes, settled: false })
    }

    /// It takes long to answer: until the next probe nobody who has a choice waits for it.
    pub(super) fn slow(&self) {
        self.state().reach.slow(Instant::now());
    }

    /// A body broke off that it, or where it had led, had begun to send.
    pub(super) fn broke(&self, what: &str, error: &UpstreamError) {
        let Some(fault) = error.fault() else { return };
        let (now, why) = (Instant::now(), told(error));
        let failing = &mut self.state().failing[Traffic::Layer as usize];
        if error.is_elsewhere() {
            failing.failure_elsewhere(now, what, fault, &why);
        } else {
            failing.failure(now, now, what, fault, &why);
        }
    }

    /// A body of a kind broke off, or came damaged, as may happen: other addresses are tried first for a moment.
    pub(super) fn avoid(&self, traffic: Traffic) {
        self.state().failing[traffic as usize].avoid(Instant::now());
    }

    /// It answered with something that cannot be right: other addresses are tried first for a while.
    pub(super) fn misled(&self, traffic: Traffic) {
        let mut state = self.state();
        for traffic in traffic.alike() {
            state.misled[*traffic as usize] = Some(Instant::now());
        }
    }

    /// What it sent was right after all.
    pub(super) fn was_right(&self, traffic: Traffic) {
        let mut state = self.state();
        for traffic in traffic.alike() {
            state.misled[*traffic as usize] = None;
        }
    }

    /// Whether HEAD is of use here.
    pub(super) fn knows_head(&self) -> bool {
        self.state().no_head.is_none_or(|until| Instant::now() >= until)
    }

    /// HEAD is of no use here. Whether that is news.
    pub(super) fn note_no_head(&self) -> bool {
        let mut state = self.state();
        state.no_head = Some(Instant::now() + NO_HEAD);
        !std::mem::replace(&mut state.no_head_told, true)
    }
}

impl State {
    /// The breakers that have a say in a request: the address's first, then those of what is asked for.
    fn breakers(&self, traffic: Traffic, what: Option<&str>) -> impl Iterator<Item = &Breaker> {
        std::iter::once(&self.reach).chain(self.failing[traffic as usize].breakers(what))
    }

    fn breakers_mut(&mut self, traffic: Traffic, what: &str) -> impl Iterator<Item = &mut Breaker> {
        std::iter::once(&mut self.reach).chain(self.failing[traffic as usize].breakers_mut(what))
    }

    /// The breaker that speaks loudest against asking for a kind.
    fn worst(&self, traffic: Traffic) -> &Breaker {
        let kind = self.failing[traffic as usize].kind();
        if kind.condition() > self.reach.condition() { kind } else { &self.reach }
    }

    /// `Go` or `Probe`; otherwise the reason of the refusal.
    fn verdict(
        &self,
        now: Instant,
        account: Account,
        traffic: Traffic,
        what: Option<&str>,
        need: Need,
    ) -> Result<Verdict, Reason> {
        let silent = self.accounts.peek(now, account, traffic);
        let mut verdict = silent.map_err(|silence| Reason::HeldBack { wait: silence.until - now, brief: silence.brief })?;
        for breaker in self.breakers(traffic, what) {
            match breaker.peek(now, need) {
                Verdict::Not(until) => {
                    return Err(Reason::Resting { why: breaker.why().to_owned(), retry_in: until - now });
                }
                Verdict::Probe => verdict = Verdict::Probe,
                Verdict::Go => {}
            }
        }
        Ok(verdict)
    }
}

impl Admitted {
    /// It answered; `error` is what that means, if it is no success. `host` is the address.
    pub(super) fn answered(mut self, host: &str, error: Option<&UpstreamError>, jitter: f64) -> Change {
        self.settled = true;
        let mut state = self.health.state();
        match error.and_then(|error| Some((error, error.fault()?))) {
            Some((error, fault)) => self.faulted(&mut state, host, error, fault),
            None => self.well(&mut state, error, jitter),
        }
    }

    fn well(&self, state: &mut State, error: Option<&UpstreamError>, jitter: f64) -> Change {
        let now = Instant::now();
        // A token service that is down says nothing of HTTP statuses; one of 429 does.
        match error.map(|error| (error.class(), error.ended_at())) {
            Some((Class::RateLimited { retry_after }, at)) => {
                state.accounts.throttled(now, self.admission, at, retry_after, jitter);
            }
            _ => state.accounts.answered(now, self.admission),
        }
        state.answered = Some(now);
        let (reached, does) = (state.reach.success(), state.failing[self.admission.traffic as usize].success(now, &self.what));
        if reached || does { Change::Closed } else { Change::None }
    }

    fn faulted(&self, state: &mut State, host: &str, error: &UpstreamError, fault: Fault) -> Change {
        let (now, why) = (Instant::now(), told(error));
        let failing = &mut state.failing[self.admission.traffic as usize];
        if error.is_elsewhere() {
            state.answered = Some(now);
            let does = failing.failure_elsewhere(now, &self.what, fault, &why);
            return if state.reach.success() || does { Change::Closed } else { Change::None };
        }
        if fault == Fault::Unreachable {
            let outdated = state.answered.is_some_and(|answered| answered > self.sent);
            return if !outdated && state.reach.failure(now, fault, &why) { Change::Opened } else { Change::None };
        }
        let fails = failing.failure(now, self.sent, &self.what, fault, &why);
        // Its token service may be another host, which says nothing of whether this one is there.
        let own = error.host() == host;
        if own {
            state.answered = Some(now);
        }
        match own && state.reach.success() {
            _ if fails => Change::Failing(self.admission.traffic),
            true => Change::Closed,
            false => Change::None,
        }
    }
}

/// Why, for later requests. The address itself is named beside this; another host is not.
fn told(error: &UpstreamError) -> String {
    match error.is_elsewhere() {
        true => format!("where it leads, at {}: {}", error.host(), error.reason()),
        false => error.reason().to_string(),
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        if self.settled || !(self.admission.is_probe() || self.probes.contains(&true)) {
            return;
        }
        let mut state = self.health.state();
        let breakers = state.breakers_mut(self.admission.traffic, &self.what);
        breakers.zip(self.probes).filter(|(_, probe)| *probe).for_each(|(breaker, _)| breaker.abandon());
        state.accounts.abandon(Instant::now(), self.admission);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str = "r.example";

    fn failed(host: &str, reason: Reason) -> UpstreamError {
        UpstreamError::new(&"r.example".parse().unwrap(), host, reason)
    }

    fn admit(health: &Arc<Health>, traffic: Traffic) -> Admitted {
        health.admit(Account::Anonymous, traffic, "a".into(), Need::Content).unwrap()
    }

    /// A request that hung in an outage fails when that is long over.
    #[tokio::test(start_paused = true)]
    async fn a_failure_from_before_the_last_answer_changes_nothing() {
        let health = Arc::new(Health::new(config::Breaker { failures: 1, ..config::Breaker::default() }));
        let timeout = failed(HOST, Reason::Timeout(Duration::from_secs(15)));
        let hung = admit(&health, Traffic::Check);
        tokio::time::advance(Duration::from_secs(1)).await;
        admit(&health, Traffic::Check).answered(HOST, None, 0.5);
        assert_eq!(hung.answered(HOST, Some(&timeout), 0.5), Change::None);
        assert_eq!(health.condition(Traffic::Check), Condition::Closed);

        tokio::time::advance(Duration::from_secs(1)).await;
        let hung = admit(&health, Traffic::Check);
        assert_eq!(hung.answered(HOST, Some(&timeout), 0.5), Change::Opened);
        assert_eq!(health.condition(Traffic::Check), Condition::Open);
    }

    /// After an outage the probe is a layer that fails: it shows that the address is back, and layers are a thing of their own.
    #[tokio::test(start_paused = true)]
    async fn a_probe_that_is_answered_with_an_error_ends_an_outage() {
        let health = Arc::new(Health::new(config::Breaker { failures: 1, ..config::Breaker::default() }));
        let timeout = Reason::Timeout(Duration::from_secs(15));
        assert_eq!(admit(&health, Traffic::Layer).answered(HOST, Some(&failed(HOST, timeout)), 0.5), Change::Opened);
        assert!(health.peek(Account::Anonymous, Traffic::Check, None, Need::Content).is_err());
        tokio::time::advance(config::Breaker::default().probe_every).await;
        let broken = |host| failed(host, Reason::Failing(http::StatusCode::BAD_GATEWAY));
        // A token service that fails is not the address, which may be away as before.
        assert_eq!(
            admit(&health, Traffic::Pull).answered(HOST, Some(&broken("auth.example")), 0.5),
            Change::Failing(Traffic::Pull)
        );
        assert!(health.peek(Account::Anonymous, Traffic::Check, None, Need::Content).is_err());
        tokio::time::advance(config::Breaker::default().probe_every).await;
        assert_eq!(admit(&health, Traffic::Layer).answered(HOST, Some(&broken(HOST)), 0.5), Change::Failing(Traffic::Layer));
        assert_eq!(health.peek(Account::Anonymous, Traffic::Check, None, Need::Fallback).ok(), Some(Verdict::Go));
        assert!(health.peek(Account::Anonymous, Traffic::Layer, None, Need::Content).is_err());
    }

    /// A probe that nobody waits for any more is given back, for all that it was to show.
    #[tokio::test(start_paused = true)]
    async fn a_probe_that_is_dropped_is_given_back() {
        let health = Arc::new(Health::new(config::Breaker { failures: 1, ..config::Breaker::default() }));
        let timeout = Reason::Timeout(Duration::from_secs(15));
        admit(&health, Traffic::Layer).answered(HOST, Some(&failed(HOST, timeout)), 0.5);
        tokio::time::advance(config::Breaker::default().probe_every).await;
        let probe = admit(&health, Traffic::Layer);
        assert!(health.peek(Account::Anonymous, Traffic::Layer, None, Need::Content).is_err());
        drop(probe);
        assert_eq!(health.peek(Account::Anonymous, Traffic::Layer, None, Need::Content).ok(), Some(Verdict::Probe));
    }
}
