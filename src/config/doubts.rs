//! What may be right, and seldom is what was meant: said, and no error.

use super::reach::{Of, own_name};
use super::{Config, FreshnessRule};

impl Config {
    /// Patterns of repositories that begin with a registry's name. A registry may hold the images of others under their
    /// names; it seldom holds its own so. One line each, with the key.
    pub fn doubts(&self) -> Vec<String> {
        let mut doubts = Vec::new();
        for (name, upstream) in &self.upstreams {
            let of = Of { name, hosts: &upstream.hosts };
            let rules = &upstream.freshness.rules;
            // Behind its own rules stand the general ones.
            let own = rules.get(..rules.len().saturating_sub(self.freshness.rules.len())).unwrap_or_default();
            let lists = [("allow", upstream.repositories.allow.patterns()), ("deny", upstream.repositories.deny.patterns())];
            let lists = lists.into_iter().chain(own.iter().map(|rule| ("freshness.rule.repositories", patterns(rule))));
            for (key, pattern) in lists.flat_map(|(key, patterns)| patterns.iter().map(move |pattern| (key, pattern))) {
                doubts.extend(own_name(pattern, of).map(|rest| {
                    format!(
                        "upstream.{:?}.{key}: {pattern:?} matches only repositories of {name} that begin with its own name; \
                         to mean the others, write {rest:?}",
                        name.as_str()
                    )
                }));
            }
        }
        for pattern in self.freshness.rules.iter().flat_map(patterns) {
            let named = self
                .upstreams
                .iter()
                .find_map(|(name, upstream)| own_name(pattern, Of { name, hosts: &upstream.hosts }).map(|rest| (name, rest)));
            doubts.extend(named.map(|(name, rest)| {
                format!(
                    "freshness.rule.repositories: {pattern:?} matches only repositories that begin with the name of a registry; \
                     for those of {name}, write {rest:?} under [upstream.{:?}.freshness]",
                    name.as_str()
                )
            }));
        }
        doubts
    }
}

fn patterns(rule: &FreshnessRule) -> &[String] {
    rule.repositories.patterns()
}
