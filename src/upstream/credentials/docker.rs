//! Docker's `config.json`: what `docker login` wrote, for one registry. Also `.dockercfg`, its older form.
//!
//! Precedence as in docker: `credHelpers` for this host, then `credsStore`, then `auths`. The file is read again when
//! it has changed, at most once a second; a helper's answer is kept for some minutes, its failure for some seconds, and
//! one task asks for all (a lock is held meanwhile). Keys that name a path below the host (`quay.io/team`) are another
//! program's and never match: they would give one team's password to the whole registry.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;
use tokio::sync::Mutex;
use url::Url;

use super::{Credential, CredentialError, helper};
use crate::config::Secret;

/// How long a helper's answer is believed. The helpers keep caches of their own.
pub(super) const KEEP: Duration = Duration::from_secs(300);
/// How long a failure is repeated to those who ask next, instead of starting the helper for each of them.
pub(super) const KEEP_FAILURE: Duration = Duration::from_secs(5);
/// How often the file is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// What Docker calls its Hub, in `auths` and to helpers.
const HUB: &str = "https://index.docker.io/v1/";
const HUB_HOSTS: [&str; 4] = ["index.docker.io", "docker.io", "registry-1.docker.io", "registry.hub.docker.com"];

/// One registry's entry of a Docker configuration file.
#[derive(Debug)]
pub(in crate::upstream) struct DockerConfig {
    path: PathBuf,
    /// The registry as its keys may be written; the first is what a helper is asked for.
    keys: Vec<String>,
    held: Mutex<Option<Held>>,
}

type Outcome = Result<Option<Arc<Credential>>, CredentialError>;

#[derive(Debug)]
struct Held {
    /// Modification time and length of the file that `outcome` comes from; `None` if it could not be looked at.
    version: Option<(SystemTime, u64)>,
    looked: Instant,
    read: Instant,
    outcome: Outcome,
    until: Instant,
}

impl DockerConfig {
    pub(in crate::upstream) fn new(path: &Path, registry: &Url) -> Self {
        Self { path: path.to_owned(), keys: keys(registry), held: Mutex::new(None) }
    }

    /// The registry's credential. Those who ask at one time share one look at the file and one run of the helper.
    pub(in crate::upstream) async fn get(&self) -> Outcome {
        let mut held = self.held.lock().await;
        let now = Instant::now();
        if let Some(held) = held.as_ref().filter(|held| now < held.until && now < held.looked + LOOK) {
            return held.outcome.clone();
        }
        let version = tokio::fs::metadata(&self.path).await.and_then(|data| Ok((data.modified()?, data.len()))).ok();
        if let Some(held) = held.as_mut().filter(|held| now < held.until && held.version == version) {
            held.looked = now;
            return held.outcome.clone();
        }
        let outcome = self.read().await;
        let now = Instant::now();
        let until = now + if outcome.is_ok() { KEEP } else { KEEP_FAILURE };
        *held = Some(Held { version, looked: now, read: now, outcome: outcome.clone(), until });
        outcome
    }

    /// Ask again next time; unless it was asked a moment ago, so that a wrong password does not start a helper for
    /// each request.
    pub(in crate::upstream) async fn forget(&self) {
        let mut held = self.held.lock().await;
        if held.as_ref().is_some_and(|held| held.read.elapsed() >= KEEP_FAILURE) {
            *held = None;
        }
    }

    async fn read(&self) -> Outcome {
        let file = self.path.display().to_string();
        let text = tokio::fs::read(&self.path)
            .await
            .map_err(|error| CredentialError::Read { file: file.clone(), cause: error.to_string() })?;
        let parsed = File::parse(&text).map_err(|problem| CredentialError::Malformed { file: file.clone(), problem })?;
        if let Some(name) = parsed.helper(&self.keys)
            && let Some(credential) = helper::get(name, &self.keys[0]).await?
        {
            return Ok(Some(Arc::new(credential)));
        }
        let entry = parsed.entry(&self.keys).map(|entry| entry.credential());
        let credential = entry.transpose().map_err(|problem| CredentialError::Malformed { file, problem: problem.to_owned() })?;
        let credential = credential.flatten().map(Arc::new);
        if credential.is_none() {
            // Once for each version of the file, and then every few minutes.
            tracing::warn!(file = %self.path.display(), registry = self.keys[0],
                "this Docker configuration has no login for the registry: it is asked without one");
        }
        Ok(credential)
    }
}

