//! How an upstream stands: whether to ask it, what is left of its quota, whether it is switched off; for the pull path,
//! background work, metrics and the admin interface.

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::accounts::Told;
use super::breaker::{Condition, Verdict};
use super::error::{Reason, UpstreamError};
use super::health::Readiness;
use super::queue::Crowd;
use super::traffic::Traffic;
use super::{Quota, Upstream};
use crate::metrics::gauge;

/// At a quota's end: how often work that nobody waits for is done all the same. It also shows when the quota is back.
const SLOWED: Duration = Duration::from_secs(60);

/// Whether work is due that was last done then.
fn is_due(last: Option<Instant>, now: Instant) -> bool {
    last.is_none_or(|last| now >= last + SLOWED)
}

impl Upstream {
    /// What the upstream last said of the pull quota of the mirror's account, if it has one. Of several accounts, or
    /// addresses, it is the one with the fewest pulls left; what callers' own logins have left is not among them.
    pub fn quota(&self) -> Option<Quota> {
        let now = Instant::now();
        let told = self.origins.iter().flat_map(|origin| origin.health().quotas());
        told.min_by_key(|told| (told.is_outdated(now), told.quota.remaining)).map(|told| told.quota)
    }

    /// The pulls that are left, if they are no more than `quota_reserve` keeps for clients: of the account that has the
    /// fewest, whatever repository they are for.
    pub fn kept_for_clients(&self) -> Option<u64> {
        let now = Instant::now();
        let is_low = |told: &Told| {
            let reserve = self.config.quota_reserve.of(told.quota.limit);
            told.quota.remaining <= reserve && reserve > 0 && !told.is_outdated(now)
        };
        let told = self.origins.iter().flat_map(|origin| origin.health().quotas());
        told.filter(is_low).map(|told| told.quota.remaining).min()
    }

    /// Whether a piece of work that no client waits for may be done now: always, unless the quota has come down to
    /// `quota_reserve`; then once a minute. Only looks: whoever does the work takes its turn ([`Self::take_turn_behind`]).
    pub fn may_work_behind(&self) -> bool {
        self.kept_for_clients().is_none() || is_due(*self.spared.lock(), Instant::now())
    }

    /// As [`Self::may_work_behind`], just before the work: the next one is a minute away, if they are.
    pub fn take_turn_behind(&self) -> bool {
        if self.kept_for_clients().is_none() {
            return true;
        }
        let (mut last, now) = (self.spared.lock(), Instant::now());
        let due = is_due(*last, now);
        if due {
            *last = Some(now);
        }
        due
    }

    /// Whether nothing is to be asked of it.
    pub fn is_offline(&self) -> bool {
        *self.offline.borrow()
    }

    /// Switches it off, or on again. Off: from now on not one packet goes out; what is under way is broken off.
    pub fn set_offline(&self, offline: bool) {
        if self.offline.send_replace(offline) != offline {
            let state = if offline { "offline" } else { "online" };
            tracing::warn!(upstream = %self.name, state, "switched by an operator");
        }
    }

    /// Whether to ask for a tag that could be answered from the cache, too.
    pub fn readiness(&self) -> Readiness {
        if self.is_offline() {
            return Readiness::Away(self.error(Reason::Offline));
        }
        let mut probe = false;
        let mut away: Option<UpstreamError> = None;
        for origin in &self.origins {
            match origin.peek_at_checks() {
                // A silence of a moment is waited out by whoever asks.
                Ok(Verdict::Go) | Err(Reason::HeldBack { brief: true, .. }) => return Readiness::Ready,
                Ok(_) => probe = true,
                Err(reason) => away = Some(UpstreamError::new(&self.name, origin.host(), reason)),
            }
        }
        match away {
            Some(error) if !probe => Readiness::Away(error),
            _ => Readiness::Probe,
        }
    }

    /// A client did not wait for its answer to the end: the next ones, who have something cached, need not begin to.
    pub fn note_slow(&self) {
        self.origins.iter().for_each(|origin| origin.health().slow());
    }

    /// Requests under way and waiting.
    pub fn crowd(&self) -> Crowd {
        self.queue.crowd()
    }

