//! For how long a tag is believed, and what that comes to for one tag.

use std::time::Duration;

use super::{Globs, TagPatterns};

/// `[freshness]`, and the same keys under an upstream: for how long a tag is believed. Digests never go stale.
#[derive(Clone, Debug, PartialEq)]
pub struct Freshness {
    /// `fresh_for`: no upstream contact within this after a tag was checked. `Duration::MAX` for ever, as with the next three.
    pub fresh_for: Duration,
    /// `revalidate_within`: how long a client waits for the check before it gets the cached tag.
    pub revalidate_within: Duration,
    /// `stale_while_revalidate`: for so long after `fresh_for` the cached tag is served at once and checked behind.
    pub stale_while_revalidate: Duration,
    /// `stale_if_error`: how old a tag may be served when the upstream cannot be asked.
    pub stale_if_error: Duration,
    /// `negative`: for how long a 404 is remembered.
    pub negative: Duration,
    /// `immutable_tags`: tags that are never checked again.
    pub immutable_tags: TagPatterns,
    /// `no_cache`: a client's `Cache-Control: no-cache` has the tag checked, however fresh it or a "not found" of it is.
    pub no_cache: bool,
    /// `[[freshness.rule]]`: the first one that matches changes what stands above. An upstream's own come first.
    pub rules: Vec<FreshnessRule>,
}

/// `[[freshness.rule]]`: other times for some tags of some repositories.
#[derive(Clone, Debug, PartialEq)]
pub struct FreshnessRule {
    /// `repositories`: globs over repository names.
    pub repositories: Globs,
    /// `tags`: regular expressions over tags.
    pub tags: TagPatterns,
    /// Its times; `None` where the rule says nothing.
    pub fresh_for: Option<Duration>,
    /// As above.
    pub revalidate_within: Option<Duration>,
    /// As above.
    pub stale_while_revalidate: Option<Duration>,
    /// As above.
    pub stale_if_error: Option<Duration>,
    /// As above.
    pub negative: Option<Duration>,
    /// As above.
    pub no_cache: Option<bool>,
}

/// What [`Freshness`] comes to for one tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// See [`Freshness`], as all the others.
    pub fresh_for: Duration,
    /// See there.
    pub revalidate_within: Duration,
    /// See there.
    pub stale_while_revalidate: Duration,
    /// See there.
    pub stale_if_error: Duration,
    /// See there.
    pub negative: Duration,
    /// See there.
    pub no_cache: bool,
}

impl Freshness {
    /// What holds for a tag of a repository. A rule that names `fresh_for` has precedence over `immutable_tags`.
    pub fn terms(&self, repository: &str, tag: &str) -> Terms {
        let rule = self.rules.iter().find(|rule| rule.tags.is_match(tag) && rule.repositories.is_match(repository));
        let own = |of: fn(&FreshnessRule) -> Option<Duration>, general| rule.and_then(of).unwrap_or(general);
        let ever = rule.and_then(|rule| rule.fresh_for).is_none() && self.immutable_tags.is_match(tag);
        Terms {
            fresh_for: if ever { Duration::MAX } else { own(|rule| rule.fresh_for, self.fresh_for) },
            revalidate_within: own(|rule| rule.revalidate_within, self.revalidate_within),
            stale_while_revalidate: own(|rule| rule.stale_while_revalidate, self.stale_while_revalidate),
            stale_if_error: own(|rule| rule.stale_if_error, self.stale_if_error),
            negative: own(|rule| rule.negative, self.negative),
            no_cache: rule.and_then(|rule| rule.no_cache).unwrap_or(self.no_cache),
        }
    }
}
