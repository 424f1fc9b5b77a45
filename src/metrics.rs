//! Every figure the mirror exports, in one struct that is passed down; no globals.
//!
//! The names are a contract: dashboards and alerts rely on them. A HELP text is the field's doc comment. Labels never
//! hold a repository name: a value is an upstream's configured name or a member of a closed set, such as [`Kind`] and
//! [`Outcome`]. Whoever decides something counts it there; the sum over `result` is the number of requests (I12).

mod begin;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::RwLock;
use prometheus::core::Collector;
use prometheus::process_collector::ProcessCollector;
use prometheus::proto::MetricFamily;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

/// What was asked for: the label `kind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `/manifests/`
    Manifest,
    /// `/blobs/`
    Blob,
    /// `/tags/list`
    Tags,
    /// `/referrers/`
    Referrers,
    /// `/v2/` itself and whatever is no pull. Not part of a hit rate. The last one, as [`Outcome::Local`] is.
    Other,
}

impl Kind {
    /// The label's value.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Manifest => "manifest",
            Self::Blob => "blob",
            Self::Tags => "tags",
            Self::Referrers => "referrers",
            Self::Other => "other",
        }
    }
}

/// How a request was answered: the label `result`. Every request ends in exactly one (I12).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// From the memory tier.
    Memory,
    /// From the disk tier.
    Disk,
    /// From a fill that another request had begun.
    Joined,
    /// By beginning a fill, or by an upstream answer that is not kept.
    Fill,
    /// From the cache, after the upstream confirmed the tag.
    Revalidated,
    /// From the cache, although the upstream could not confirm the tag.
    Stale,
    /// By a remembered or fresh "not found".
    Negative,
    /// Refused: not allowed here, or by the upstream.
    Denied,
    /// Not cached, and the mirror is offline.
    Offline,
    /// Refused: not a valid request.
    Invalid,
    /// Failed: the upstream or the mirror could not answer.
    Error,
    /// Answered here without cache or upstream, as `/v2/` is. The last one: [`Series`] counts them by it.
    Local,
}

impl Outcome {
    /// The label's value.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Disk => "disk",
            Self::Joined => "joined",
            Self::Fill => "fill",
            Self::Revalidated => "revalidated",
            Self::Stale => "stale",
            Self::Negative => "negative",
            Self::Denied => "denied",
            Self::Offline => "offline",
            Self::Invalid => "invalid",
            Self::Error => "error",
            Self::Local => "local",
        }
    }
}

/// Why something left the disk tier: the label `reason` of `evictions_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// To make room.
    Space,
    /// `unused_for` of its quota is over.
    Expired,
    /// An operator wanted it gone.
    Purged,
    /// Its bytes are not what its digest says.
    Damaged,
    /// An import brought it and had no use for it after all, as when it fails.
    Refused,
}

impl Removal {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Space, Self::Expired, Self::Purged, Self::Damaged, Self::Refused];

    /// The label's value.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Space => "space",
            Self::Expired => "expired",
            Self::Purged => "purged",
            Self::Damaged => "damaged",
            Self::Refused => "refused",
        }
    }
}

