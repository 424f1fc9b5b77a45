//! Image references as people and other tools write them: `alpine`, `ghcr.io/a/b:1`, `x@sha256:…`, `pause:3.*`.

use std::fmt;
use std::str::FromStr;

use crate::oci::{Digest, Reference, Scope, Tag};

/// One image of one repository, by tag or digest. Written in full: `docker.io/library/alpine:3.20`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ImageRef {
    /// Whose image.
    pub scope: Scope,
    /// Which one.
    pub reference: Reference,
}

/// What of a repository is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// One image.
    One(ImageRef),
    /// All tags that a glob matches.
    Tags(Scope, String),
}

/// Why text names no image.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} names no image: {why}")]
pub struct ReferenceError {
    text: String,
    why: String,
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let separator = match self.reference {
            Reference::Tag(_) => ':',
            Reference::Digest(_) => '@',
        };
        write!(f, "{}{separator}{}", self.scope, self.reference)
    }
}

impl fmt::Display for Wish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(image) => image.fmt(f),
            Self::Tags(scope, glob) => write!(f, "{scope}:{glob}"),
        }
    }
}

impl FromStr for ImageRef {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        match text.parse()? {
            Wish::One(image) => Ok(image),
            Wish::Tags(..) => Err(ReferenceError { text: text.into(), why: "a pattern of tags cannot stand here".into() }),
        }
    }
}

impl FromStr for Wish {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let fail = |why: String| ReferenceError { text: text.chars().take(300).collect(), why };
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse::<Digest>().map_err(|error| fail(error.to_string()))?)),
            None => (text, None),
        };
        // A colon before the last slash belongs to a port.
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        // Docker's rule: what looks like a host is one.
        let (upstream, repository) = match name.split_once('/') {
            Some((host, rest)) if host.contains(['.', ':']) || host == "localhost" => (host, rest),
            _ => ("docker.io", name),
        };
        let upstream = if upstream == "index.docker.io" { "docker.io" } else { upstream };
        let mut scope = Scope {
            upstream: upstream.parse().map_err(|error| fail(format!("{error}")))?,
            repository: repository.parse().map_err(|error| fail(format!("{error}")))?,
        };
        if upstream == "docker.io" {
            scope.repository = scope.repository.with_library().map_err(|error| fail(error.to_string()))?;
        }
        let reference = match (digest, tag) {
            (Some(digest), _) => Reference::Digest(digest),
            (None, Some(glob)) if glob.contains(['*', '?', '[', '{']) => return Ok(Self::Tags(scope, glob.to_owned())),
            (None, tag) => Reference::Tag(tag.unwrap_or("latest").parse::<Tag>().map_err(|error| fail(error.to_string()))?),
        };
        Ok(Self::One(ImageRef { scope, reference }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_are_written_in_full() {
        for (short, full) in [
            ("alpine", "docker.io/library/alpine:latest"),
            ("alpine:3.20", "docker.io/library/alpine:3.20"),
            ("grafana/loki:2", "docker.io/grafana/loki:2"),
            ("index.docker.io/library/alpine", "docker.io/library/alpine:latest"),
            ("localhost:5000/a/b", "localhost:5000/a/b:latest"),
            ("registry.k8s.io/pause:3.*", "registry.k8s.io/pause:3.*"),
        ] {
            assert_eq!(short.parse::<Wish>().unwrap().to_string(), full);
        }
        let digest = Digest::of(crate::oci::Algorithm::Sha256, b"");
        let pinned = format!("quay.io/a/b:1@{digest}").parse::<ImageRef>().unwrap();
        assert_eq!(pinned.to_string(), format!("quay.io/a/b@{digest}"));
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for text in ["", "A", "a b", "../x", "docker.io/", "x:", "x@sha256:1", "http://a.example/b", "a:b*"] {
            assert!(text.parse::<ImageRef>().is_err(), "{text}");
        }
    }
}
