//! Names of things in a registry: upstream, repository, tag, reference.
//!
//! Each type holds its grammar (OCI distribution-spec, *Pulling manifests*): a value that exists is valid, so no
//! later stage checks again, and none of them can leave the folder or the URL path it is put into.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::digest::Digest;

/// Why a string is not the name it was taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Not a repository: lower-case components of `[a-z0-9]` joined by `.`, `_`, `__` or dashes, `/` between, 255 characters at most.
    #[error("a repository is lower-case components separated by '/', 255 characters at most")]
    Repository,
    /// Not a tag: `[A-Za-z0-9_][A-Za-z0-9._-]{0,127}`.
    #[error("a tag is up to 128 letters, digits, '_', '.' or '-', and does not begin with '.' or '-'")]
    Tag,
    /// Not an upstream name: a host name with a dot, a port or both, or `localhost`.
    #[error("an upstream is named by its host as images spell it, with a dot or a port in it, as in registry.example:5000")]
    Upstream,
}

/// The name of an upstream registry as images spell it: `docker.io`, `registry.example:5000`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UpstreamName(Arc<str>);

/// A repository within an upstream: `library/alpine`. At most 255 characters.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Repository(Arc<str>);

/// A tag: `3.20`, `latest`. Case matters.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(Arc<str>);

/// What stands behind `/manifests/`: a tag that can move, or a digest that cannot.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Reference {
    /// A tag, to be resolved.
    Tag(Tag),
    /// A digest, which names its bytes for ever.
    Digest(Digest),
}

/// A repository of an upstream: what a permission, a record or a quota is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Scope {
    /// The upstream.
    pub upstream: UpstreamName,
    /// The repository in it.
    pub repository: Repository,
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.upstream, self.repository)
    }
}

/// Docker Hub, as images spell it.
pub(super) const DOCKER_HUB: &str = "docker.io";

/// Docker's rule for the first component of an image's name, which has more than one: what has a dot or a port in it is the
/// host of a registry, and so is `localhost`; any other word belongs to the repository.
pub fn is_host(component: &str) -> bool {
    component.contains(['.', ':']) || component == "localhost"
}

fn is_upstream(text: &str) -> bool {
    let (host, port) = match text.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    };
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-')
    };
    text.len() <= 253
        && is_host(text)
        && host.split('.').all(label)
        && port
            .is_none_or(|port| !port.starts_with('0') && port.bytes().all(|c| c.is_ascii_digit()) && port.parse::<u16>().is_ok())
}

/// One component of a repository: `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`.
fn is_component(text: &str) -> bool {
    let bytes = text.as_bytes();
    let alphanumeric = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    alphanumeric(*first)
        && alphanumeric(*last)
        && bytes
            .split(|c| alphanumeric(*c))
            .all(|separator| matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|c| *c == b'-'))
}

fn is_repository(text: &str) -> bool {
    text.len() <= 255 && text.split('/').all(is_component)
}

fn is_tag(text: &str) -> bool {
    let word = |c: u8| c.is_ascii_alphanumeric() || c == b'_';
    matches!(text.as_bytes(), [first, rest @ ..]
        if word(*first) && rest.len() <= 127 && rest.iter().all(|c| word(*c) || matches!(c, b'.' | b'-')))
}

macro_rules! name {
    ($type:ident, $valid:ident, $error:ident) => {
        impl $type {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                if $valid(text) { Ok(Self(text.into())) } else { Err(NameError::$error) }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                super::from_text(deserializer)
            }
        }
    };
}

name!(UpstreamName, is_upstream, Upstream);
name!(Repository, is_repository, Repository);
name!(Tag, is_tag, Tag);

impl UpstreamName {
    /// Docker Hub, whose images are meant wherever a name says nothing of a registry.
    pub fn docker_hub() -> Self {
        Self(DOCKER_HUB.into())
    }

    /// Whether it is Docker Hub.
    pub fn is_docker_hub(&self) -> bool {
        &*self.0 == DOCKER_HUB
    }

    /// A repository of this registry, as people write it: Docker Hub's official images have an invisible `library/` before
    /// their one-component name. With it, too, a name has 255 characters at most.
    pub fn repository(&self, name: &str) -> Result<Repository, NameError> {
        let repository = name.parse()?;
        if self.is_docker_hub() && !name.contains('/') { format!("library/{name}").parse() } else { Ok(repository) }
    }
}

impl From<Tag> for Reference {
    fn from(tag: Tag) -> Self {
        Self::Tag(tag)
    }
}

impl From<Digest> for Reference {
    fn from(digest: Digest) -> Self {
        Self::Digest(digest)
    }
}