/// Declares [`Metrics`]: each field is registered as `roadstead_<field>`, its doc comment is the HELP text.
macro_rules! metrics {
    ($($(#[doc = $help:literal])+ $field:ident: $type:ty $([$($label:literal),+])?,)*) => {
        /// The mirror's metrics. Built once, shared by `Arc`.
        #[derive(Debug)]
        pub struct Metrics {
            registry: Registry,
            series: RwLock<HashMap<String, Arc<Series>>>,
            $($(#[doc = $help])+ pub $field: $type,)*
        }

        impl Metrics {
            /// All metrics at zero, in a registry of their own. Those of upstreams: see [`Metrics::begin_upstream`].
            pub fn new() -> Self {
                let registry = Registry::new();
                $(
                    let $field = <$type as Make>::make(
                        concat!("roadstead_", stringify!($field)), concat!($($help),+).trim(), &[$($($label),+)?]);
                    register(&registry, $field.clone());
                )*
                register(&registry, ProcessCollector::for_self());
                let all = Self { registry, series: RwLock::default(), $($field,)* };
                all.begin();
                all
            }
        }
    };
}

metrics! {
    /// Client requests, each counted once at the end of its body.
    requests_total: IntCounterVec ["upstream", "kind", "result"],
    /// Body bytes sent to clients.
    response_bytes_total: IntCounterVec ["upstream", "kind", "result"],
    /// Time from a request's head to the end of its answer.
    request_seconds: HistogramVec ["kind", "result"],
    /// Time from a request's head to the first body byte of its answer.
    first_byte_seconds: HistogramVec ["kind", "result"],
    /// Requests sent to upstreams; code is the status, or "error" where none came.
    upstream_requests_total: IntCounterVec ["upstream", "kind", "method", "code"],
    /// Body bytes received from upstreams.
    upstream_bytes_total: IntCounterVec ["upstream"],
    /// Time from a request to an upstream to the head of its answer.
    upstream_first_byte_seconds: HistogramVec ["upstream"],
    /// The pull quota that the upstream last told the mirror's own account (ratelimit-limit).
    upstream_ratelimit_limit: IntGaugeVec ["upstream"],
    /// What is left of the pull quota, as the upstream last told (ratelimit-remaining).
    upstream_ratelimit_remaining: IntGaugeVec ["upstream"],
    /// Answers of upstreams that said 429.
    upstream_throttled_total: IntCounterVec ["upstream"],
    /// Requests to upstreams that failed, or were not sent, by reason.
    upstream_failures_total: IntCounterVec ["upstream", "reason"],
    /// Requests to upstreams that were sent again after a passing failure.
    upstream_retries_total: IntCounterVec ["upstream"],
    /// What upstreams with `visibility = "caller"` said when they were asked whether a caller may read a repository.
    verdicts_total: IntCounterVec ["upstream", "verdict"],
    /// Manifest GETs in the place of HEADs, at upstreams whose HEAD does not tell a digest.
    upstream_head_fallbacks_total: IntCounterVec ["upstream"],
    /// Whether an address of an upstream is asked: 0 yes, 1 only for what is not cached, 2 no, but for probes. The worst of checks, manifests and blobs.
    upstream_breaker: IntGaugeVec ["upstream", "address"],
    /// For how long the mirror's own requests are still held back after a 429; 0 where none are.
    upstream_held_back_seconds: IntGaugeVec ["upstream"],
    /// Requests to upstreams under way, open downloads included.
    upstream_requests_running: IntGaugeVec ["upstream"],
    /// Requests to upstreams that wait for their turn.
    upstream_requests_waiting: IntGaugeVec ["upstream"],
    /// 1 while nothing is asked of an upstream because an operator wants it so.
    upstream_offline: IntGaugeVec ["upstream"],
    /// Tags that were served without the upstream's confirmation, by reason.
    stale_total: IntCounterVec ["upstream", "reason"],
    /// Manifest GETs of clients less those that the upstream was asked for, whatever for.
    pulls_saved_total: IntCounterVec ["upstream"],
    /// Downloads from upstreams now running.
    fills_in_flight: IntGauge,
    /// Requests to upstreams that now bring parts of large blobs.
    fill_parts_in_flight: IntGauge,
    /// Broken downloads that were continued.
    fill_resumes_total: IntCounterVec ["upstream"],
    /// Downloads that failed.
    fill_failures_total: IntCounterVec ["upstream", "reason"],
    /// Contents that did not have the digest they were asked for by.
    digest_mismatches_total: IntCounterVec ["upstream"],
    /// Images of a `[[prefetch]]`, by its place in the configuration, that its last run could not fetch.
    prefetch_failing: IntGaugeVec ["entry"],
    /// Bytes held by a tier of the cache, reservations included.
    cache_bytes: IntGaugeVec ["tier"],
    /// Objects held by a tier of the cache.
    cache_objects: IntGaugeVec ["tier"],
    /// The limit of a tier of the cache in bytes.
    cache_limit_bytes: IntGaugeVec ["tier"],
    /// Objects removed from the disk tier.
    evictions_total: IntCounterVec ["reason"],
    /// Files of the disk tier that were found damaged and set apart.
    cache_damaged_total: IntCounter,
    /// Bytes removed from the disk tier.
    evicted_bytes_total: IntCounter,
    /// Requests refused by the rules of access or its limits, by reason.
    access_refusals_total: IntCounterVec ["reason"],
    /// Passwords that were hashed to check them, by result; those of a pull after its first request are remembered.
    password_checks_total: IntCounterVec ["result"],
    /// Open client connections.
    connections: IntGauge,
    /// The limit on open client connections.
    connections_limit: IntGauge,
    /// Times that a client had to wait to be accepted, because that many connections were open.
    connections_waits_total: IntCounter,
    /// Client connections that were closed for what the client did, by reason.
    connections_refused_total: IntCounterVec ["reason"],
    /// When a certificate that clients are shown ends (Unix time), by its place in the configuration.
    tls_certificate_expiry_seconds: IntGaugeVec ["certificate"],
    /// Changed certificates that could not be used; the old ones stayed in use.
    tls_reload_failures_total: IntCounter,
    /// Always 1; its labels say what runs.
    build_info: IntGaugeVec ["version"],
}

impl Metrics {
    /// All samples as they are now, for figures that are computed from several.
    pub fn gather(&self) -> Vec<MetricFamily> {
        self.registry.gather()
    }

    /// The exposition text of `/metrics` (Prometheus text format 0.0.4).
    pub fn render(&self) -> String {
        let mut text = String::new();
        // Fails only for a metric without a name, and there is none.
        let _ = TextEncoder::new().encode_utf8(&self.registry.gather(), &mut text);
        text
    }
}

/// What a gauge shows, which has no room for the largest figures.
pub fn gauge(figure: impl TryInto<i64>) -> i64 {
    figure.try_into().unwrap_or(i64::MAX)
}

/// What every request of one upstream touches, so that its series are looked up by their labels once and not each time.
#[derive(Debug)]
struct Series {
    /// By [`Kind`] and [`Outcome`]. A series begins with the first request that is counted in it.
    answers: [[OnceLock<Answers>; Outcome::Local as usize + 1]; Kind::Other as usize + 1],
    pulls_saved: OnceLock<IntCounter>,
    /// Manifest GETs that the upstream was asked for and no client's GET is set against yet.
    pulls_made: AtomicU64,
}

/// The series of requests of one upstream, kind and outcome.
#[derive(Debug)]
struct Answers {
    requests: IntCounter,
    bytes: IntCounter,
    seconds: Histogram,
    first_byte: OnceLock<Histogram>,
}

impl Metrics {
    /// The series of an upstream: of a configured one, or "unknown".
    fn series(&self, upstream: &str) -> Arc<Series> {
        if let Some(series) = self.series.read().get(upstream) {
            return series.clone();
        }
        let mut all = self.series.write();
        let new =
            || Arc::new(Series { answers: Default::default(), pulls_saved: OnceLock::new(), pulls_made: AtomicU64::new(0) });
        all.entry(upstream.to_owned()).or_insert_with(new).clone()
    }

    /// Counts one request with all that is known of it (I12). Both times run from its head.
    pub fn count(
        &self,
        upstream: &str,
        kind: Kind,
        outcome: Outcome,
        bytes: u64,
        duration: Duration,
        first_byte: Option<Duration>,
    ) {
        let series = self.series(upstream);
        let answers = series.answers[kind as usize][outcome as usize].get_or_init(|| {
            let labels = [upstream, kind.label(), outcome.label()];
            Answers {
                requests: self.requests_total.with_label_values(&labels),
                bytes: self.response_bytes_total.with_label_values(&labels),
                seconds: self.request_seconds.with_label_values(&labels[1..]),
                first_byte: OnceLock::new(),
            }
        });
        answers.requests.inc();
        answers.bytes.inc_by(bytes);
        answers.seconds.observe(duration.as_secs_f64());
        if let Some(first_byte) = first_byte {
            let histogram = || self.first_byte_seconds.with_label_values(&[kind.label(), outcome.label()]);
            answers.first_byte.get_or_init(histogram).observe(first_byte.as_secs_f64());
        }
    }

    /// An upstream has answered a manifest GET, which it may count as a pull.
    pub fn pull_made(&self, upstream: &str) {
        self.series(upstream).pulls_made.fetch_add(1, Ordering::Relaxed);
    }

    /// A client has got the manifest that it had asked for by GET. A pull is saved by that, unless one was made: for this
    /// client, for a HEAD before, for a check that could only be a GET, for a prefetch. That is set against it.
    pub fn pull_answered(&self, upstream: &str) {
        let series = self.series(upstream);
        let made = series.pulls_made.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |made| made.checked_sub(1));
        if made.is_err() {
            series.pulls_saved.get_or_init(|| self.pulls_saved_total.with_label_values(&[upstream])).inc();
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

fn register(registry: &Registry, collector: impl Collector + 'static) {
    // Refused only for a name twice in one registry; `metrics_are_all_registered` would show it.
    let registered = registry.register(Box::new(collector));
    debug_assert!(registered.is_ok(), "{registered:?}");
}

/// From 1 ms, where a hit ends, to 5 min, where a large layer over a slow link does.
const SECONDS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];

trait Make: Sized {
    fn make(name: &str, help: &str, labels: &[&str]) -> Self;
}

macro_rules! make {
    ($($type:ty: |$name:ident, $help:ident, $labels:ident| $new:expr;)*) => {$(
        impl Make for $type {
            // Names and labels are constants, and a test makes them all.
            #[allow(clippy::expect_used)]
            fn make($name: &str, $help: &str, $labels: &[&str]) -> Self {
                $new.expect("valid metric")
            }
        }
    )*};
}

make! {
    IntCounter: |name, help, _labels| Self::new(name, help);
    IntGauge: |name, help, _labels| Self::new(name, help);
    IntCounterVec: |name, help, labels| Self::new(Opts::new(name, help), labels);
    IntGaugeVec: |name, help, labels| Self::new(Opts::new(name, help), labels);
    HistogramVec: |name, help, labels| Self::new(HistogramOpts::new(name, help).buckets(SECONDS.to_vec()), labels);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_all_registered() {
        let metrics = Metrics::new();
        metrics.requests_total.with_label_values(&["docker.io", Kind::Blob.label(), Outcome::Joined.label()]).inc();
        let text = metrics.render();
        assert!(text.contains("# HELP roadstead_fills_in_flight Downloads from upstreams now running."), "{text}");
        assert!(text.contains(r#"roadstead_requests_total{kind="blob",result="joined",upstream="docker.io"} 1"#), "{text}");
        assert!(text.contains("process_resident_memory_bytes"), "{text}");
    }
}
