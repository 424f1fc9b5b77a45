//! Images as people and other tools write them: `alpine`, `ghcr.io/acme/app:1`, `quay.io/acme/app@sha256:…`.
//!
//! Owns the one way to read them and the one way to write them, in full: `docker.io/library/alpine:latest`. A short name is
//! Docker Hub's, as everywhere in the field, whatever upstream a request means that names none ([`super::route`] knows that
//! one). Used wherever an image is named other than by a URL; patterns of several build upon it (`config::Wish`,
//! `cache::selector`).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::digest::{Algorithm, Digest};
use super::name::{DOCKER_HUB, Reference, Scope, Tag, UpstreamName, is_host};

/// One image of one repository, by tag or digest.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ImageRef {
    /// Whose image.
    pub scope: Scope,
    /// Which one.
    pub reference: Reference,
}

/// Why text names no image, and what would.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no image: {why}; write one as alpine:3.20 or ghcr.io/acme/app@sha256:…")]
pub struct ImageError {
    text: String,
    why: String,
}

impl ImageError {
    /// `text` names no image, because of `why`.
    pub fn new(text: &str, why: impl fmt::Display) -> Self {
        Self { text: text.chars().take(300).collect(), why: why.to_string() }
    }

    /// Why not, without the text.
    pub fn why(&self) -> &str {
        &self.why
    }
}

/// A name without its tag and digest, taken apart: the registry, and the rest. `index.docker.io` is Docker Hub's older name.
pub fn split_host(name: &str) -> (&str, &str) {
    match name.split_once('/') {
        Some(("index.docker.io", rest)) => (DOCKER_HUB, rest),
        Some((host, rest)) if is_host(host) => (host, rest),
        _ => (DOCKER_HUB, name),
    }
}

/// A name without its digest, taken apart: what stands before the tag, and the tag. A colon before the last slash belongs to
/// a port.
pub fn split_tag(name: &str) -> (&str, Option<&str>) {
    match name.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (name, None),
    }
}

/// Why a word that stands where the host of a registry stands is none.
fn no_host(host: &str, error: impl fmt::Display) -> String {
    let lower = host.to_ascii_lowercase();
    match lower.parse::<UpstreamName>() {
        _ if matches!(&*lower, "http:" | "https:" | "docker:" | "oci:") => "an image has no scheme; leave it off".to_owned(),
        Ok(_) => format!("registries are written in lower case, as in {lower}"),
        Err(_) => error.to_string(),
    }
}

/// Why text that begins as a digest alone does is no image. Docker Hub could call one so and does not; what was meant is a
/// digest, be it one that was cut short to be read.
pub fn no_digest(text: &str) -> Option<String> {
    let (algorithm, hex) = text.split_once(':')?;
    let is_digest = Algorithm::ALL.into_iter().any(|known| known.name() == algorithm)
        && hex.starts_with(|c: char| c.is_ascii_hexdigit())
        && hex.chars().all(|c| c.is_ascii_hexdigit() || matches!(c, '*' | '?' | '…' | '.'));
    is_digest.then(|| match text.parse::<Digest>() {
        Ok(_) => "it is a digest alone; write whose it is before it, as in REPOSITORY@sha256:…".to_owned(),
        Err(error) => format!("{error}; ls and explain print all of them with --json"),
    })
}

impl Scope {
    /// An image of this repository.
    pub fn image(&self, reference: impl Into<Reference>) -> ImageRef {
        ImageRef { scope: self.clone(), reference: reference.into() }
    }
}

impl FromStr for Scope {
    type Err = ImageError;

    /// Reads an image's name without tag and digest.
    fn from_str(text: &str) -> Result<Self, ImageError> {
        let (host, name) = split_host(text);
        let upstream: UpstreamName = host.parse().map_err(|error| ImageError::new(text, no_host(host, error)))?;
        let repository = upstream.repository(name).map_err(|error| ImageError::new(text, error))?;
        Ok(Self { upstream, repository })
    }
}

impl FromStr for ImageRef {
    type Err = ImageError;

    /// Without a tag, `latest` is meant; a tag beside a digest is a remark, as with Docker.
    fn from_str(text: &str) -> Result<Self, ImageError> {
        let fail = |why: &dyn fmt::Display| ImageError::new(text, why);
        if let Some(why) = no_digest(text) {
            return Err(fail(&why));
        }
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(digest.parse::<Digest>().map_err(|error| fail(&error))?)),
            None => (text, None),
        };
        let (name, tag) = split_tag(name);
        let scope: Scope = name.parse().map_err(|error: ImageError| fail(&error.why))?;
        let tag: Tag = tag.unwrap_or("latest").parse().map_err(|error| fail(&error))?;
        Ok(Self { scope, reference: digest.map_or(Reference::Tag(tag), Reference::Digest) })
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.reference {
            Reference::Tag(tag) => write!(f, "{}:{tag}", self.scope),
            Reference::Digest(digest) => write!(f, "{}@{digest}", self.scope),
        }
    }
}

