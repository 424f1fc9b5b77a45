//! Platforms of images: `linux/amd64`, `linux/arm/v7` (OCI image-spec, *image-index.md*).
//!
//! Owns what an index says of a machine, what people wish for, and the one rule by which a wish is met. Used by pins, by
//! `[[prefetch]]`, and by whatever carries images.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A machine that an image is for. What an index says may be any text; what people write is checked ([`FromStr`]). As JSON it
/// is an object, as in an index.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Platform {
    /// As `linux`.
    pub os: String,
    /// As `arm64`.
    pub architecture: String,
    /// As `v8`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

/// Text that names no platform.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no platform such as linux/amd64 or linux/arm64/v8")]
pub struct PlatformError(String);

impl Platform {
    /// As a wish: whether an image for `other` meets it. A wish without a variant takes every variant. What is for arm64
    /// without a word is for v8, which every later one runs.
    pub fn takes(&self, other: &Self) -> bool {
        let unsaid = || other.architecture == "arm64" && other.variant.is_none();
        self.os == other.os
            && self.architecture == other.architecture
            && (self.variant.is_none() || self.variant == other.variant || unsaid())
    }

    /// Whether it is BuildKit's `unknown/unknown`: what it stands at, as an attestation, runs nowhere.
    pub fn is_unknown(&self) -> bool {
        self.os == "unknown"
    }
}

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let parts: Vec<&str> = text.split('/').collect();
        let word =
            |part: &&str| !part.is_empty() && part.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'-' | b'.'));
        match parts[..] {
            [os, architecture, ref variant @ ..] if variant.len() <= 1 && parts.iter().all(word) => {
                Ok(Self { os: os.into(), architecture: architecture.into(), variant: variant.first().map(|text| (*text).into()) })
            }
            _ => Err(PlatformError(text.chars().take(100).collect())),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.iter().try_for_each(|variant| write!(f, "/{variant}"))
    }
}

/// Which platforms are wanted; none named means all. Written `linux/amd64,linux/arm64`, or `all`; as JSON, a list of texts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Platforms(pub Vec<Platform>);

impl Platforms {
    /// Whether every platform is wanted.
    pub fn is_all(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether an image for `platform` is wanted ([`Platform::takes`]).
    pub fn wants(&self, platform: &Platform) -> bool {
        self.is_all() || self.0.iter().any(|wish| wish.takes(platform))
    }
}

impl FromIterator<Platform> for Platforms {
    /// In order, each once.
    fn from_iter<I: IntoIterator<Item = Platform>>(platforms: I) -> Self {
        let mut platforms: Vec<_> = platforms.into_iter().collect();
        platforms.sort();
        platforms.dedup();
        Self(platforms)
    }
}

impl FromStr for Platforms {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, PlatformError> {
        if text == "all" { Ok(Self::default()) } else { text.split(',').map(|one| one.trim().parse()).collect() }
    }
}

impl fmt::Display for Platforms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_all() {
            return f.write_str("all");
        }
        f.write_str(&self.0.iter().map(ToString::to_string).collect::<Vec<_>>().join(","))
    }
}

impl Serialize for Platforms {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(ToString::to_string))
    }
}

impl<'de> Deserialize<'de> for Platforms {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let texts = Vec::<String>::deserialize(deserializer)?;
        texts.iter().map(|text| text.parse()).collect::<Result<_, _>>().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_rule_says_what_a_wish_takes() {
        for (wish, platform, takes) in [
            ("all", "plan9/mips", true),
            ("linux/amd64", "linux/amd64", true),
            ("linux/amd64", "windows/amd64", false),
            ("linux/amd64", "linux/arm64", false),
            ("linux/amd64,linux/arm", "linux/arm/v7", true),
            ("linux/arm/v6", "linux/arm/v7", false),
            ("linux/arm/v6", "linux/arm", false),
            ("linux/arm64", "linux/arm64/v8", true),
            ("linux/arm64/v8", "linux/arm64", true),
            ("linux/arm64/v8", "linux/arm64/v9", false),
            ("linux/arm", "linux/arm64", false),
        ] {
            let wanted = wish.parse::<Platforms>().unwrap();
            assert_eq!(wanted.wants(&platform.parse().unwrap()), takes, "{wish} {platform}");
        }
    }

    #[test]
    fn written_and_read_back() {
        for (text, written) in [
            ("all", "all"),
            ("linux/arm64/v8", "linux/arm64/v8"),
            ("linux/s390x, linux/amd64,linux/amd64", "linux/amd64,linux/s390x"),
            ("windows/amd64", "windows/amd64"),
        ] {
            let platforms: Platforms = text.parse().unwrap();
            assert_eq!(platforms.to_string(), written);
            assert_eq!(written.parse::<Platforms>().as_ref(), Ok(&platforms));
            let json = serde_json::to_string(&platforms).unwrap();
            assert_eq!(serde_json::from_str::<Platforms>(&json).unwrap(), platforms, "{json}");
        }
        assert_eq!(serde_json::to_string(&"linux/amd64".parse::<Platforms>().unwrap()).unwrap(), r#"["linux/amd64"]"#);
        for bad in ["", "linux", "linux/", "/amd64", "linux//v8", "linux/arm/v7/x", "linux/am d64", "linux/amd64,", "linux/é"] {
            let error = bad.parse::<Platforms>().unwrap_err().to_string();
            assert!(error.ends_with("is no platform such as linux/amd64 or linux/arm64/v8"), "{bad}: {error}");
        }
    }

    #[test]
    fn as_an_index_says_it() {
        let read = |json: &str| serde_json::from_str::<Platform>(json);
        let arm = read(r#"{"architecture":"arm64","os":"linux","variant":"v8","os.features":["x"]}"#).unwrap();
        assert_eq!(arm, "linux/arm64/v8".parse().unwrap());
        assert!(read(r#"{"architecture":"unknown","os":"unknown"}"#).unwrap().is_unknown() && !arm.is_unknown());
        assert!(read(r#"{"os":"linux"}"#).is_err());
    }
}
