//! Asking the addresses of an upstream: whose turn it is, which address comes first, what is asked again.
//!
//! Every request for content goes through [`Upstream::ask_in`]. What an answer says of an address's health and quota is
//! noted here; what it says of the content is for the caller. Never waits longer than a response may take, except for the
//! turn of a layer.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::breaker::Need;
use super::error::{Reason, UpstreamError};
use super::health::Change;
use super::holdback::{BRIEFS, LEAST};
use super::part::Effort;
use super::queue::{Lane, Slot};
use super::request::{Answer, Ask, Origin};
use super::traffic::Traffic;
use super::{Upstream, quota};
use crate::metrics::gauge;

/// How often a request that a client depends on is repeated, and the first pause before that. Pauses double, and each
/// is lengthened by up to its own length, so that many who failed together do not come back together.
const RETRIES: u32 = 2;
pub(super) const PAUSE: Duration = Duration::from_millis(100);

impl Upstream {
    /// Asks for something small: see [`Self::ask_in`].
    pub(super) async fn ask(&self, ask: &Ask<'_>, accepts: impl Fn(&Answer) -> bool) -> Result<(&Origin, Answer), UpstreamError> {
        self.ask_in(Lane::Small, ask, accepts).await
    }

    /// Asks, in turn with others, until it has an answer of success or with a status that `accepts` wants to see; or says
    /// why not. Ends at once when the upstream is switched off.
    pub(super) async fn ask_in(
        &self,
        lane: Lane,
        ask: &Ask<'_>,
        accepts: impl Fn(&Answer) -> bool,
    ) -> Result<(&Origin, Answer), UpstreamError> {
        let mut offline = self.offline.subscribe();
        let asked = tokio::select! {
            biased;
            // The sender is here: it ends only by the switch.
            _ = offline.wait_for(|offline| *offline) => Err(self.error(Reason::Offline)),
            asked = self.ask_patiently(lane, ask, &accepts) => asked,
        };
        if let Err(error) = &asked {
            self.metrics.upstream_failures_total.with_label_values(&[self.name.as_str(), error.label()]).inc();
        }
        asked
    }

    /// Asks again after a short pause what failed in passing, if a client depends on it and within its patience.
    async fn ask_patiently(
        &self,
        lane: Lane,
        ask: &Ask<'_>,
        accepts: &impl Fn(&Answer) -> bool,
    ) -> Result<(&Origin, Answer), UpstreamError> {
        let retries = if ask.need == Need::Content && ask.effort == Effort::Patient { RETRIES } else { 0 };
        let (mut started, mut slot, mut failed) = (Instant::now(), None, None);
        let (mut retried, mut throttled) = (0, 0);
        loop {
            // A request that will be refused need not wait in line for that.
            if slot.is_none() && !self.origins.iter().all(|origin| origin.peek(ask).is_err()) {
                slot = Some(self.turn(lane, ask).await?);
                started = Instant::now();
            }
            let error = match self.ask_around(ask, accepts, retried == 0).await {
                Ok((origin, answer)) => return Ok((origin, Answer { slot, ..answer })),
                Err(error) => error,
            };
            let pause = match error.moment() {
                // One part more is not worth waiting for.
                Some(moment) if throttled < BRIEFS && ask.effort != Effort::Spare => {
                    throttled += u32::from(!error.was_not_asked());
                    Some(moment.max(LEAST) + (3 * LEAST).mul_f64(jitter()))
                }
                None if retried < retries && error.is_passing() => {
                    retried += 1;
                    Some(jittered(PAUSE * (1 << (retried - 1))))
                }
                _ => None,
            };
            let was_asked = !error.was_not_asked();
            // The first failure says more than that it was not asked again.
            let error = failed.take().filter(|_| !was_asked).unwrap_or(error);
            let Some(pause) = pause.filter(|pause| started.elapsed() + *pause <= self.config.response_timeout) else {
                return Err(error);
            };
            tracing::debug!(%error, "asking again");
            if was_asked {
                self.metrics.upstream_retries_total.with_label_values(&[self.name.as_str()]).inc();
            }
            failed = Some(error);
            tokio::time::sleep(pause).await;
        }
    }

    /// Waits for its turn: a layer as long as it takes, anything else as long as an answer may take, a spare part not at all.
    async fn turn(&self, lane: Lane, ask: &Ask<'_>) -> Result<Slot, UpstreamError> {
        if ask.effort == Effort::Spare {
            return self.queue.try_enter(lane).ok_or_else(|| self.error(Reason::Busy));
        }
        let turn = self.queue.enter(lane, ask.repository);
        let turn = match lane {
            Lane::Layer => turn.await.ok(),
            Lane::Small => tokio::time::timeout(self.config.response_timeout, turn).await.ok().and_then(Result::ok),
        };
        turn.ok_or_else(|| self.error(Reason::Busy))
    }

