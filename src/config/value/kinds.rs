//! The kinds of values: times, sizes, hosts, patterns and the words of single keys.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tracing_subscriber::filter::{EnvFilter, LevelFilter};
use url::Url;

use super::super::listen::Listen;
use super::super::patterns::{Globs, TagPatterns};
use super::super::{Abandoned, Amount, BlobOutage, Eviction, LogFormat, Reserve, Visibility, units};
use super::Value;
use crate::oci::{Platform, Repository, UpstreamName};

/// A time that may be none.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::config) struct Time(pub Duration);

impl Value for Time {
    const EXPECTED: &'static str = "a time such as \"1m30s\"";

    fn text(text: &str) -> Result<Self, String> {
        time(text).map(Self)
    }
}

/// A time that may be none, or [`Duration::MAX`]: for what is held against an age, and waited for by nothing else than this.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::config) struct TimeOrForever(pub Duration);

impl Value for TimeOrForever {
    const EXPECTED: &'static str = "a time such as \"1m30s\", or \"forever\"";

    fn text(text: &str) -> Result<Self, String> {
        if text == "forever" { Ok(Self(Duration::MAX)) } else { units::time(text).map(Self) }
    }
}

/// A time that ends.
fn time(text: &str) -> Result<Duration, String> {
    if text == "forever" {
        return Err("that can only be fresh_for, revalidate_within, stale_while_revalidate and stale_if_error".into());
    }
    units::time(text)
}

/// A deadline: none at all would refuse everything.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::config) struct Timeout(pub Duration);

impl Value for Timeout {
    const EXPECTED: &'static str = "a time above zero such as \"1m30s\"";

    fn text(text: &str) -> Result<Self, String> {
        match time(text)? {
            Duration::ZERO => Err(String::new()),
            time => Ok(Self(time)),
        }
    }
}

/// Bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::config) struct Size(pub u64);

impl Value for Size {
    const EXPECTED: &'static str = "a size such as \"256MiB\"";

    fn text(text: &str) -> Result<Self, String> {
        units::size(text).map(Self)
    }

    fn integer(number: i64) -> Option<Result<Self, String>> {
        Some(u64::try_from(number).map(Self).map_err(|_| String::new()))
    }
}

impl Value for Amount {
    const EXPECTED: &'static str = "a size such as \"50GiB\" or a share of the file system such as \"80%\"";

    fn text(text: &str) -> Result<Self, String> {
        Self::parse(text)
    }

    fn integer(number: i64) -> Option<Result<Self, String>> {
        Size::integer(number).map(|size| size.map(|Size(bytes)| Self::Bytes(bytes)))
    }
}

/// How many of something.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::config) struct Count(pub usize);

impl Value for Count {
    const EXPECTED: &'static str = "a whole number from 1 to 1000000";

    fn text(_: &str) -> Result<Self, String> {
        Err("numbers have no quotes".into())
    }

    fn integer(number: i64) -> Option<Result<Self, String>> {
        let count = usize::try_from(number).ok().filter(|count| (1..=1_000_000).contains(count));
        Some(count.map(Self).ok_or_else(String::new))
    }
}

/// Connections that share a blob.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::config) struct Parts(pub usize);

impl Value for Parts {
    const EXPECTED: &'static str = "a whole number from 1 to 32";

    fn text(_: &str) -> Result<Self, String> {
        Err("numbers have no quotes".into())
    }

    fn integer(number: i64) -> Option<Result<Self, String>> {
        let parts = usize::try_from(number).ok().filter(|parts| (1..=32).contains(parts));
        Some(parts.map(Self).ok_or_else(String::new))
    }
}

/// Bytes in a second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::config) struct Rate(pub u64);

impl Value for Rate {
    const EXPECTED: &'static str = "a size per second such as \"10MiB\", at least \"1KiB\"";

    fn text(text: &str) -> Result<Self, String> {
        let size = units::size(text.trim().trim_end_matches("/s"))?;
        if size < 1024 { Err(String::new()) } else { Ok(Self(size)) }
    }

    fn integer(number: i64) -> Option<Result<Self, String>> {
        Some(u64::try_from(number).ok().filter(|rate| *rate >= 1024).map(Self).ok_or_else(String::new))
    }
}

