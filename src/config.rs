//! Configuration: what an operator may say, checked, with every default in one place.
//!
//! Two steps, as in ripgrep's LowArgs → HiArgs: `raw` is what serde reads from TOML, this module's types are what
//! the rest of the program uses. A [`Config`] that exists is right: no string in it is left to be parsed.
//! Nothing here opens a socket or reads anything but the files that the configuration names.

pub mod access;
mod build;
pub mod clouds;
mod defaults;
mod document;
mod error;
mod listen;
mod load;
mod patterns;
mod raw;
mod secret;
#[cfg(test)]
mod tests;
mod units;
mod value;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use url::Url;

pub use access::{Access, AccessRule, Htpasswd, Pace, Who};
pub use error::{ConfigError, Problem};
pub use listen::{ClientAuth, KeyPair, Listen, Tls, TlsVersion};
pub use patterns::{Globs, TagPatterns};
pub use secret::Secret;
pub use units::Amount;

use crate::oci::name::{Repository, UpstreamName};

/// The whole configuration of one mirror.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `[server]`
    pub server: Server,
    /// `[access]`
    pub access: Access,
    /// `[admin]`
    pub admin: Admin,
    /// `[cache]`
    pub cache: Cache,
    /// `[upstream.*]`, the built-in public registries included.
    pub upstreams: BTreeMap<UpstreamName, Upstream>,
    /// `[freshness]`, as upstreams without a word about it have it.
    pub freshness: Freshness,
    /// `[[prefetch]]`
    pub prefetch: Vec<Prefetch>,
    /// `[import]`
    pub import: Import,
    /// `[fill]`
    pub fill: Fill,
    /// `[log]`
    pub log: Log,
}

/// `[[prefetch]]`: images that are kept warm.
#[derive(Clone, Debug, PartialEq)]
pub struct Prefetch {
    /// `images`: references, and patterns of tags.
    pub images: Vec<String>,
    /// `platforms`: of indexes; none named means all.
    pub platforms: Vec<String>,
    /// `with_referrers`: also signatures and attestations.
    pub with_referrers: bool,
    /// `every`: how long from the end of one run to the next.
    pub every: Duration,
}

/// `[import]`: what bundles are taken in.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Import {
    /// `verify_key`: the PEM file of the ed25519 key that must have signed them.
    pub verify_key: Option<PathBuf>,
}

/// `[server]`: where clients pull.
#[derive(Clone, Debug, PartialEq)]
pub struct Server {
    /// `listen`: where to accept connections.
    pub listen: Vec<Listen>,
    /// `socket_mode`: the permissions of unix sockets.
    pub socket_mode: u32,
    /// `tls`: what TCP addresses speak.
    pub tls: Option<Tls>,
    /// `http2`: whether clients may speak HTTP/2.
    pub http2: bool,
    /// `default_upstream`: whose images a request means that names no upstream. Always one of the upstreams.
    pub default_upstream: UpstreamName,
    /// `max_connections`: open client connections; further ones wait to be accepted.
    pub max_connections: usize,
    /// `max_connections_per_client`: of one address (IPv6: one /64); further ones are closed.
    pub max_connections_per_client: usize,
    /// `handshake_timeout`: for TLS to be agreed on.
    pub handshake_timeout: Duration,
    /// `header_timeout`: for the request head, and between two requests on one connection.
    pub header_timeout: Duration,
    /// `write_timeout`: a client that takes no byte for so long is disconnected.
    pub write_timeout: Duration,
    /// `shutdown_timeout`: how long running answers may go on after SIGTERM.
    pub shutdown_timeout: Duration,
}

/// `[admin]`: health, metrics and status.
#[derive(Clone, Debug, PartialEq)]
pub struct Admin {
    /// `listen`: where to accept connections; `None` ("off") for no admin interface.
    pub listen: Option<Listen>,
    /// `tls`: what it speaks, if it listens on an address. Whoever shows a certificate of its `client_ca` needs no token.
    pub tls: Option<Tls>,
    /// `token`, or the content of `token_file`: what a request must show.
    pub token: Option<Secret>,
    /// `hosts`: names, with or without a port, by which it may be asked besides loopback's and IP addresses.
    pub hosts: Vec<String>,
    /// `metrics_open`: `/metrics` needs no token and goes by any name.
    pub metrics_open: bool,
}

impl Admin {
    /// Why this must not be served: whoever reaches the address could change everything. `None` if it may.
    pub fn exposed(&self) -> Option<String> {
        let listen = self.listen.as_ref().filter(|listen| match listen {
            Listen::Tcp(address) | Listen::Plain(address) => !address.ip().to_canonical().is_loopback(),
            Listen::Unix(_) => false,
            // Known only when it is there.
            Listen::Systemd(_) => true,
        })?;
        (self.token.is_none() && !self.wants_certificates()).then(|| {
            format!(
                "{listen} can be reached from other machines, and whoever reaches it may purge, import and switch upstreams off; \
                 set admin.token_file = \"PATH\" (or admin.token = \"env:NAME\"), or admin.tls with a client_ca, or listen on \
                 127.0.0.1"
            )
        })
    }

