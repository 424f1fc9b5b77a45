//! The file as serde reads it: every key optional, every value already of its grammar.
//!
//! One struct a table. A key that is added here must be documented in `config.example.toml` (a test insists) and be
//! used in `build`. Nothing is flattened, so that an unknown key is always found out.

mod keys;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, MapAccess, Visitor};
use url::Url;

pub(super) use keys::known_keys;

use super::value::{AdminListen, Count, Host, Level, Many, One, RepositoryGlob, Size, TagPattern, Text, Time, Timeout};
use super::{Abandoned, Amount, LogFormat, Secret};
use crate::oci::name::UpstreamName;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Raw {
    pub server: Server,
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
    pub images: Option<Many<Text>>,
    pub platforms: Option<Many<Text>>,
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
    pub listen: Option<Many<SocketAddr>>,
    pub default_upstream: Option<One<UpstreamName>>,
    pub max_connections: Option<One<Count>>,
    pub header_timeout: Option<One<Timeout>>,
    pub write_timeout: Option<One<Timeout>>,
    pub shutdown_timeout: Option<One<Time>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Admin {
    pub listen: Option<One<AdminListen>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Cache {
    pub dir: Option<One<PathBuf>>,
    pub max_size: Option<One<Amount>>,
    pub min_free: Option<One<Amount>>,
    pub memory: Option<One<Size>>,
    pub offline: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Freshness {
    pub fresh_for: Option<One<Time>>,
    pub revalidate_within: Option<One<Time>>,
    pub stale_while_revalidate: Option<One<Time>>,
    pub stale_if_error: Option<One<Time>>,
    pub negative: Option<One<Time>>,
    pub immutable_tags: Option<Many<TagPattern>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Upstream {
    pub enabled: Option<bool>,
    pub url: Option<Many<Url>>,
    pub hosts: Option<Many<Host>>,
    pub credentials: Option<Credentials>,
    pub token_realms: Option<Many<Host>>,
    pub ca: Option<One<PathBuf>>,
    pub connect_timeout: Option<One<Timeout>>,
    pub response_timeout: Option<One<Timeout>>,
    pub stall_timeout: Option<One<Timeout>>,
    pub max_connections: Option<One<Count>>,
    pub allow: Option<Many<RepositoryGlob>>,
    pub deny: Option<Many<RepositoryGlob>>,
    pub freshness: Freshness,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Fill {
    pub abandoned: Option<One<Abandoned>>,
    pub abandon_after: Option<One<Time>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Log {
    pub format: Option<One<LogFormat>>,
    pub level: Option<One<Level>>,
}

/// `credentials`: the word "docker-config", or a table.
#[derive(Debug)]
pub(super) enum Credentials {
    DockerConfig,
    Table(CredentialsTable),
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct CredentialsTable {
    pub username: Option<SecretText>,
    pub password: Option<SecretText>,
    pub password_file: Option<One<PathBuf>>,
    pub docker_config: Option<One<PathBuf>>,
}

/// Text that no error repeats, whatever is wrong with it (I9); `env:NAME` is not looked up yet.
#[derive(Debug)]
pub(super) struct SecretText(pub Secret);

struct CredentialsVisitor;

impl<'de> Visitor<'de> for CredentialsVisitor {
    type Value = Credentials;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "\"docker-config\", { docker_config = \"PATH\" } or { username = \"…\", password = \"…\" } \
             (or password_file = \"PATH\")",
        )
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Credentials, E> {
        // The text may be a password, so it is not repeated.
        if text == "docker-config" { Ok(Credentials::DockerConfig) } else { Err(unshown(&self)) }
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<Credentials, E> {
        Err(unshown(&self))
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<Credentials, E> {
        Err(unshown(&self))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Credentials, A::Error> {
        CredentialsTable::deserialize(MapAccessDeserializer::new(map)).map(Credentials::Table)
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
