//! Who may pull what. Gives the [`Permit`] without which nothing in `pull` begins.
//!
//! Owns the operator's `allow` and `deny` globs. Never looks into the cache or asks an upstream. Called by `server`
//! for every pull.

use std::collections::BTreeMap;

use crate::config::{RepositoryRule, Upstream};
use crate::oci::{Repository, Scope, UpstreamName};

/// The rules of one mirror.
#[derive(Debug)]
pub struct Policy {
    rules: BTreeMap<UpstreamName, RepositoryRule>,
}

/// Proof that the caller may pull from a repository. Only [`Policy::admit`] makes one.
#[derive(Clone, Debug)]
pub struct Permit(Scope);

impl Permit {
    /// What may be pulled from.
    pub fn scope(&self) -> &Scope {
        &self.0
    }
}

/// The rules say no.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} may not be pulled through this mirror: see allow and deny under [upstream.\"{upstream}\"]", upstream = .0.upstream)]
pub struct Refused(pub Scope);

impl Policy {
    /// The rules that the configuration holds.
    pub fn new<'a>(upstreams: impl IntoIterator<Item = (&'a UpstreamName, &'a Upstream)>) -> Self {
        Self { rules: upstreams.into_iter().map(|(name, upstream)| (name.clone(), upstream.repositories.clone())).collect() }
    }

    /// Whether anybody may pull from the repository.
    pub fn admit(&self, upstream: &UpstreamName, repository: &Repository) -> Result<Permit, Refused> {
        let scope = Scope { upstream: upstream.clone(), repository: repository.clone() };
        let allowed = self
            .rules
            .get(upstream)
            .is_some_and(|rule| rule.allow.is_match(repository.as_str()) && !rule.deny.is_match(repository.as_str()));
        if allowed { Ok(Permit(scope)) } else { Err(Refused(scope)) }
    }
}
