//! One registry that is mirrored: where it is, how the mirror signs in, and how it treats it.

use std::path::PathBuf;
use std::time::Duration;

use url::Url;

use super::{Freshness, Globs, KeyPair, Secret};
use crate::oci::name::Repository;

/// `[upstream."NAME"]`: one registry that is mirrored.
#[derive(Clone, Debug, PartialEq)]
pub struct Upstream {
    /// `url`: base URLs, tried in order. Never empty; scheme http or https, no query, no user.
    pub urls: Vec<Url>,
    /// `hosts`: Host headers that select this upstream.
    pub hosts: Vec<String>,
    /// `credentials`: how the mirror signs in.
    pub credentials: Credentials,
    /// `visibility`: whom the mirror serves what it has of this upstream.
    pub visibility: Visibility,
    /// `verdict_for`: with `visibility = "caller"`, for how long the upstream's word on a caller and a repository holds.
    pub verdict_for: Duration,
    /// `token_realms`: hosts (`host` or `host:port`) besides the upstream's own that may receive the credentials.
    pub token_realms: Vec<String>,
    /// `ca`: a PEM file of further roots for this upstream.
    pub ca: Option<PathBuf>,
    /// `client_cert` and `client_key`: what the mirror shows the upstream's own addresses when they ask who it is.
    pub client: Option<KeyPair>,
    /// `connect_timeout`: name resolution, TCP and TLS.
    pub connect_timeout: Duration,
    /// `response_timeout`: from the request to the first header.
    pub response_timeout: Duration,
    /// `stall_timeout`: no byte of a body for so long is a broken transfer, and so is next to none in twice that.
    pub stall_timeout: Duration,
    /// `max_connections`: blob downloads from this upstream at one time. Tags and manifests have a few more to themselves.
    pub max_connections: usize,
    /// `max_fills`: at most so many blob downloads at one time, where that is fewer than `max_connections`.
    pub max_fills: Option<usize>,
    /// `parallel`: connections that share a large blob of this upstream, instead of `fill.parallel`.
    pub parallel: Option<usize>,
    /// `max_queue`: requests that may wait for their turn; further ones are refused.
    pub max_queue: usize,
    /// `max_bandwidth`: bytes of blobs taken from this upstream in a second.
    pub max_bandwidth: Option<u64>,
    /// `max_manifest`: bytes of the longest manifest that is taken from it; 4 MiB at least, [`MAX_MANIFEST`](crate::oci::MAX_MANIFEST) at most.
    pub max_manifest: u64,
    /// `quota_reserve`: with so many pulls left, work that no client waits for is put off.
    pub quota_reserve: Reserve,
    /// `breaker`: when the upstream counts as down.
    pub breaker: Breaker,
    /// `blob_outage_status`: what a client is told that wants a blob while the upstream is down.
    pub blob_outage_status: BlobOutage,
    /// `offline`: never contact this upstream.
    pub offline: bool,
    /// `allow` and `deny`: which repositories may be pulled.
    pub repositories: RepositoryRule,
    /// The upstream's own freshness, `[freshness]` where it says nothing.
    pub freshness: Freshness,
}

/// `upstream.*.visibility`: whom the mirror serves what it has of an upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visibility {
    /// Everybody whom the rules let in. The default of an upstream without credentials and client certificate.
    Public,
    /// The same callers, and of each repository only what is known to belong to it. The default with either.
    Operator,
    /// Whoever the upstream lets read the repository, by a login of their own.
    Caller,
}

/// `upstream.*.quota_reserve`
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Reserve {
    /// So many pulls.
    Pulls(u64),
    /// A share of the upstream's limit, in percent.
    Percent(f64),
}

impl Reserve {
    /// The reserve in pulls; of a limit that the upstream does not tell, a share is nothing.
    pub fn of(self, limit: Option<u64>) -> u64 {
        match self {
            Self::Pulls(pulls) => pulls,
            Self::Percent(percent) => (limit.unwrap_or_default() as f64 * percent / 100.0) as u64,
        }
    }
}

/// `upstream.*.breaker`: when one of an upstream's addresses is no longer asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Breaker {
    /// `failures`: so many of them, no success between, within `window`, and the address, or what fails of it, is not asked
    /// any more.
    pub failures: usize,
    /// `window`
    pub window: Duration,
    /// `probe_every`: how often one request tries whether it is back.
    pub probe_every: Duration,
}

/// `upstream.*.blob_outage_status`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlobOutage {
    /// 503; 429 where the upstream says 429.
    Unavailable,
    /// 429: dockerd with graph drivers goes on to its next source at once, instead of after 50 s.
    TooManyRequests,
    /// 404: so does every client, and it is not true.
    NotFound,
}

/// `allow`, `deny`: globs over repository names; `*` stays within one component, `**` does not.
#[derive(Clone, Debug, PartialEq)]
pub struct RepositoryRule {
    /// What may be pulled.
    pub allow: Globs,
    /// What may not, whatever `allow` says.
    pub deny: Globs,
}

impl RepositoryRule {
    /// Whether `repository` may be pulled.
    pub fn permits(&self, repository: &Repository) -> bool {
        self.allow.is_match(repository.as_str()) && !self.deny.is_match(repository.as_str())
    }
}

/// How the mirror signs in to one upstream.
#[derive(Clone, Debug, PartialEq)]
pub enum Credentials {
    /// Not at all.
    Anonymous,
    /// A user name and a password or access token.
    Password {
        /// The user name.
        username: String,
        /// The password, read from `password`, `password_file` or `env:NAME`.
        password: Secret,
    },
    /// Whatever the Docker `config.json` at this path says for the upstream's host; read again when it changes.
    DockerConfig(PathBuf),
    /// What the program `docker-credential-NAME` says.
    Helper(String),
    /// Amazon ECR and ECR Public, by the machine's AWS identity.
    Ecr,
    /// Google's registries, by a key file or the machine's service account.
    Gcp {
        /// A key file; without one `GOOGLE_APPLICATION_CREDENTIALS`, else the metadata server.
        key_file: Option<PathBuf>,
    },
    /// Azure Container Registry, by the machine's identity.
    Acr,
    /// One for each part of the registry.
    ByRepository(Vec<ScopedCredentials>),
}

/// Credentials for the repositories below a prefix.
#[derive(Clone, Debug, PartialEq)]
pub struct ScopedCredentials {
    /// `prefix`: one or more components of repository names; empty for all that no other entry is for.
    pub prefix: String,
    /// Never [`Credentials::ByRepository`].
    pub credentials: Credentials,
}

impl Credentials {
    /// Whether a cloud's identity service is asked.
    pub fn is_cloud(&self) -> bool {
        match self {
            Self::Ecr | Self::Gcp { .. } | Self::Acr => true,
            Self::ByRepository(list) => list.iter().any(|entry| entry.credentials.is_cloud()),
            Self::Anonymous | Self::Password { .. } | Self::DockerConfig(_) | Self::Helper(_) => false,
        }
    }
}
