//! Who may pull what. Gives the [`Permit`] without which nothing in `pull` begins.
//!
//! Owns the operator's `allow` and `deny` globs. Never looks into the cache or asks an upstream. Called by `server`
//! for every pull.

mod caller;
mod certificate;

use std::collections::BTreeMap;

use crate::config::{RepositoryRule, Upstream};
use crate::oci::{Repository, Scope, UpstreamName};

pub use caller::{Caller, Login, Peer};
pub use certificate::ClientCertificate;

/// The rules of one mirror.
#[derive(Debug)]
pub struct Policy {
    rules: BTreeMap<UpstreamName, RepositoryRule>,
}

/// Proof that the caller may pull from a repository. Only [`Policy::admit`] makes one.
#[derive(Clone, Debug)]
pub struct Permit {
    scope: Scope,
    login: Option<Login>,
}

impl Permit {
    /// What may be pulled from.
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// The caller's own login at the upstream, where the request brought one. Not checked by anybody yet.
    pub fn login(&self) -> Option<&Login> {
        self.login.as_ref()
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

    /// Whether the caller may pull from the repository.
    pub fn admit(&self, caller: &Caller<'_>, upstream: &UpstreamName, repository: &Repository) -> Result<Permit, Refused> {
        let scope = Scope { upstream: upstream.clone(), repository: repository.clone() };
        let allowed = self
            .rules
            .get(upstream)
            .is_some_and(|rule| rule.allow.is_match(repository.as_str()) && !rule.deny.is_match(repository.as_str()));
        let login = || Login::from_headers(caller.headers);
        if allowed { Ok(Permit { scope, login: login() }) } else { Err(Refused(scope)) }
    }
}