    /// Whether a client certificate is a key to it.
    pub fn wants_certificates(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.clients.is_some())
    }
}

/// `[cache]`: what may be kept where.
#[derive(Clone, Debug, PartialEq)]
pub struct Cache {
    /// `dir`: the root of the disk tier.
    pub dir: PathBuf,
    /// `max_size`: bytes, or a share of the file system that holds `dir`.
    pub max_size: Amount,
    /// `min_free`: bytes, or a share, of the file system that stay free whatever `max_size` says.
    pub min_free: Amount,
    /// `memory`: bytes of manifests and small blobs kept in memory.
    pub memory: u64,
    /// `offline`: never contact an upstream.
    pub offline: bool,
    /// `eviction`: which content goes first.
    pub eviction: Eviction,
    /// `verify_every`: how often all content is hashed again in the background; zero for never.
    pub verify_every: Duration,
    /// `verify_rate`: bytes a second that this reads at most.
    pub verify_rate: u64,
    /// `[cache.quota."PATTERN"]`: limits for some of the content.
    pub quotas: Vec<Quota>,
}

/// `cache.eviction`: which content goes first. docs/EVICTION.md compares them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Eviction {
    /// Least recently used.
    Lru,
    /// SIEVE (Zhang et al., NSDI '24).
    Sieve,
    /// S3-FIFO (Yang et al., SOSP '23).
    #[default]
    S3Fifo,
    /// Greedy-Dual-Size-Frequency (Cherkasova 1998): small and often used objects stay.
    Gdsf,
    /// LFU with dynamic aging (Arlitt et al. 2000): often used objects stay, whatever their size.
    LfuDa,
}

impl Eviction {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Lru, Self::Sieve, Self::S3Fifo, Self::Gdsf, Self::LfuDa];

    /// The name in the configuration and in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lru => "lru",
            Self::Sieve => "sieve",
            Self::S3Fifo => "s3-fifo",
            Self::Gdsf => "gdsf",
            Self::LfuDa => "lfu-da",
        }
    }
}

/// `[cache.quota."PATTERN"]`: what content of some repositories may take, and for how long it stays unused.
#[derive(Clone, Debug, PartialEq)]
pub struct Quota {
    /// The repositories, as `UPSTREAM/REPOSITORY` with globs; an upstream alone means all of its repositories.
    pub pattern: Globs,
    /// `max_size`: bytes, or a share of the file system.
    pub max_size: Option<Amount>,
    /// `unused_for`: what was not pulled for so long is removed.
    pub unused_for: Option<Duration>,
}

/// `[freshness]`, and the same keys under an upstream: for how long a tag is believed. Digests never go stale.
#[derive(Clone, Debug, PartialEq)]
pub struct Freshness {
    /// `fresh_for`: no upstream contact within this after a tag was checked.
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
    /// `no_cache`: a client's `Cache-Control: no-cache` has the tag checked, however fresh it is.
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
    /// `Duration::MAX` for ever.
    pub fresh_for: Duration,
    /// See [`Freshness`], as all the others.
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
    /// `connect_timeout`: name resolution, TCP and TLS.
    pub connect_timeout: Duration,
    /// `response_timeout`: from the request to the first header.
    pub response_timeout: Duration,
    /// `stall_timeout`: no byte of a body for so long is a broken transfer.
    pub stall_timeout: Duration,
    /// `max_connections`: blob downloads from this upstream at one time. Tags and manifests have a few more to themselves.
    pub max_connections: usize,
    /// `max_fills`: a lower bound on blob downloads than `max_connections`.
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
    /// Everybody whom the rules let in. The default of an upstream without credentials.
    Public,
    /// The same callers, and of each repository only what is known to belong to it. The default with credentials.
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
    /// `failures`: so many of them, no success between, within `window`, and the address is not asked any more.
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

/// `[fill]`: how blobs are downloaded.
#[derive(Clone, Debug, PartialEq)]
pub struct Fill {
    /// `abandoned`
    pub abandoned: Abandoned,
    /// `abandon_after`: for how long nobody may have read before `abandoned = "abort"` acts.
    pub abandon_after: Duration,
    /// `parallel`: connections that share the download of a large blob; 1: each blob comes in one piece.
    pub parallel: usize,
    /// `parallel_threshold`: larger blobs, in bytes, are downloaded in parts.
    pub parallel_threshold: u64,
}

/// `fill.abandoned`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abandoned {
    /// Finish it: the next client finds it cached.
    Finish,
    /// Stop it; what is here stays resumable.
    Abort,
}

/// `[log]`
#[derive(Clone, Debug, PartialEq)]
pub struct Log {
    /// `format`
    pub format: LogFormat,
    /// `level`: a level, or directives as `tracing_subscriber::EnvFilter` takes them.
    pub level: String,
}

/// `log.format`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}
