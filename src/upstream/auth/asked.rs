//! What a challenge asks for: realm, service and scopes (distribution-spec's token authentication). Pure; called by [`super`].

use url::Url;

use super::super::challenge::Challenge;
use super::super::client::Client;
use super::super::error::{Reason, UpstreamError};
use super::super::realm;
use super::super::token::Wanted;
use crate::oci::Repository;

/// A challenge names a scope that the token was not asked for with: listing tags may need another one than pulling.
pub(super) fn asks_for_more(challenge: &Challenge, wanted: &Wanted) -> bool {
    let asked = challenge.parameter("scope").unwrap_or_default();
    asked.split_whitespace().any(|scope| !wanted.scopes.iter().any(|held| held == scope))
}

/// What a Bearer challenge of `host` asks for; anonymously, until a credential is put in that the realm may see.
pub(super) fn asked_for(
    client: &Client,
    host: &Url,
    challenge: &Challenge,
    scopes: Vec<String>,
) -> Result<Wanted, UpstreamError> {
    let realm = realm::parse(host, challenge.parameter("realm").unwrap_or_default())
        .map_err(|error| client.error(host, Reason::Invalid(error.to_string())))?;
    let service = challenge.parameter("service").map(ToOwned::to_owned);
    Ok(Wanted { realm, service, scopes, credential: None, not_before: None })
}

/// The scopes of a challenge, else the one that pulling needs.
pub(super) fn scopes(challenge: &Challenge, repository: &Repository) -> Vec<String> {
    let scopes = named_scopes(challenge);
    if scopes.is_empty() { vec![pull_scope(repository.as_str())] } else { scopes }
}

/// The scopes that a challenge names, sorted and without repetitions.
pub(super) fn named_scopes(challenge: &Challenge) -> Vec<String> {
    let asked = challenge.parameter("scope").unwrap_or_default();
    let mut scopes: Vec<String> = asked.split_whitespace().map(ToOwned::to_owned).collect();
    scopes.sort();
    scopes.dedup();
    scopes
}

pub(super) fn pull_scope(repository: &str) -> String {
    format!("repository:{repository}:pull")
}