    /// Asks one address after the other, the healthy ones first.
    ///
    /// Every failure goes on to the next address: they are configured as equals, and one that has not what another one
    /// has is no authority. `counts`: a failure is news to the circuit breaker, and no repetition of the last one.
    async fn ask_around(
        &self,
        ask: &Ask<'_>,
        accepts: &impl Fn(&Answer) -> bool,
        counts: bool,
    ) -> Result<(&Origin, Answer), UpstreamError> {
        let mut origins: Vec<_> = self.origins.iter().map(|origin| (origin.health().rank(ask.traffic()), origin)).collect();
        origins.sort_by_key(|(rank, _)| *rank);
        let mut failed: Option<UpstreamError> = None;
        for (_, origin) in origins {
            let error = match self.ask_one(origin, ask, accepts, counts).await {
                Ok(answer) => return Ok((origin, answer)),
                Err(error) => error,
            };
            tracing::debug!(%error, kind = ask.kind.label(), "an address of the upstream did not give it");
            failed = Some(match failed {
                Some(earlier) => earlier.or(error),
                None => error,
            });
        }
        Err(failed.unwrap_or_else(|| self.error(Reason::Connect("it has no `url`".into()))))
    }

    async fn ask_one(
        &self,
        origin: &Origin,
        ask: &Ask<'_>,
        accepts: &impl Fn(&Answer) -> bool,
        counts: bool,
    ) -> Result<Answer, UpstreamError> {
        let refused = |reason| UpstreamError::new(&self.name, origin.host(), reason);
        let account = origin.auth().account(ask.repository);
        let admitted = origin.health().admit(account, ask.traffic(), ask.what(), ask.need).map_err(refused)?;
        let asked = match origin.ask(ask).await {
            Ok(answer) => {
                self.learn_quota(origin, &answer);
                if answer.response.status().is_success() || accepts(&answer) {
                    Ok(answer)
                } else {
                    let error = origin.client.refusal(&answer.url, answer.response).await;
                    Err(if answer.foreign { error.elsewhere() } else { error.made_as(answer.account) })
                }
            }
            Err(error) => Err(error),
        };
        let error = asked.as_ref().err();
        if counts || error.is_none_or(|error| error.fault().is_none()) {
            match admitted.answered(&origin.host(), error, jitter()) {
                Change::Opened => {
                    tracing::warn!(upstream = %self.name, address = origin.host(), error = error.map(tracing::field::display),
                        probe_every = ?self.config.breaker.probe_every, "an address of the upstream is down; it is only probed now");
                }
                Change::Failing(traffic) => {
                    tracing::warn!(upstream = %self.name, address = origin.host(), of = traffic.label(), error = error.map(tracing::field::display),
                        probe_every = ?self.config.breaker.probe_every, "an address of the upstream fails at all that it is asked of a kind; that is only probed now");
                }
                Change::Closed => tracing::info!(upstream = %self.name, address = origin.host(), "the upstream is back"),
                Change::None => {}
            }
        }
        asked
    }

    /// An address has given an answer that is of no use. From now on it is tried after the others: they are configured as
    /// equals, and something in front of this one may send pages in the place of content. Whether to ask again; `useless`
    /// counts such answers to one question.
    pub(super) fn give_way(&self, origin: &Origin, traffic: Traffic, useless: &mut usize, error: Option<&UpstreamError>) -> bool {
        origin.health().misled(traffic);
        *useless += 1;
        let another = *useless < self.origins.len();
        if another {
            tracing::warn!(upstream = %self.name, address = origin.host(), of = traffic.label(), error = error.map(tracing::field::display),
                "an address of the upstream sent what cannot be right; another one is asked");
        }
        another
    }

    fn learn_quota(&self, origin: &Origin, answer: &Answer) {
        let Some(quota) = quota::quota(answer.response.headers()).filter(|_| !answer.foreign) else { return };
        origin.health().told_quota(answer.account, quota);
        // What is exported is the mirror's own quota, which this one need not be.
        let Some(quota) = self.quota().filter(|_| !self.retired.load(Ordering::Acquire)) else { return };
        let labels = [self.name.as_str()];
        self.metrics.upstream_ratelimit_remaining.with_label_values(&labels).set(gauge(quota.remaining));
        if let Some(limit) = quota.limit {
            self.metrics.upstream_ratelimit_limit.with_label_values(&labels).set(gauge(limit));
        }
    }
}

/// A number from 0 to 1, another one each time. For spreading things out, not for secrets.
fn jitter() -> f64 {
    (RandomState::new().hash_one(0_u8) >> 11) as f64 / (1_u64 << 53) as f64
}

/// A pause, lengthened at random by up to its own length.
pub fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(1.0 + jitter())
}
