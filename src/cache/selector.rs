//! What people name on a command line: an image as `docker pull` takes it, a digest, or a pattern over images.

use std::str::FromStr;

use crate::config::{Globs, is_pattern};
use crate::oci::image::{no_digest, split_host};
use crate::oci::{Digest, ImageRef, UpstreamName};

/// What was named.
#[derive(Clone, Debug, PartialEq)]
pub enum Selector {
    /// One image: `alpine:3.20`, `ghcr.io/acme/app@sha256:…`.
    Image(ImageRef),
    /// One object by its digest: `sha256:…`.
    Digest(Digest),
    /// All images whose name `UPSTREAM/REPOSITORY:TAG` matches.
    Glob(Globs),
}

impl FromStr for Selector {
    type Err = String;

    /// The error says what would be right.
    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(digest) = text.parse() {
            return Ok(Self::Digest(digest));
        }
        if is_pattern(text) && no_digest(text).is_none() {
            return Globs::new([full_pattern(text)]).map(Self::Glob);
        }
        let image = text.parse::<ImageRef>();
        image.map(Self::Image).map_err(|error| format!("{error}, or a pattern as ghcr.io/acme/**"))
    }
}

/// A pattern over full names. What begins as no name of an upstream is of Docker Hub, as with images; what begins with a
/// pattern may be of any. Without a tag, every tag is meant.
fn full_pattern(text: &str) -> String {
    let head = text.split_once('/').map_or("", |(head, _)| head);
    let full = if head.contains(['*', '{', '[']) || text.starts_with("**") {
        text.to_owned()
    } else {
        let (host, rest) = split_host(text);
        let is_hub = host == UpstreamName::docker_hub().as_str();
        let library = if is_hub && !rest.contains('/') && !rest.starts_with("**") { "library/" } else { "" };
        format!("{host}/{library}{rest}")
    };
    let last = full.rsplit('/').next().unwrap_or_default();
    if last.contains(':') || last == "**" { full } else { format!("{full}:*") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_as_people_write_them() {
        let digest = Digest::of(crate::oci::Algorithm::Sha256, b"");
        for (text, full) in [
            ("alpine", "docker.io/library/alpine:latest"),
            ("alpine:3.20", "docker.io/library/alpine:3.20"),
            ("docker.io/alpine", "docker.io/library/alpine:latest"),
            ("grafana/loki:3", "docker.io/grafana/loki:3"),
            ("ghcr.io/acme/app:v1", "ghcr.io/acme/app:v1"),
            ("localhost:5000/a/b", "localhost:5000/a/b:latest"),
            (&format!("quay.io/a/b:x@{digest}"), &format!("quay.io/a/b@{digest}")),
        ] {
            match text.parse::<Selector>() {
                Ok(Selector::Image(image)) => assert_eq!(image.to_string(), full),
                other => panic!("{text}: {other:?}"),
            }
        }
        assert_eq!(digest.to_string().parse(), Ok(Selector::Digest(digest)));
        for bad in ["", "Alpine", "a:b:c", "a@sha256:x", "ghcr.io/", "a//b", "sha256:7a19214efe71", "sha256:7a19*"] {
            let error = bad.parse::<Selector>().unwrap_err();
            assert!(error.starts_with(&format!("{bad:?} is no image: ")) && error.contains("or a pattern as"), "{error}");
        }
    }

    #[test]
    fn patterns() {
        for (pattern, name, matches) in [
            ("**", "ghcr.io/acme/app:v1", true),
            ("ghcr.io/acme/**", "ghcr.io/acme/app:v1", true),
            ("ghcr.io/acme/*", "ghcr.io/acme/a/b:v1", false),
            ("alp*", "docker.io/library/alpine:3.20", true),
            ("alpine:3.*", "docker.io/library/alpine:3.20", true),
            ("alpine:3.*", "docker.io/library/alpine:2", false),
            ("grafana/*", "docker.io/grafana/loki:3", true),
            ("grafana/*", "ghcr.io/grafana/loki:3", false),
            ("docker.io/alp*", "docker.io/library/alpine:3.20", true),
            ("index.docker.io/library/*", "docker.io/library/alpine:3.20", true),
            ("docker.io/**", "docker.io/grafana/loki:3", true),
            ("localhost:5000/a:*", "localhost:5000/a:1", true),
            ("*/acme/app", "quay.io/acme/app:1", true),
            ("{ghcr,quay}.io/acme/*", "quay.io/acme/app:1", true),
        ] {
            match pattern.parse::<Selector>() {
                Ok(Selector::Glob(globs)) => assert_eq!(globs.is_match(name), matches, "{pattern} {name}"),
                other => panic!("{pattern}: {other:?}"),
            }
        }
    }
}