/// What a helper is asked for.
pub(super) fn server(registry: &Url) -> String {
    keys(registry).into_iter().next().unwrap_or_default()
}

/// How a key for this registry may be written, the canonical form first.
fn keys(registry: &Url) -> Vec<String> {
    let host = registry.host_str().unwrap_or_default();
    let full = match registry.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    };
    if HUB_HOSTS.contains(&full.as_str()) {
        return std::iter::once(HUB).chain(HUB_HOSTS).map(Into::into).collect();
    }
    let default = registry.port().is_none().then(|| registry.port_or_known_default().map(|port| format!("{host}:{port}")));
    std::iter::once(full).chain(default.flatten()).collect()
}

/// A key without what older versions wrote around the host: `https://host/v1/`.
fn plain(key: &str) -> &str {
    let key = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    let key = key.strip_suffix('/').unwrap_or(key);
    key.strip_suffix("/v1").or_else(|| key.strip_suffix("/v2")).unwrap_or(key)
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct File {
    auths: BTreeMap<String, Entry>,
    creds_store: Option<String>,
    cred_helpers: BTreeMap<String, String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
    registrytoken: Option<String>,
}

impl File {
    /// Reads the file. The error names a place, never a value: serde's own text could quote one.
    fn parse(text: &[u8]) -> Result<Self, String> {
        let place = |error: serde_json::Error| format!("line {}, column {}", error.line(), error.column());
        let file: Self = serde_json::from_slice(text).map_err(place)?;
        let says_nothing = file.auths.is_empty() && file.creds_store.is_none() && file.cred_helpers.is_empty();
        // `.dockercfg`, and a Kubernetes secret of that type, is the entries alone.
        let legacy = says_nothing.then(|| serde_json::from_slice(text).ok()).flatten();
        Ok(legacy.map_or(file, |auths| Self { auths, ..Self::default() }))
    }

    /// The helper for the registry: its own, else the common store.
    fn helper(&self, keys: &[String]) -> Option<&str> {
        let store = self.creds_store.as_deref();
        find(&self.cred_helpers, keys).map(String::as_str).or(store).filter(|name| !name.is_empty())
    }

    fn entry(&self, keys: &[String]) -> Option<&Entry> {
        find(&self.auths, keys)
    }
}

/// The value under one of `keys`, in their order; an exact key goes before one that is the same host written otherwise.
fn find<'a, T>(map: &'a BTreeMap<String, T>, keys: &[String]) -> Option<&'a T> {
    let exact = keys.iter().find_map(|key| map.get(key));
    exact.or_else(|| keys.iter().find_map(|key| map.iter().find(|(name, _)| plain(name) == plain(key)).map(|(_, value)| value)))
}

/// Base64 with or without its padding: docker writes it, other tools leave it out.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

impl Entry {
    /// The credential in an entry; `None` for the empty entries that docker leaves beside a store.
    fn credential(&self) -> Result<Option<Credential>, &'static str> {
        let filled = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let (username, password) = match filled(&self.auth) {
            Some(auth) => {
                let bytes = LENIENT.decode(auth.trim()).map_err(|_| "an `auth` is not base64")?;
                let text = String::from_utf8(bytes).map_err(|_| "an `auth` is not UTF-8")?;
                let (username, password) = text.split_once(':').ok_or("an `auth` is not user:password")?;
                let password = password.trim_end_matches('\0');
                (Some(username.to_owned()), Some(password.to_owned()).filter(|password| !password.is_empty()))
            }
            None => (filled(&self.username), filled(&self.password)),
        };
        let username = username.filter(|username| !username.is_empty());
        if let Some(token) = filled(&self.identitytoken) {
            return Ok(Some(Credential::Identity { username, token: Secret::new(token) }));
        }
        match (username, password) {
            (Some(username), Some(password)) => Ok(Some(Credential::Password { username, password: Secret::new(password) })),
            (None, Some(_)) => Err("an entry has a password without a user name"),
            (_, None) if filled(&self.registrytoken).is_some() => Err(
                "an entry has nothing but a `registrytoken`, which ends when it ends: a user and a password are needed, or a helper",
            ),
            (_, None) => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests;
