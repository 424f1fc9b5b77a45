//! How the mirror signs in: where a credential comes from, and nothing of where it goes.
//!
//! Read only when an upstream has asked for it, so that a public registry never costs a helper process. Owns the secrets
//! of this layer; they leave it only through [`Credential::basic`] and the token request (I9). Called by
//! [`super::auth`], which has checked the receiver first.

mod cloud;
mod docker;
mod helper;

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use url::Url;

use crate::config;
use crate::config::Secret;
use crate::oci::{Algorithm, Digest, Repository};
use cloud::aws::Ecr;
use cloud::azure::Acr;
use cloud::gcp::Gcp;
pub(super) use cloud::{Env, Ground};
use cloud::{Fetch, Renewing};
use docker::DockerConfig;
use helper::Helper;

/// Something to sign in with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Credential {
    /// A user name and its password or access token.
    Password {
        /// The user.
        username: String,
        /// The password.
        password: Secret,
    },
    /// A refresh ("identity") token, which only a token service understands.
    Identity {
        /// The account it belongs to, where that is known; some services also take the token as its password.
        username: Option<String>,
        /// The token.
        token: Secret,
    },
}

/// Why credentials could not be had. Names the file or program, never what is in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CredentialError {
    /// The file cannot be read.
    #[error("cannot read {file}: {cause}")]
    Read {
        /// The file's path.
        file: String,
        /// The system's error.
        cause: String,
    },
    /// The file is not what Docker writes.
    #[error("{file} is not a Docker configuration: {problem}")]
    Malformed {
        /// The file's path.
        file: String,
        /// What is wrong, and where.
        problem: String,
    },
    /// The configured helper's name could be a path or an option.
    #[error("credential helper {0:?} has a name that is not letters, digits, '.', '_' and '-'")]
    HelperName(String),
    /// The helper cannot be started.
    #[error("cannot run {program}: {cause}")]
    HelperStart {
        /// `docker-credential-NAME`.
        program: String,
        /// The system's error.
        cause: String,
    },
    /// The helper said it failed. What it printed may hold a secret and is not shown.
    #[error("{program} failed ({status}); run `echo {server} | {program} get` to see why")]
    HelperFailed {
        /// `docker-credential-NAME`.
        program: String,
        /// Its exit status.
        status: String,
        /// What it was asked for.
        server: String,
    },
    /// The helper took too long.
    #[error("{program} gave no answer within {}", humantime::format_duration(*.limit))]
    HelperTimeout {
        /// `docker-credential-NAME`.
        program: String,
        /// The time it had.
        limit: Duration,
    },
    /// The helper's output is not the protocol's.
    #[error("{0} printed something that is no credential")]
    HelperOutput(String),
    /// A cloud's identity service did not give a credential.
    #[error("{service}: {problem}")]
    Cloud {
        /// What was asked, or the file or variable that is wrong.
        service: String,
        /// What is wrong, and what to do about it.
        problem: String,
    },
}

impl Credential {
    /// The value of an `Authorization` header of the Basic scheme (RFC 7617), marked as sensitive. `None` for an
    /// identity token without an account, which has no such form.
    pub(super) fn basic(&self) -> Option<HeaderValue> {
        let (username, secret) = match self {
            Self::Password { username, password } => (username, password),
            Self::Identity { username: Some(username), token } => (username, token),
            Self::Identity { username: None, .. } => return None,
        };
        let encoded = STANDARD.encode(format!("{username}:{}", secret.expose()));
        let mut value = HeaderValue::try_from(format!("Basic {encoded}")).ok()?;
        value.set_sensitive(true);
        Some(value)
    }

    /// The account's name, where it is known.
    pub(super) fn username(&self) -> Option<&str> {
        match self {
            Self::Password { username, .. } => Some(username),
            Self::Identity { username, .. } => username.as_deref(),
        }
    }

    /// Tells two credentials apart in a cache's key without keeping the secret there.
    pub(super) fn fingerprint(&self) -> Digest {
        let (kind, secret) = match self {
            Self::Password { password, .. } => ("password", password),
            Self::Identity { token, .. } => ("identity", token),
        };
        let text = format!("{kind}\0{}\0{}", self.username().unwrap_or_default(), secret.expose());
        Digest::of(Algorithm::Sha256, text.as_bytes())
    }
}

/// One upstream address's sources of credentials, chosen by repository.
#[derive(Debug)]
pub(super) struct Credentials {
    /// By prefix, the longest first; at most one without a prefix, at the end.
    entries: Vec<(String, Source)>,
}

#[derive(Debug)]
enum Source {
    Fixed(Arc<Credential>),
    Docker(Box<DockerConfig>),
    Helper(Box<Helper>),
    Ecr(Box<Renewing<Ecr>>),
    Gcp(Box<Renewing<Gcp>>),
    Acr(Box<Renewing<Acr>>),
}

impl Credentials {
    /// The sources that `config` names, for the registry at `url`.
    pub(super) fn new(config: &config::Credentials, url: &Url, ground: &Ground) -> Self {
        let mut entries: Vec<_> = match config {
            config::Credentials::ByRepository(list) => list
                .iter()
                .filter_map(|entry| Some((entry.prefix.clone(), Source::new(&entry.credentials, url, ground)?)))
                .collect(),
            one => Source::new(one, url, ground).map(|source| (String::new(), source)).into_iter().collect(),
        };
        entries.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
        Self { entries }
    }

