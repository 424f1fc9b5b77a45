//! The counters that exist before there is anything to count, at 0.
//!
//! One that is born with its first event is born at 1, and Prometheus' `increase()` over it is 0: the first event would
//! raise no alert, and a ratio with it would be "no data". So whatever has labels of a closed set begins here, and the sets
//! stand here; a test holds them against the source that counts. What has an open set (statuses) or a very large one
//! (requests by upstream, kind and result) begins with its first event.

use super::{Metrics, Removal};

/// Why an upstream cannot confirm a tag: reasons of `stale_total` and of `upstream_failures_total`.
const OUTAGES: [&str; 12] = [
    "breaker",
    "broken",
    "busy",
    "connect",
    "credentials",
    "failing",
    "held_back",
    "invalid",
    "no_answer",
    "offline",
    "rate_limited",
    "timeout",
];
/// What is an answer all the same: reasons of `upstream_failures_total`.
const ANSWERS: [&str; 2] = ["denied", "not_found"];
/// The mirror's own reasons of `stale_total`.
const UNCONFIRMED: [&str; 3] = ["internal", "revalidating", "slow"];
/// Reasons of `fill_failures_total`. "publish": it came whole, and is not kept.
const FILLS: [&str; 15] = [
    "abandoned",
    "broken",
    "denied",
    "digest",
    "internal",
    "invalid",
    "leftover",
    "length",
    "no_room",
    "not_found",
    "offline",
    "publish",
    "rate_limited",
    "stopping",
    "unavailable",
];
const VERDICTS: [&str; 5] = ["limited", "no", "not_found", "unknown", "yes"];
const ACCESS: [&str; 6] = ["bad_token", "denied", "sign_in", "too_many", "too_many_fills", "wrong_password"];
const PASSWORDS: [&str; 3] = ["locked_out", "right", "wrong"];
const CONNECTIONS: [&str; 9] =
    ["certificate", "flood", "handshake", "handshake_timeout", "head_size", "head_timeout", "malformed", "per_client", "stalled"];

impl Metrics {
    /// What has no upstream.
    pub(super) fn begin(&self) {
        Removal::ALL.iter().for_each(|removal| drop(self.evictions_total.with_label_values(&[removal.label()])));
        for (counter, values) in [
            (&self.access_refusals_total, &ACCESS[..]),
            (&self.password_checks_total, &PASSWORDS),
            (&self.connections_refused_total, &CONNECTIONS),
        ] {
            values.iter().for_each(|value| drop(counter.with_label_values(&[value])));
        }
    }

    /// What each upstream has, configured or found in the cache; called when it is set up. `judges`: it is asked whether
    /// callers may read.
    pub fn begin_upstream(&self, upstream: &str, judges: bool) {
        for counter in [
            &self.upstream_bytes_total,
            &self.upstream_throttled_total,
            &self.upstream_retries_total,
            &self.upstream_head_fallbacks_total,
            &self.pulls_saved_total,
            &self.fill_resumes_total,
            &self.digest_mismatches_total,
        ] {
            counter.with_label_values(&[upstream]);
        }
        for (counter, values) in [
            (&self.upstream_failures_total, &OUTAGES[..]),
            (&self.upstream_failures_total, &ANSWERS),
            (&self.stale_total, &OUTAGES),
            (&self.stale_total, &UNCONFIRMED),
            (&self.fill_failures_total, &FILLS),
            (&self.verdicts_total, if judges { &VERDICTS } else { &[] }),
        ] {
            values.iter().for_each(|value| drop(counter.with_label_values(&[upstream, value])));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The words that stand in a function as `"word"`.
    fn words<'a>(source: &'a str, function: &str) -> BTreeSet<&'a str> {
        let (_, rest) = source.split_once(&format!("fn {function}(")).unwrap();
        let (body, _) = rest.split_once("\n    }\n").unwrap();
        let word = |text: &&str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        body.split('"').skip(1).step_by(2).filter(word).collect()
    }

    fn set<'a>(of: &[&[&'a str]]) -> BTreeSet<&'a str> {
        of.concat().into_iter().collect()
    }

    /// A reason that the source has and these lists have not would be born at 1; one that it has not would stay at 0.
    #[test]
    fn the_sets_are_those_that_the_source_counts() {
        let upstream = include_str!("../upstream/error.rs");
        assert_eq!(words(upstream, "label"), set(&[&OUTAGES, &ANSWERS]));
        assert_eq!(words(include_str!("../fill.rs"), "reason"), &set(&[&FILLS]) - &set(&[&["publish"]]));
        let (_, course) = include_str!("../pull/plan.rs").split_once("impl Course").unwrap();
        let resolve = &words(include_str!("../pull/resolve.rs"), "confirm") | &words(course, "of");
        assert!(resolve.is_superset(&set(&[&UNCONFIRMED])) && resolve.is_subset(&set(&[&OUTAGES, &UNCONFIRMED])), "{resolve:?}");
        assert_eq!(words(include_str!("../pull/visibility/verdicts.rs"), "check"), set(&[&VERDICTS]));
        let access = &set(&[&ACCESS]) - &set(&[&["too_many_fills"]]);
        assert_eq!(words(include_str!("../policy/refused.rs"), "label"), access);
        let passwords = include_str!("../policy/passwords.rs");
        assert_eq!(&words(passwords, "check") | &words(passwords, "bcrypt"), set(&[&PASSWORDS]));
        assert_eq!(words(include_str!("../server/limits.rs"), "label"), set(&[&CONNECTIONS]));
    }

    #[test]
    fn every_reason_to_remove_something_is_among_all_and_documented() {
        let all: BTreeSet<&str> = Removal::ALL.iter().map(|removal| removal.label()).collect();
        let (_, removal) = include_str!("../metrics.rs").split_once("impl Removal").unwrap();
        assert_eq!(words(removal, "label"), all);
        let manual = include_str!("../../docs/OPERATIONS.md");
        let line = manual.lines().find(|line| line.starts_with("| `roadstead_evictions_total`")).unwrap();
        for label in all {
            assert!(line.contains(&format!("`{label}`")), "docs/OPERATIONS.md lacks {label}: {line}");
        }
    }
}
