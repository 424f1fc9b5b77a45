//! Platforms of images: `linux/amd64`, `linux/arm/v7`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What an image runs on.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Platform {
    /// `linux`
    pub os: String,
    /// `amd64`
    pub architecture: String,
    /// `v7`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl FromStr for Platform {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split('/').collect();
        let word =
            |part: &&str| !part.is_empty() && part.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'-' | b'.'));
        match parts[..] {
            [os, architecture, ref variant @ ..] if variant.len() <= 1 && parts.iter().all(word) => {
                Ok(Self { os: os.into(), architecture: architecture.into(), variant: variant.first().map(|text| (*text).into()) })
            }
            _ => Err(format!("{text:?} is no platform such as linux/amd64 or linux/arm/v7")),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.as_ref().map_or(Ok(()), |variant| write!(f, "/{variant}"))
    }
}

/// Which platforms are wanted; none named means all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Platforms(pub Vec<Platform>);

impl Platforms {
    /// Whether every platform is wanted.
    pub fn is_all(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `platform` is wanted. A wish without a variant takes every variant.
    pub fn wants(&self, platform: &Platform) -> bool {
        let one = |wish: &Platform| {
            wish.os == platform.os
                && wish.architecture == platform.architecture
                // v8 is what arm64 is without a word.
                && (wish.variant.is_none() || wish.variant == platform.variant || (wish.architecture == "arm64" && platform.variant.is_none()))
        };
        self.is_all() || self.0.iter().any(one)
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

impl FromStr for Platforms {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "all" {
            return Ok(Self::default());
        }
        let mut platforms = text.split(',').map(|one| one.trim().parse()).collect::<Result<Vec<Platform>, _>>()?;
        platforms.sort();
        platforms.dedup();
        Ok(Self(platforms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wishes() {
        let wants = |wish: &str, platform: &str| wish.parse::<Platforms>().unwrap().wants(&platform.parse().unwrap());
        assert!(wants("all", "plan9/mips"));
        assert!(wants("linux/amd64,linux/arm", "linux/arm/v7"));
        assert!(wants("linux/arm64/v8", "linux/arm64"));
        assert!(!wants("linux/arm/v6", "linux/arm/v7") && !wants("linux/amd64", "windows/amd64"));
        assert!("linux".parse::<Platforms>().is_err() && "linux/amd64,".parse::<Platforms>().is_err());
    }
}