    /// One credential for everything.
    pub(super) fn fixed(credential: Arc<Credential>) -> Self {
        Self { entries: vec![(String::new(), Source::Fixed(credential))] }
    }

    fn source(&self, repository: &Repository) -> Option<&Source> {
        self.place(repository).map(|place| &self.entries[place].1)
    }

    /// Which of them is for `repository`, by its place.
    pub(super) fn place(&self, repository: &Repository) -> Option<usize> {
        self.entries.iter().position(|(prefix, _)| is_below(repository.as_str(), prefix))
    }

    /// The places that there are.
    pub(super) fn places(&self) -> Range<usize> {
        0..self.entries.len()
    }

    /// Whether there is one for every repository: the last is for all that no other is for.
    pub(super) fn are_for_all(&self) -> bool {
        self.entries.last().is_some_and(|(prefix, _)| prefix.is_empty())
    }

    /// The credential for `repository`, if there is one. May read a file, run a helper or ask a cloud, all off the reactor
    /// (I11). Cancel-safe.
    pub(super) async fn get(&self, repository: &Repository) -> Result<Option<Arc<Credential>>, CredentialError> {
        match self.source(repository) {
            None => Ok(None),
            Some(Source::Fixed(credential)) => Ok(Some(Arc::clone(credential))),
            Some(Source::Docker(config)) => config.get().await,
            Some(Source::Helper(helper)) => helper.get().await,
            Some(Source::Ecr(renewing)) => renewing.get().await.map(Some),
            Some(Source::Gcp(renewing)) => renewing.get().await.map(Some),
            Some(Source::Acr(renewing)) => renewing.get().await.map(Some),
        }
    }

    /// The upstream refused what [`Self::get`] gave: do not give it again from memory.
    pub(super) async fn forget(&self, repository: &Repository) {
        match self.source(repository) {
            Some(Source::Docker(config)) => config.forget().await,
            Some(Source::Helper(helper)) => helper.forget().await,
            Some(Source::Ecr(renewing)) => renewing.forget(),
            Some(Source::Gcp(renewing)) => renewing.forget(),
            Some(Source::Acr(renewing)) => renewing.forget(),
            Some(Source::Fixed(_)) | None => {}
        }
    }

    /// Whether there is no source at all, so that nothing can be withheld from anybody.
    pub(super) fn is_anonymous(&self) -> bool {
        self.entries.is_empty()
    }
}

impl Source {
    fn new(config: &config::Credentials, url: &Url, ground: &Ground) -> Option<Self> {
        fn renewing<S: Fetch>(source: S) -> Box<Renewing<S>> {
            Box::new(Renewing::new(source))
        }
        Some(match config {
            // Lists are not nested: the configuration has no such form.
            config::Credentials::Anonymous | config::Credentials::ByRepository(_) => return None,
            config::Credentials::Password { username, password } => {
                Self::Fixed(Arc::new(Credential::Password { username: username.clone(), password: password.clone() }))
            }
            config::Credentials::DockerConfig(path) => Self::Docker(Box::new(DockerConfig::new(path, url))),
            config::Credentials::Helper(name) => Self::Helper(Box::new(Helper::new(name, &docker::server(url)))),
            config::Credentials::Ecr => Self::Ecr(renewing(Ecr::new(ground.clone(), url))),
            config::Credentials::Gcp { key_file } => Self::Gcp(renewing(Gcp::new(ground.clone(), key_file.clone(), url))),
            config::Credentials::Acr => Self::Acr(renewing(Acr::new(ground.clone(), url))),
        })
    }
}

/// Whether `repository` is `prefix` or below it, component by component; everything is below the empty one.
fn is_below(repository: &str, prefix: &str) -> bool {
    repository.strip_prefix(prefix).is_some_and(|rest| prefix.is_empty() || rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t32_basic() {
        let aladdin = Credential::Password { username: "Aladdin".into(), password: Secret::new("open sesame") };
        let value = aladdin.basic().unwrap();
        assert_eq!(value, "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        assert!(value.is_sensitive());
        let token = |username: Option<&str>| Credential::Identity { username: username.map(Into::into), token: Secret::new("t") };
        assert_eq!(token(None).basic(), None);
        assert_eq!(token(Some("u")).basic().unwrap(), "Basic dTp0");
    }

    #[test]
    fn prefixes_end_at_components() {
        for (repository, prefix, expected) in [
            ("team/app", "", true),
            ("team/app", "team", true),
            ("team", "team", true),
            ("teammate/app", "team", false),
            ("a/team", "team", false),
            ("team/app", "team/app", true),
            ("team", "team/app", false),
        ] {
            assert_eq!(is_below(repository, prefix), expected, "{repository} {prefix}");
        }
    }

    #[test]
    fn i9_fingerprints_differ_and_secrets_do_not_print() {
        let password = |name: &str, word: &str| Credential::Password { username: name.into(), password: Secret::new(word) };
        let a = password("u", "hunter2");
        assert_ne!(a.fingerprint(), password("u", "hunter3").fingerprint());
        assert_ne!(a.fingerprint(), password("v", "hunter2").fingerprint());
        assert_ne!(
            a.fingerprint(),
            Credential::Identity { username: Some("u".into()), token: Secret::new("hunter2") }.fingerprint()
        );
        assert_eq!(a.fingerprint(), password("u", "hunter2").fingerprint());
        assert!(!format!("{a:?}").contains("hunter2"));
    }
}