impl Value for Reserve {
    const EXPECTED: &'static str = "a number of pulls such as 20, or a share of the quota such as \"10%\"";

    fn text(text: &str) -> Result<Self, String> {
        let number = text.trim().strip_suffix('%').ok_or_else(|| "numbers have no quotes, shares end with '%'".to_owned())?;
        match number.trim_end().parse() {
            Ok(percent) if (0.0..=100.0).contains(&percent) => Ok(Self::Percent(percent)),
            _ => Err("a share is from 0% to 100%".into()),
        }
    }

    fn integer(number: i64) -> Option<Result<Self, String>> {
        Some(u64::try_from(number).map(Self::Pulls).map_err(|_| String::new()))
    }
}

impl Value for BlobOutage {
    const EXPECTED: &'static str = "503, 429 or 404";

    fn text(_: &str) -> Result<Self, String> {
        Err("numbers have no quotes".into())
    }

    fn integer(number: i64) -> Option<Result<Self, String>> {
        Some(match number {
            503 => Ok(Self::Unavailable),
            429 => Ok(Self::TooManyRequests),
            404 => Ok(Self::NotFound),
            _ => Err(String::new()),
        })
    }
}

impl Value for Visibility {
    const EXPECTED: &'static str = "\"public\", \"operator\" or \"caller\"";

    fn text(text: &str) -> Result<Self, String> {
        match text {
            "public" => Ok(Self::Public),
            "operator" => Ok(Self::Operator),
            "caller" => Ok(Self::Caller),
            _ => Err(String::new()),
        }
    }
}

impl Value for SocketAddr {
    const EXPECTED: &'static str = "an IP address and port such as \"127.0.0.1:5000\"";

    fn text(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse() {
            return Ok(address);
        }
        Err(match text.rsplit_once(':') {
            Some(("", port)) => format!("for every address of this machine write \"0.0.0.0:{port}\""),
            Some(("localhost", port)) => format!("write \"127.0.0.1:{port}\""),
            _ => String::new(),
        })
    }

    fn integer(number: i64) -> Option<Result<Self, String>> {
        u16::try_from(number).ok().map(|port| Err(format!("write \"127.0.0.1:{port}\"")))
    }
}

/// `admin.listen`: `None` is "off".
#[derive(Clone, Debug, PartialEq)]
pub(in crate::config) struct AdminListen(pub Option<Listen>);

impl Value for AdminListen {
    const EXPECTED: &'static str =
        "an IP address and port such as \"127.0.0.1:5001\", \"unix:PATH\", \"systemd:NAME\", or \"off\"";

    fn text(text: &str) -> Result<Self, String> {
        if text == "off" { Ok(Self(None)) } else { Listen::text(text).map(|listen| Self(Some(listen))) }
    }

    fn integer(number: i64) -> Option<Result<Self, String>> {
        Listen::integer(number).map(|result| result.map(|listen| Self(Some(listen))))
    }
}

impl Value for UpstreamName {
    const EXPECTED: &'static str = "the name of an upstream such as \"docker.io\"";

    fn text(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| String::new())
    }
}

impl Value for Platform {
    const EXPECTED: &'static str = "a platform such as \"linux/amd64\"";

    fn text(text: &str) -> Result<Self, String> {
        text.parse().map_err(|_| match text.contains(',') {
            true => "several are a list: [\"linux/amd64\", \"linux/arm64\"]".to_owned(),
            false => String::new(),
        })
    }
}

/// A host with an optional port, in lower case: as it stands in a `Host` header or a URL.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::config) struct Host(pub String);

impl Value for Host {
    const EXPECTED: &'static str = "a host with an optional port, such as \"registry.example:5000\"";

    fn text(text: &str) -> Result<Self, String> {
        let lower = text.to_ascii_lowercase();
        match lower.parse::<UpstreamName>() {
            Ok(_) => Ok(Self(lower)),
            Err(_) if text.contains("//") => Err("leave the scheme and the path off".into()),
            Err(_) => Err(String::new()),
        }
    }
}

impl Value for Url {
    const EXPECTED: &'static str = "the base address of a registry such as \"https://registry.example\"";

