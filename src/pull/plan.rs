//! What is done about a tag, decided before anybody is asked.
//!
//! Decided here alone, for the pull itself ([`super::resolve`]) and for whoever tells an operator what a pull would do
//! ([`Pull::forecast`]), so that the two cannot differ. Asks nobody and changes nothing.

use std::time::Duration;

use super::Pull;
use crate::cache::records::TagRecord;
use crate::clock::Moment;
use crate::config::Terms;
use crate::oci::{Scope, Tag};
use crate::upstream::{Readiness, Upstream};

/// What follows from the age of a record. Pure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// Answer from the record: it is fresh.
    Fresh,
    /// Answer from the record, and check it behind.
    Behind,
    /// Check it; answer from the record if that fails or takes longer than this.
    Check(Duration),
    /// Check it; without an answer there is none for the client.
    Need,
}

impl Plan {
    /// `age` is the record's, where there is one. `check`: the client wants to know that it is current.
    pub fn of(age: Option<Duration>, terms: &Terms, check: bool) -> Self {
        let Some(age) = age else { return Self::Need };
        if age < terms.fresh_for && !check {
            Self::Fresh
        } else if age < terms.fresh_for.saturating_add(terms.stale_while_revalidate) && !check {
            Self::Behind
        } else if age <= terms.fresh_for.saturating_add(terms.stale_if_error) {
            Self::Check(terms.revalidate_within)
        } else {
            Self::Need
        }
    }
}

/// The age of a record. One from the future was written under a wrong clock, now or then: it is due, and no more is known.
pub(super) fn age(now: Moment, record: &TagRecord, fresh_for: Duration) -> Duration {
    now.since(record.checked_at).unwrap_or(fresh_for)
}

/// What a pull does about a tag, as its upstream stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Course {
    /// Answers from the record.
    Fresh,
    /// Answers from the record, and has it checked behind the answer.
    Behind {
        /// There is a check to be had: always, but at the end of a quota.
        may_check: bool,
    },
    /// Answers from the record although it is not fresh.
    Stale {
        /// Why, for the client's log.
        why: String,
        /// Why, in a word.
        reason: &'static str,
        /// It is checked behind the answer.
        behind: bool,
    },
    /// Checks it; answers from the record if that fails or takes longer than this.
    Check(Duration),
    /// Checks it; without an answer there is none for the client.
    Need,
    /// Fails: there is no record, and nobody to ask.
    Nothing,
}

impl Course {
    /// `record`: of a tag whose manifest is here.
    pub(super) fn of(plan: Plan, record: Option<&TagRecord>, upstream: &Upstream) -> Self {
        let offline = upstream.is_offline();
        let Some(record) = record else { return if offline { Self::Nothing } else { Self::Need } };
        if record.imported && offline {
            // What was carried here is as good as it gets.
            return Self::Fresh;
        }
        let stale = |why: &str, reason, behind| Self::Stale { why: why.to_owned(), reason, behind };
        match plan {
            Plan::Fresh => Self::Fresh,
            // However old it is: there is nobody to ask.
            Plan::Need if offline => stale("the mirror is offline", "offline", false),
            Plan::Need => Self::Need,
            Plan::Behind => match upstream.readiness() {
                Readiness::Away(error) => stale(&error.to_string(), error.label(), false),
                Readiness::Ready | Readiness::Probe => Self::Behind { may_check: upstream.may_work_behind() },
            },
            Plan::Check(within) => match upstream.readiness() {
                Readiness::Ready => Self::Check(within),
                // Whether it is back is seen without a client's waiting for it.
                Readiness::Probe => stale("the upstream has failed; it is tried again", "breaker", true),
                Readiness::Away(error) => stale(&error.to_string(), error.label(), false),
            },
        }
    }
}

/// What a pull of a tag would come to.
#[derive(Clone, Debug)]
pub struct Forecast {
    /// What holds for the tag.
    pub terms: Terms,
    /// How long ago it was checked; `None`: under a wrong clock.
    pub age: Option<Duration>,
    /// What the pull would do.
    pub course: Course,
}

impl Pull {
    /// What a pull would do now about a tag that has this record; `here`: so is the manifest that it names. `None` if the
    /// upstream is not mirrored.
    pub fn forecast(&self, scope: &Scope, tag: &Tag, record: &TagRecord, here: bool) -> Option<Forecast> {
        let site = self.site_of(&scope.upstream)?;
        let terms = site.freshness.terms(scope.repository.as_str(), tag.as_str());
        let now = self.clock.now();
        let plan = Plan::of(here.then(|| age(now, record, terms.fresh_for)), &terms, false);
        let course = Course::of(plan, here.then_some(record), &site.upstream);
        Some(Forecast { terms, age: now.since(record.checked_at), course })
    }
}