impl Serialize for ImageRef {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ImageRef {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        super::from_text(deserializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_has_one_full_name() {
        let digest = Digest::of(Algorithm::Sha256, b"");
        for (text, full) in [
            ("alpine", "docker.io/library/alpine:latest"),
            ("alpine:3.20", "docker.io/library/alpine:3.20"),
            ("library/alpine", "docker.io/library/alpine:latest"),
            ("docker.io/alpine", "docker.io/library/alpine:latest"),
            ("index.docker.io/alpine:3", "docker.io/library/alpine:3"),
            ("index.docker.io/library/alpine", "docker.io/library/alpine:latest"),
            ("grafana/loki:2", "docker.io/grafana/loki:2"),
            ("docker.io/grafana/a/b", "docker.io/grafana/a/b:latest"),
            ("ghcr.io/app", "ghcr.io/app:latest"),
            ("ghcr.io/acme/app:V1", "ghcr.io/acme/app:V1"),
            ("localhost/a", "localhost/a:latest"),
            ("localhost:5000/a/b", "localhost:5000/a/b:latest"),
            ("registry:5000/a:1", "registry:5000/a:1"),
            ("127.0.0.1:5000/a:1", "127.0.0.1:5000/a:1"),
            // A tag is no digest, whatever the image is called; nor is one of an image that is written in full.
            ("sha256:latest", "docker.io/library/sha256:latest"),
            ("docker.io/library/sha256:7a19", "docker.io/library/sha256:7a19"),
            // No host without a slash behind it.
            ("localhost", "docker.io/library/localhost:latest"),
            ("localhost:5000", "docker.io/library/localhost:5000"),
            (&format!("alpine@{digest}"), &format!("docker.io/library/alpine@{digest}")),
            (&format!("quay.io/a/b:1@{digest}"), &format!("quay.io/a/b@{digest}")),
            (&format!("quay.io:443/a@{digest}"), &format!("quay.io:443/a@{digest}")),
        ] {
            let image: ImageRef = text.parse().unwrap();
            assert_eq!(image.to_string(), full, "{text}");
            assert_eq!(full.parse::<ImageRef>().as_ref(), Ok(&image), "{full}");
            let json = serde_json::to_string(&image).unwrap();
            assert_eq!(json, format!("{full:?}"));
            assert_eq!(serde_json::from_str::<ImageRef>(&json).unwrap(), image);
        }
    }

    #[test]
    fn what_is_no_image_is_told_with_its_reason() {
        let repository = "a repository is lower-case components";
        let tag = "a tag is up to 128 letters";
        for (text, why) in [
            ("", repository),
            ("Alpine", repository),
            ("a b", repository),
            ("a//b", repository),
            ("../x", "an upstream is named by its host"),
            ("docker.io/", repository),
            ("ghcr.io/", repository),
            ("a:b:c", repository),
            ("alpine:", tag),
            ("alpine:3.*", tag),
            ("alpine:.x", tag),
            ("alpine@sha256:1", "the digest's hex part must be"),
            ("alpine@", "digest"),
            ("a:b*@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", tag),
            ("Docker.io/library/alpine", "registries are written in lower case, as in docker.io"),
            ("sha256:7a19214efe71", "must be 64 lower-case hexadecimal characters; ls and explain print all of them with --json"),
            ("sha512:7a19", "must be 128 lower-case"),
            ("sha256:7a19214efe71…", "must be 64 lower-case"),
            ("sha256:E3B0C442", "must be 64 lower-case"),
            (&Digest::of(Algorithm::Sha256, b"").to_string(), "it is a digest alone; write whose it is"),
            ("https://ghcr.io/a/b", "an image has no scheme"),
            ("docker://alpine", "an image has no scheme"),
            ("a.example:99999/b", "an upstream is named by its host"),
        ] {
            let error = text.parse::<ImageRef>().unwrap_err();
            assert!(error.why().contains(why), "{text}: {error}");
            let told = error.to_string();
            assert!(told.starts_with(&format!("{text:?} is no image: ")) && told.contains("write one as alpine:3.20"), "{told}");
        }
        assert!("a".repeat(100_000).parse::<ImageRef>().unwrap_err().to_string().len() < 600);
    }

    #[test]
    fn a_repository_has_no_tag() {
        assert_eq!("alpine".parse::<Scope>().unwrap().to_string(), "docker.io/library/alpine");
        assert_eq!("localhost:5000/a".parse::<Scope>().unwrap().to_string(), "localhost:5000/a");
        assert!("alpine:3".parse::<Scope>().is_err() && "ghcr.io/a:3".parse::<Scope>().is_err());
    }
}