    /// It is no upstream of the mirror any more: it has no gauges. What was begun with it ends as ever.
    pub fn retire(&self) {
        self.retired.store(true, Ordering::Release);
        let upstream = self.name.as_str();
        for origin in &self.origins {
            let _ = self.metrics.upstream_breaker.remove_label_values(&[upstream, &origin.host()]);
        }
        for gauge in [
            &self.metrics.upstream_held_back_seconds,
            &self.metrics.upstream_requests_running,
            &self.metrics.upstream_requests_waiting,
            &self.metrics.upstream_offline,
            &self.metrics.upstream_ratelimit_limit,
            &self.metrics.upstream_ratelimit_remaining,
        ] {
            let _ = gauge.remove_label_values(&[upstream]);
        }
    }

    /// Brings the gauges up to date.
    pub fn measure(&self) {
        if self.retired.load(Ordering::Acquire) {
            return;
        }
        let upstream = self.name.as_str();
        for origin in &self.origins {
            let open = match worst(origin).1 {
                Condition::Closed => 0,
                Condition::Suspect => 1,
                Condition::Open => 2,
            };
            self.metrics.upstream_breaker.with_label_values(&[upstream, &origin.host()]).set(open);
        }
        let held = |traffic| self.origins.iter().filter_map(|origin| origin.health().held(traffic)).max();
        let held = Traffic::ALL.into_iter().filter_map(held).max();
        self.metrics.upstream_held_back_seconds.with_label_values(&[upstream]).set(held.map_or(0, |held| gauge(held.as_secs())));
        let crowd = self.crowd();
        self.metrics.upstream_requests_running.with_label_values(&[upstream]).set(gauge(crowd.running));
        self.metrics.upstream_requests_waiting.with_label_values(&[upstream]).set(gauge(crowd.waiting));
        self.metrics.upstream_offline.with_label_values(&[upstream]).set(i64::from(self.is_offline()));
    }

    /// Why it is not asked now: of every address the breaker is open, at least for tags, with which a pull begins. `None`
    /// while one of them may answer.
    pub fn outage(&self) -> Option<String> {
        let is_open = |origin: &super::Origin| origin.health().condition(Traffic::Check) == Condition::Open;
        let all = !self.origins.is_empty() && self.origins.iter().all(is_open);
        let why = || self.origins.iter().find_map(|origin| origin.health().why(Traffic::Check));
        all.then(|| why().unwrap_or_else(|| "too many failures".to_owned()))
    }

    /// All of it as JSON.
    pub fn status(&self) -> Value {
        let held = |origin: &super::Origin, traffic| origin.health().held(traffic).map(|held| held.as_secs_f64());
        let addresses: Vec<Value> = self
            .origins
            .iter()
            .map(|origin| {
                let (traffic, state) = worst(origin);
                let is_open = |traffic: &Traffic| origin.health().condition(*traffic) == Condition::Open;
                json!({
                    "host": origin.host(),
                    "state": state.label(),
                    "why": origin.health().why(traffic),
                    "only_probed": Traffic::ALL.into_iter().filter(is_open).map(Traffic::label).collect::<Vec<_>>(),
                    "head": origin.health().knows_head(),
                    "held_back_seconds": {
                        "checks": held(origin, Traffic::Check),
                        "manifests": held(origin, Traffic::Pull),
                        "blobs": held(origin, Traffic::Layer),
                    },
                })
            })
            .collect();
        let quota = self.quota().map(|quota| {
            json!({
                "limit": quota.limit,
                "remaining": quota.remaining,
                "window_seconds": quota.window.map(|window| window.as_secs()),
                "source": quota.source,
            })
        });
        let crowd = self.crowd();
        json!({
            "upstream": self.name.as_str(),
            "offline": self.is_offline(),
            "addresses": addresses,
            "quota": quota,
            "requests": { "running": crowd.running, "waiting": crowd.waiting },
        })
    }
}

/// The kind of request that an address is least asked for, and how.
fn worst(origin: &super::Origin) -> (Traffic, Condition) {
    let of = |traffic| (traffic, origin.health().condition(traffic));
    Traffic::ALL.into_iter().map(of).max_by_key(|(_, condition)| *condition).unwrap_or(of(Traffic::Check))
}
