//! Configuration: what an operator may say, checked, with every default in one place.
//!
//! Two steps, as in ripgrep's LowArgs → HiArgs: `raw` is what serde reads from TOML, this module's types are what
//! the rest of the program uses. A [`Config`] that exists is right: no string in it is left to be parsed.
//! Nothing here opens a socket or reads anything but the files that the configuration names.

mod build;
mod defaults;
mod document;
mod error;
mod load;
mod patterns;
mod raw;
mod secret;
#[cfg(test)]
mod tests;
mod units;
mod value;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use url::Url;

pub use error::{ConfigError, Problem};
pub use patterns::{Globs, TagPatterns};
pub use secret::Secret;
pub use units::Amount;

use crate::oci::name::{Repository, UpstreamName};

/// The whole configuration of one mirror.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `[server]`
    pub server: Server,
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
    /// `listen`: the addresses to bind.
    pub listen: Vec<SocketAddr>,
    /// `default_upstream`: whose images a request means that names no upstream. Always one of the upstreams.
    pub default_upstream: UpstreamName,
    /// `max_connections`: open client connections; further ones wait to be accepted.
    pub max_connections: usize,
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
    /// `listen`: the address to bind; `None` ("off") for no admin interface.
    pub listen: Option<SocketAddr>,
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
    /// `max_connections`: blob downloads from this upstream at one time.
    pub max_connections: usize,
    /// `allow` and `deny`: which repositories may be pulled.
    pub repositories: RepositoryRule,
    /// The upstream's own freshness, `[freshness]` where it says nothing.
    pub freshness: Freshness,
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
}

/// `[fill]`: what happens to a download that nobody reads any more.
#[derive(Clone, Debug, PartialEq)]
pub struct Fill {
    /// `abandoned`
    pub abandoned: Abandoned,
    /// `abandon_after`: for how long nobody may have read before `abandoned = "abort"` acts.
    pub abandon_after: Duration,
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
