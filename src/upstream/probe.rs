//! Is this upstream well? Asked step by step, for `roadstead check --online`: what works, what fails, what to do.
//!
//! Goes the same way as a pull, by the same functions, and stops an address at its first failure. Its texts show names of
//! accounts and hosts, never a secret (I9).

use std::time::Duration;

use http::StatusCode;
use url::Url;

use super::Upstream;
use super::auth::Grant;
use super::challenge;
use super::client::{authority, remark};
use super::error::{Reason, UpstreamError};
use super::request::Origin;
use crate::metrics::Kind;
use crate::oci::{Reference, Repository, Scope};

/// For looking a name up.
const LOOK_UP: Duration = Duration::from_secs(10);

/// One step of an examination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// What was tried.
    pub what: String,
    /// What came of it; an error says what to do, too.
    pub outcome: Result<String, String>,
}

impl Upstream {
    /// Walks every address: name, connection and TLS, `/v2/`, credentials, token; then a HEAD of each of `images`.
    /// `some_repository` is what a token is asked for when there is no image. Cancel-safe.
    pub async fn examine(&self, images: &[(Repository, Reference)], some_repository: &Repository) -> Vec<Step> {
        let mut steps = Vec::new();
        let repository = images.first().map_or(some_repository, |(repository, _)| repository);
        for origin in &self.origins {
            if let Err(error) = walk(origin, repository, &mut steps).await {
                let what = steps.pop().map(|step| step.what).unwrap_or_default();
                steps.push(Step { what, outcome: Err(told(&error)) });
            }
        }
        for (repository, reference) in images {
            let outcome = self.resolve(repository, reference).await;
            let outcome = outcome.map(|resolved| resolved.digest.to_string()).map_err(|error| told(&error));
            let scope = Scope { upstream: self.name().clone(), repository: repository.clone() };
            steps.push(Step { what: format!("HEAD {}", scope.image(reference.clone())), outcome });
        }
        steps
    }
}

/// Tries one address. A step is on the list while it is tried, so that an error belongs to the last one.
async fn walk(origin: &Origin, repository: &Repository, steps: &mut Vec<Step>) -> Result<(), UpstreamError> {
    let (url, client) = (origin.url(), &origin.client);
    begin(steps, format!("name {}", url.host_str().unwrap_or_default()));
    let found = if client.is_proxied(url) {
        "left to the proxy".to_owned()
    } else {
        look_up(url).await.map_err(|reason| client.error(url, reason))?
    };
    note(steps, found);

    begin(steps, format!("GET {}", origin.base_url()));
    let response = origin.base(None).await?;
    let (status, challenges) = (response.status(), challenge::challenges(response.headers()));
    if !status.is_success() && status != StatusCode::UNAUTHORIZED {
        return Err(client.refusal(url, response).await);
    }
    drop(remark(response.into_body()).await);
    let encrypted = if url.scheme() == "https" { "TLS and HTTP work" } else { "HTTP works" };
    note(steps, format!("{encrypted} ({})", status.as_u16()));
    let Some(challenge) = challenge::preferred(&challenges).filter(|_| status == StatusCode::UNAUTHORIZED) else {
        return Ok(());
    };

    begin(steps, "credentials".into());
    let (credential, refused) = origin.auth().examine(client, repository, challenge).await?;
    let account = match credential.as_deref().map(|credential| credential.username().unwrap_or("an identity token")) {
        Some(name) => format!("of {name}"),
        None => "none, anonymous".to_owned(),
    };
    note(steps, account);
    if let (Some(realm), Some(_)) = (refused, credential) {
        let realm = authority(&realm);
        let text = format!(
            "the token service is {realm}, which does not get the credentials; if you trust it, add {realm:?} to `token_realms`"
        );
        steps.push(Step { what: "realm".into(), outcome: Err(text) });
    }

    begin(steps, format!("sign-in ({})", challenge.scheme));
    let grant = origin.auth().answer(client, Kind::Other, repository, challenge).await?;
    match grant {
        Grant::Bearer(_, wanted) => note(steps, format!("a token of {}", authority(&wanted.realm))),
        // Only an answer tells whether a password is right.
        grant => {
            let response = origin.base(grant.header()).await?;
            if response.status() == StatusCode::UNAUTHORIZED {
                return Err(client.error(url, Reason::CredentialsRefused(response.status())));
            }
            note(steps, "the password is accepted".to_owned());
        }
    }
    Ok(())
}

fn begin(steps: &mut Vec<Step>, what: String) {
    steps.push(Step { what, outcome: Ok(String::new()) });
}

fn note(steps: &mut [Step], text: String) {
    if let Some(step) = steps.last_mut() {
        step.outcome = Ok(text);
    }
}

async fn look_up(url: &Url) -> Result<String, Reason> {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let found =
        tokio::time::timeout(LOOK_UP, tokio::net::lookup_host((host, url.port_or_known_default().unwrap_or_default()))).await;
    let found =
        found.map_err(|_| Reason::Timeout(LOOK_UP))?.map_err(|error| Reason::Connect(format!("name resolution: {error}")))?;
    let mut addresses: Vec<_> = found.map(|address| address.ip().to_string()).collect();
    addresses.dedup();
    Ok(addresses.join(", "))
}

/// An error, and what to do about it where its own words do not say so.
fn told(error: &UpstreamError) -> String {
    let remedy = match error.reason() {
        Reason::Connect(text) if text.contains("`client_cert`") => return error.to_string(),
        Reason::Connect(text) if text.contains("certificate") => {
            "if its certificate is of a private authority, or a proxy looks into TLS, put that authority into `ca`"
        }
        Reason::Connect(text) if text.contains("name resolution") || text.contains("dns") => {
            "check the name in `url` and the resolver of this machine"
        }
        Reason::Connect(_) | Reason::Timeout(_) | Reason::NoAnswer(_) => "check `url`, firewalls, HTTPS_PROXY and NO_PROXY",
        Reason::NotFound { .. } => "check the name, and a path in `url`",
        Reason::RateLimited { .. } => "wait, or sign in: see `credentials`",
        Reason::Failing(_) => "the registry is at fault; try again later",
        Reason::Status(_) => "check `url`: is this a registry?",
        Reason::Forbidden(_) => "if this is right, name that host in `token_realms`",
        _ => return error.to_string(),
    };
    format!("{error}; {remedy}")
}
