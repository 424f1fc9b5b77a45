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
mod doubts;
mod error;
mod finding;
mod freshness;
mod listen;
mod load;
mod near;
mod patterns;
mod raw;
mod reach;
mod secret;
#[cfg(test)]
mod tests;
mod units;
mod upstream;
mod value;
mod wish;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

pub use access::{Access, AccessRule, Htpasswd, LONGEST_TOKEN, Pace, Who};
pub use error::{ConfigError, Problem};
pub use finding::Finding;
pub use freshness::{Freshness, FreshnessRule, Terms};
pub use listen::{ClientAuth, KeyPair, Listen, Tls, TlsVersion};
pub use near::near;
pub use patterns::{Globs, TagPatterns};
pub use secret::Secret;
pub use units::Amount;
pub use upstream::{BlobOutage, Breaker, Credentials, RepositoryRule, Reserve, ScopedCredentials, Upstream, Visibility};
pub use wish::{Wish, is_pattern};

use crate::oci::{Platforms, UpstreamName};

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
    /// `images`: references, and patterns of tags. At least one.
    pub images: Vec<Wish>,
    /// `platforms`: of indexes; none named means all.
    pub platforms: Platforms,
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
