//! What people name on a command line: an image as `docker pull` takes it, a digest, or a pattern over images.

use crate::config::Globs;
use crate::oci::{Digest, Reference, Repository, Scope, Tag, UpstreamName};

/// What was named.
#[derive(Clone, Debug, PartialEq)]
pub enum Selector {
    /// One image: `alpine:3.20`, `ghcr.io/acme/app@sha256:…`.
    Image(Scope, Reference),
    /// One object by its digest: `sha256:…`.
    Digest(Digest),
    /// All images whose name `UPSTREAM/REPOSITORY:TAG` matches.
    Glob(Globs),
}

/// Whether the first component names an upstream, by Docker's rule.
fn is_upstream(component: &str) -> bool {
    component.contains(['.', ':']) || component == "localhost"
}

impl Selector {
    /// Reads what was written. Names without an upstream mean `default`; those of Docker Hub without a namespace,
    /// official images. The error says what would be right.
    pub fn parse(text: &str, default: &UpstreamName) -> Result<Self, String> {
        if let Ok(digest) = text.parse() {
            return Ok(Self::Digest(digest));
        }
        let (head, rest) = text.split_once('/').unwrap_or(("", text));
        if text.contains(['*', '?', '[', '{']) {
            let is_anywhere = head.contains(['*', '{', '[']) || (head.is_empty() && rest.starts_with("**"));
            let full = match (is_anywhere || is_upstream(head), head.is_empty() && default.as_str() == "docker.io") {
                (true, _) => text.to_owned(),
                (false, true) => format!("{default}/library/{text}"),
                (false, false) => format!("{default}/{text}"),
            };
            let last = full.rsplit('/').next().unwrap_or_default();
            let full = if last.contains(':') || last == "**" { full } else { format!("{full}:*") };
            return Globs::new([full]).map(Self::Glob);
        }
        let wrong = |reason: &str| {
            format!(
                "{text:?} is no image: {reason}; write one as alpine:3.20, ghcr.io/acme/app@sha256:… or a pattern as ghcr.io/acme/**"
            )
        };
        let (upstream, name) = match is_upstream(head) {
            true => (head.parse().map_err(|error: crate::oci::NameError| wrong(&error.to_string()))?, rest),
            false => (default.clone(), text),
        };
        let (name, digest) = match name.split_once('@') {
            Some((name, digest)) => (name, Some(digest.parse::<Digest>().map_err(|error| wrong(&error.to_string()))?)),
            None => (name, None),
        };
        let (name, tag) = match name.rsplit_once(':') {
            Some((name, tag)) => (name, Some(tag)),
            None => (name, None),
        };
        let repository: Repository = name.parse().map_err(|error: crate::oci::NameError| wrong(&error.to_string()))?;
        let repository = match upstream.as_str() {
            "docker.io" => repository.with_library().map_err(|error| wrong(&error.to_string()))?,
            _ => repository,
        };
        let reference = match digest {
            // As with Docker, a tag beside a digest is a remark.
            Some(digest) => Reference::Digest(digest),
            None => {
                let tag: Tag =
                    tag.unwrap_or("latest").parse().map_err(|error: crate::oci::NameError| wrong(&error.to_string()))?;
                Reference::Tag(tag)
            }
        };
        Ok(Self::Image(Scope { upstream, repository }, reference))
    }
}

/// An image's name in full.
pub fn image_name(scope: &Scope, reference: &Reference) -> String {
    match reference {
        Reference::Tag(tag) => format!("{scope}:{tag}"),
        Reference::Digest(digest) => format!("{scope}@{digest}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_as_people_write_them() {
        let hub: UpstreamName = "docker.io".parse().unwrap();
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
            match Selector::parse(text, &hub) {
                Ok(Selector::Image(scope, reference)) => assert_eq!(image_name(&scope, &reference), full),
                other => panic!("{text}: {other:?}"),
            }
        }
        assert_eq!(Selector::parse(&digest.to_string(), &hub), Ok(Selector::Digest(digest)));
        for bad in ["", "Alpine", "a:b:c", "a@sha256:x", "ghcr.io/", "a//b"] {
            assert!(Selector::parse(bad, &hub).is_err(), "{bad}");
        }
    }

    #[test]
    fn patterns() {
        let hub: UpstreamName = "docker.io".parse().unwrap();
        for (pattern, name, matches) in [
            ("**", "ghcr.io/acme/app:v1", true),
            ("ghcr.io/acme/**", "ghcr.io/acme/app:v1", true),
            ("ghcr.io/acme/*", "ghcr.io/acme/a/b:v1", false),
            ("alp*", "docker.io/library/alpine:3.20", true),
            ("alpine:3.*", "docker.io/library/alpine:3.20", true),
            ("alpine:3.*", "docker.io/library/alpine:2", false),
            ("grafana/*", "docker.io/grafana/loki:3", true),
        ] {
            match Selector::parse(pattern, &hub) {
                Ok(Selector::Glob(globs)) => assert_eq!(globs.is_match(name), matches, "{pattern} {name}"),
                other => panic!("{pattern}: {other:?}"),
            }
        }
    }
}