impl Tag {
    /// The suffixes of the tags under which cosign keeps what belongs to a manifest.
    pub const COSIGN: [&str; 3] = ["sig", "att", "sbom"];

    /// The tag under which cosign keeps something about a manifest, by one of [`Self::COSIGN`].
    pub fn of_cosign(subject: &Digest, suffix: &str) -> Result<Self, NameError> {
        format!("{}.{suffix}", subject.file_name()).parse()
    }

    /// The manifest that a tag is about, where its name says so: `sha256-<hex>` (distribution-spec, *Referrers Tag
    /// Schema*), and cosign's. A tag has no room for the whole of a sha512.
    pub fn subject(&self) -> Option<Digest> {
        let (name, suffix) = match self.0.split_once('.') {
            Some((name, suffix)) => (name, Some(suffix)),
            None => (&*self.0, None),
        };
        let is_about = suffix.is_none_or(|suffix| Self::COSIGN.contains(&suffix));
        is_about.then(|| Digest::from_file_name(name)).flatten()
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => tag.fmt(f),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn repositories() {
        for good in ["a", "library/alpine", "a/b/c/d/e", "a.b_c__d-e---f/0", &"a".repeat(255)] {
            assert!(good.parse::<Repository>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "/",
            "a/",
            "/a",
            "a//b",
            "A",
            "a..b",
            "a___b",
            "a._b",
            "-a",
            "a-",
            "_a",
            ".",
            "..",
            "a/../b",
            "a b",
            "a%2fb",
            "a\\b",
            "a\0",
            "é",
            "a:b",
            &"a".repeat(256),
        ] {
            assert_eq!(bad.parse::<Repository>(), Err(NameError::Repository), "{bad}");
        }
    }

    #[test]
    fn tags() {
        for good in ["latest", "v1.2.3", "_x", "A-b.C", "0", &"t".repeat(128)] {
            assert!(good.parse::<Tag>().is_ok(), "{good}");
        }
        for bad in ["", ".x", "-x", "a/b", "a:b", "a b", "..", &"t".repeat(129)] {
            assert_eq!(bad.parse::<Tag>(), Err(NameError::Tag), "{bad}");
        }
    }

    #[test]
    fn tags_that_are_about_a_manifest() {
        let digest = Digest::of(crate::oci::Algorithm::Sha256, b"");
        let subject = |tag: String| tag.parse::<Tag>().unwrap().subject();
        for suffix in ["", ".sig", ".att", ".sbom"] {
            assert_eq!(subject(format!("sha256-{}{suffix}", digest.hex())), Some(digest), "{suffix}");
        }
        let hex = digest.hex();
        for other in [
            "latest".to_owned(),
            hex.clone(),
            format!("sha256-{hex}."),
            format!("sha256-{hex}.txt"),
            format!("sha256-{hex}.sig.sig"),
            format!("sha256-{}", &hex[1..]),
            format!("sha512-{hex}"),
            format!("sha256-{}", hex.to_uppercase()),
        ] {
            assert_eq!(subject(other.clone()), None, "{other}");
        }
    }

    #[test]
    fn upstreams() {
        for good in ["docker.io", "localhost", "127.0.0.1:5000", "a-b.example:65535"] {
            assert!(good.parse::<UpstreamName>().is_ok(), "{good}");
        }
        for bad in ["", "..", "a..b", "-a", "hub", "Docker.io", "a:", "a:0", "a:65536", "a:b", "a/b", "a:1:2", "a@b"] {
            assert_eq!(bad.parse::<UpstreamName>(), Err(NameError::Upstream), "{bad}");
        }
    }

    #[test]
    fn official_images_get_their_library() {
        let hub = UpstreamName::docker_hub();
        assert!(hub.is_docker_hub() && hub == "docker.io".parse().unwrap());
        let with = |name: &str| hub.repository(name).map(|name| name.to_string());
        assert_eq!(with("alpine").as_deref(), Ok("library/alpine"));
        assert_eq!("quay.io".parse::<UpstreamName>().unwrap().repository("alpine"), "alpine".parse());
        assert_eq!(with("grafana/loki").as_deref(), Ok("grafana/loki"));
        assert_eq!(with(&"a".repeat(247)).map(|name| name.len()), Ok(255));
        assert_eq!(with(&"a".repeat(248)), Err(NameError::Repository));
        assert!(with(&format!("a/{}", "b".repeat(253))).is_ok());
    }

    proptest! {
        /// The hand-written grammar is the specification's regular expression.
        #[test]
        fn repository_grammar_is_the_specification(text in "[a-z0-9A._/-]{0,12}") {
            let specification = regex::Regex::new(
                r"^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$").unwrap();
            prop_assert_eq!(text.parse::<Repository>().is_ok(), specification.is_match(&text));
        }
    }
}
