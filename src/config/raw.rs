//! The file as serde reads it: every key optional, every value already of its grammar.
//!
//! One struct a table. A key that is added here must be documented in `config.example.toml` (a test insists) and be
//! used in `build`. Nothing is flattened, so that an unknown key is always found out.

mod keys;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use url::Url;

pub(super) use keys::known_keys;

use super::access::{TokenUrl, Who};
use super::listen::{Listen, Mode, Required, TlsVersion};
use super::value::{
    AdminListen, Count, HelperName, Host, Level, Many, One, Parts, Prefix, Rate, RepositoryGlob, Size, TagPattern, Time,
    TimeOrForever, Timeout, Value,
};
use super::{Abandoned, Amount, BlobOutage, Eviction, LogFormat, Reserve, Secret, Visibility, Wish};
use crate::oci::{Platform, UpstreamName};

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Raw {
    pub server: Server,
    pub access: Access,
    pub admin: Admin,
    pub cache: Cache,
    pub freshness: Freshness,
    pub upstream: BTreeMap<UpstreamName, Upstream>,
    pub prefetch: Vec<Prefetch>,
    pub import: Import,
    pub fill: Fill,
    pub log: Log,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Prefetch {
    pub images: Option<Many<Wish>>,
    pub platforms: Option<Many<Platform>>,
    pub with_referrers: Option<bool>,
    pub every: Option<One<Timeout>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Import {
    pub verify_key: Option<One<PathBuf>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Server {
    pub listen: Option<Many<Listen>>,
    pub socket_mode: Option<One<Mode>>,
    pub tls: Option<Tls>,
    pub http2: Option<bool>,
    pub default_upstream: Option<One<UpstreamName>>,
    pub max_connections: Option<One<Count>>,
    pub max_connections_per_client: Option<One<Count>>,
    pub handshake_timeout: Option<One<Timeout>>,
    pub header_timeout: Option<One<Timeout>>,
    pub write_timeout: Option<One<Timeout>>,
    pub shutdown_timeout: Option<One<Time>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Access {
    pub open: Option<bool>,
    pub htpasswd: Option<One<PathBuf>>,
    pub token_lifetime: Option<One<Timeout>>,
    pub token_key_file: Option<One<PathBuf>>,
    pub token_url: Option<One<TokenUrl>>,
    pub challenge_everybody: Option<bool>,
    pub requests_per_second: Option<One<Count>>,
    pub burst: Option<One<Count>>,
    pub max_fills_per_client: Option<One<Count>>,
    pub rule: Option<Vec<AccessRule>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct AccessRule {
    pub who: Option<Many<Who>>,
    pub pull: Option<Many<RepositoryGlob>>,
    pub deny: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Tls {
    pub cert: Option<One<PathBuf>>,
    pub key: Option<One<PathBuf>>,
    pub certificates: Vec<KeyPair>,
    pub client_ca: Option<One<PathBuf>>,
    pub client_auth: Option<One<Required>>,
    pub min_version: Option<One<TlsVersion>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeyPair {
    pub cert: One<PathBuf>,
    pub key: One<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Admin {
    pub listen: Option<One<AdminListen>>,
    pub tls: Option<Tls>,
    pub token: Option<SecretText>,
    pub token_file: Option<One<PathBuf>>,
    pub hosts: Option<Many<Host>>,
    pub metrics_open: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Cache {
    pub dir: Option<One<PathBuf>>,
    pub max_size: Option<One<Amount>>,
    pub min_free: Option<One<Amount>>,
    pub memory: Option<One<Size>>,
    pub offline: Option<bool>,
    pub eviction: Option<One<Eviction>>,
    pub verify_every: Option<One<Time>>,
    pub verify_rate: Option<One<Size>>,
    pub quota: BTreeMap<String, Quota>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Quota {
    pub max_size: Option<One<Amount>>,
    pub unused_for: Option<One<Timeout>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Freshness {
    pub fresh_for: Option<One<TimeOrForever>>,
    pub revalidate_within: Option<One<TimeOrForever>>,
    pub stale_while_revalidate: Option<One<TimeOrForever>>,
    pub stale_if_error: Option<One<TimeOrForever>>,
    pub negative: Option<One<Time>>,
    pub immutable_tags: Option<Many<TagPattern>>,
    pub no_cache: Option<bool>,
    pub rule: Option<Vec<Rule>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Rule {
    pub repositories: Option<Many<RepositoryGlob>>,
    pub tags: Option<Many<TagPattern>>,
    pub fresh_for: Option<One<TimeOrForever>>,
    pub revalidate_within: Option<One<TimeOrForever>>,
    pub stale_while_revalidate: Option<One<TimeOrForever>>,
    pub stale_if_error: Option<One<TimeOrForever>>,
    pub negative: Option<One<Time>>,
    pub no_cache: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Upstream {
    pub enabled: Option<bool>,
    pub url: Option<Many<Url>>,
    pub hosts: Option<Many<Host>>,
    pub credentials: Option<Credentials>,
    pub visibility: Option<One<Visibility>>,
    pub verdict_for: Option<One<Timeout>>,
    pub token_realms: Option<Many<Host>>,
    pub ca: Option<One<PathBuf>>,
    pub client_cert: Option<One<PathBuf>>,
    pub client_key: Option<One<PathBuf>>,
    pub connect_timeout: Option<One<Timeout>>,
    pub response_timeout: Option<One<Timeout>>,
    pub stall_timeout: Option<One<Timeout>>,
    pub max_connections: Option<One<Count>>,
    pub max_fills: Option<One<Count>>,
    pub parallel: Option<One<Parts>>,
    pub max_queue: Option<One<Count>>,
    pub max_bandwidth: Option<One<Rate>>,
    pub max_manifest: Option<One<Size>>,
    pub quota_reserve: Option<One<Reserve>>,
    pub breaker: Breaker,
    pub blob_outage_status: Option<One<BlobOutage>>,
    pub offline: Option<bool>,
    pub allow: Option<Many<RepositoryGlob>>,
    pub deny: Option<Many<RepositoryGlob>>,
    pub freshness: Freshness,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Breaker {
    pub failures: Option<One<Count>>,
    pub window: Option<One<Timeout>>,
    pub probe_every: Option<One<Timeout>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Fill {
    pub abandoned: Option<One<Abandoned>>,
    pub abandon_after: Option<One<Time>>,
    pub parallel: Option<One<Parts>>,
    pub parallel_threshold: Option<One<Size>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Log {
    pub format: Option<One<LogFormat>>,
    pub level: Option<One<Level>>,
}

/// `credentials`: a word, a table, or a list of tables.
#[derive(Debug)]
pub(super) enum Credentials {
    Kind(CredentialsKind),
    Table(Box<CredentialsTable>),
    List(Vec<CredentialsTable>),
}

/// A source that needs no more than its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CredentialsKind {
    DockerConfig,
    Ecr,
    Gcp,
    Acr,
}

impl CredentialsKind {
    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "docker-config" => Self::DockerConfig,
            "ecr" => Self::Ecr,
            "gcp" => Self::Gcp,
            "acr" => Self::Acr,
            _ => return None,
        })
    }
}

impl Value for CredentialsKind {
    const EXPECTED: &'static str = "\"docker-config\", \"ecr\", \"gcp\" or \"acr\"";

    fn text(text: &str) -> Result<Self, String> {
        Self::parse(text).ok_or_else(String::new)
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct CredentialsTable {
    pub prefix: Option<One<Prefix>>,
    pub username: Option<SecretText>,
    pub password: Option<SecretText>,
    pub password_file: Option<One<PathBuf>>,
    pub docker_config: Option<One<PathBuf>>,
    pub helper: Option<One<HelperName>>,
    pub source: Option<One<CredentialsKind>>,
    pub key_file: Option<One<PathBuf>>,
}

/// Text that no error repeats, whatever is wrong with it (I9); `env:NAME` is not looked up yet.
#[derive(Debug)]
pub(super) struct SecretText(pub Secret);

struct CredentialsVisitor;

impl<'de> Visitor<'de> for CredentialsVisitor {
    type Value = Credentials;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "\"docker-config\", \"ecr\", \"gcp\", \"acr\", { username = \"…\", password = \"…\" } (or password_file = \"PATH\"), \
             { docker_config = \"PATH\" }, { helper = \"NAME\" }, or a list of tables, each with a prefix",
        )
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Credentials, E> {
        // The text may be a password, so it is not repeated.
        CredentialsKind::parse(text).map(Credentials::Kind).ok_or_else(|| unshown(&self))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Credentials, A::Error> {
        let mut tables = Vec::new();
        while let Some(entry) = list.next_element()? {
            match entry {
                Credentials::Table(table) => tables.push(*table),
                Credentials::Kind(_) | Credentials::List(_) => return Err(unshown(&self)),
            }
        }
        Ok(Credentials::List(tables))
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<Credentials, E> {
        Err(unshown(&self))
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<Credentials, E> {
        Err(unshown(&self))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Credentials, A::Error> {
        CredentialsTable::deserialize(MapAccessDeserializer::new(map)).map(|table| Credentials::Table(Box::new(table)))
    }
}

impl<'de> Deserialize<'de> for Credentials {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(CredentialsVisitor)
    }
}

struct SecretVisitor;

impl Visitor<'_> for SecretVisitor {
    type Value = SecretText;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text in quotes, or \"env:NAME\" for the environment variable NAME")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<SecretText, E> {
        Ok(SecretText(Secret::new(text)))
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<SecretText, E> {
        Err(unshown(&self))
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<SecretText, E> {
        Err(unshown(&self))
    }
}

impl<'de> Deserialize<'de> for SecretText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SecretVisitor)
    }
}

/// A mismatch told without the value.
fn unshown<E: de::Error>(expected: &dyn de::Expected) -> E {
    E::custom(format_args!("expected {expected}"))
}