    fn text(text: &str) -> Result<Self, String> {
        let url = Self::parse(text).map_err(|error| match error {
            url::ParseError::RelativeUrlWithoutBase => "it begins with https:// or http://".to_owned(),
            other => other.to_string(),
        })?;
        if !matches!(url.scheme(), "https" | "http") {
            return Err("it begins with https:// or http://".into());
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("a user and password belong into `credentials`".into());
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err("it ends before '?' and '#'".into());
        }
        if url.path().trim_end_matches('/').ends_with("/v2") {
            return Err("leave /v2 off, it is added".into());
        }
        Ok(url)
    }
}

/// A regular expression over tags.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::config) struct TagPattern(pub String);

impl Value for TagPattern {
    const EXPECTED: &'static str = "a regular expression such as '^v[0-9.]+$'";

    fn text(text: &str) -> Result<Self, String> {
        TagPatterns::check(text).map(|_| Self(text.to_owned()))
    }
}

/// A glob over repositories.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::config) struct RepositoryGlob(pub String);

impl Value for RepositoryGlob {
    const EXPECTED: &'static str = "a pattern of repositories such as \"library/*\" or \"team/**\"";

    fn text(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err(String::new());
        }
        Globs::check(text).map(|_| Self(text.to_owned()))
    }
}

/// The beginning of repository names, without slashes around it.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::config) struct Prefix(pub String);

impl Value for Prefix {
    const EXPECTED: &'static str = "the beginning of repository names, such as \"team\" or \"team/project\"";

    fn text(text: &str) -> Result<Self, String> {
        // What no repository can begin with would never match, without a word.
        let prefix = text.strip_suffix('/').unwrap_or(text);
        prefix.parse::<Repository>().map(|_| Self(prefix.to_owned())).map_err(|_| String::new())
    }
}

/// The `NAME` of a program `docker-credential-NAME`.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::config) struct HelperName(pub String);

impl Value for HelperName {
    const EXPECTED: &'static str = "the NAME of a program docker-credential-NAME, such as \"ecr-login\"";

    fn text(text: &str) -> Result<Self, String> {
        let valid = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-');
        let good = (1..=64).contains(&text.len()) && text.bytes().all(valid) && !text.starts_with(['.', '-']);
        if good { Ok(Self(text.to_owned())) } else { Err(String::new()) }
    }
}

impl Value for PathBuf {
    const EXPECTED: &'static str = "the path of a file or folder";

    fn text(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.contains('\0') { Err(String::new()) } else { Ok(text.into()) }
    }
}

impl Value for Abandoned {
    const EXPECTED: &'static str = "\"finish\" or \"abort\"";

    fn text(text: &str) -> Result<Self, String> {
        match text {
            "finish" => Ok(Self::Finish),
            "abort" => Ok(Self::Abort),
            _ => Err(String::new()),
        }
    }
}

impl Value for Eviction {
    const EXPECTED: &'static str = "\"s3-fifo\", \"sieve\", \"lru\", \"lfu-da\" or \"gdsf\"";

    fn text(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|known| known.name() == text).ok_or_else(String::new)
    }
}

impl Value for LogFormat {
    const EXPECTED: &'static str = "\"text\" or \"json\"";

    fn text(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(String::new()),
        }
    }
}

/// `log.level`
#[derive(Clone, Debug, PartialEq)]
pub(in crate::config) struct Level(pub String);

impl Value for Level {
    const EXPECTED: &'static str = "a level (off, error, warn, info, debug, trace) or directives such as \"info,hyper=debug\"";

    fn text(text: &str) -> Result<Self, String> {
        // EnvFilter takes a lone "inof" for a module's name, and then logs nothing.
        let lone = |directive: &&str| !directive.contains(['=', '[']);
        let mistaken = text.split(',').map(str::trim).filter(lone).find(|word| word.parse::<LevelFilter>().is_err());
        if let Some(word) = mistaken {
            return Err(if word == text || word.is_empty() { String::new() } else { format!("{word:?} is no level") });
        }
        match EnvFilter::builder().parse(text) {
            Ok(_) => Ok(Self(text.to_owned())),
            Err(error) => Err(error.to_string()),
        }
    }
}
