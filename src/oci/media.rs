//! Media types: what a manifest, and everything it names, is said to be.
//!
//! Owns the grammar (RFC 6838 § 4.2, OCI image-spec *media-types.md*) and the list of types the mirror knows. Never guesses
//! a type from a client's `Accept` (CVE-2021-41190 is what happens otherwise). A [`MediaType`] that exists can stand in a
//! header. Used by [`super::manifest`], by the upstream client for its requests, by the records and by the answers.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A media type without parameters, at most 255 characters of visible ASCII. Cheap to clone.
///
/// Compared without regard to case (RFC 9110 § 8.3.1). A known type has its one spelling; any other keeps the spelling it
/// came with, because clients compare the header with their descriptor letter by letter.
#[derive(Clone)]
pub struct MediaType(Repr);

#[derive(Clone)]
enum Repr {
    Known(&'static str),
    Other(Arc<str>),
}

/// The string is not `type/subtype` by RFC 6838 § 4.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a media type is written type/subtype, each of 1 to 127 letters, digits or '!#$&-^_.+'")]
pub struct MediaTypeError;

macro_rules! known {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal;)*) => {
        impl MediaType {
            $($(#[doc = $doc])+ pub const $name: Self = Self(Repr::Known($text));)*

            const KNOWN: &'static [&'static str] = &[$($text),*];
        }
    };
}

known! {
    /// An OCI image index.
    OCI_INDEX = "application/vnd.oci.image.index.v1+json";
    /// An OCI image manifest.
    OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json";
    /// A Docker manifest list.
    DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// A Docker image manifest, version 2, schema 2.
    DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json";
    /// An OCI artifact manifest: withdrawn from the specification, still in registries.
    OCI_ARTIFACT = "application/vnd.oci.artifact.manifest.v1+json";
    /// The artifact manifest of ORAS, before OCI had one.
    ORAS_ARTIFACT = "application/vnd.cncf.oras.artifact.manifest.v1+json";
    /// A Docker image manifest of schema 1. Not mirrored: no client of today reads it.
    SCHEMA1 = "application/vnd.docker.distribution.manifest.v1+json";
    /// The same, signed: its digest is not that of its bytes.
    SCHEMA1_SIGNED = "application/vnd.docker.distribution.manifest.v1+prettyjws";
    /// Bytes of no known type.
    OCTET_STREAM = "application/octet-stream";
    /// The same, as object stores say it.
    BINARY = "binary/octet-stream";
    /// Some JSON: error bodies and tag lists.
    JSON = "application/json";
    /// Text; what some registries say of a manifest when they do not know.
    TEXT = "text/plain";
}

impl MediaType {
    /// What an upstream is asked for, always in full, whatever the client accepts: some rewrite, hide or refuse what is not
    /// named, and then the digest is another one (protocol notes 0.10).
    pub const ACCEPT: &'static str = "application/vnd.oci.image.index.v1+json, \
        application/vnd.oci.image.manifest.v1+json, \
        application/vnd.docker.distribution.manifest.list.v2+json, \
        application/vnd.docker.distribution.manifest.v2+json, \
        application/vnd.oci.artifact.manifest.v1+json, \
        */*";

    /// The type as it is written into a header.
    pub fn as_str(&self) -> &str {
        match &self.0 {
            Repr::Known(text) => text,
            Repr::Other(text) => text,
        }
    }

    /// The same text, if it is one of the types that are known here.
    pub fn as_known(&self) -> Option<&'static str> {
        match &self.0 {
            Repr::Known(text) => Some(text),
            Repr::Other(_) => None,
        }
    }

    /// Whether it is a list of manifests: an OCI index or a Docker manifest list.
    pub fn is_index(&self) -> bool {
        [Self::OCI_INDEX, Self::DOCKER_LIST].contains(self)
    }

    /// Whether it is an image manifest: one with `config` and `layers`.
    pub fn is_image(&self) -> bool {
        [Self::OCI_MANIFEST, Self::DOCKER_MANIFEST].contains(self)
    }

    /// Whether it is an artifact manifest: one with `blobs`.
    pub fn is_artifact(&self) -> bool {
        [Self::OCI_ARTIFACT, Self::ORAS_ARTIFACT].contains(self)
    }

    /// Whether it is a manifest that is mirrored: an index, an image or an artifact.
    pub fn is_manifest(&self) -> bool {
        self.is_index() || self.is_image() || self.is_artifact()
    }

    /// Whether it is a manifest of schema 1.
    pub fn is_schema1(&self) -> bool {
        [Self::SCHEMA1, Self::SCHEMA1_SIGNED].contains(self)
    }

    /// Whether it says nothing about a manifest, so that the type is to be found in the body.
    pub fn is_vague(&self) -> bool {
        [Self::OCTET_STREAM, Self::BINARY, Self::JSON, Self::TEXT].contains(self)
    }

    /// Whether the top-level type is `application`, as that of every manifest is.
    pub fn is_application(&self) -> bool {
        self.as_str().as_bytes().get(..12).is_some_and(|head| head.eq_ignore_ascii_case(b"application/"))
    }
}

/// `restricted-name` of RFC 6838 § 4.2.
fn is_restricted_name(text: &str) -> bool {
    matches!(text.as_bytes(), [first, rest @ ..]
        if first.is_ascii_alphanumeric()
            && rest.len() <= 126
            && rest.iter().all(|c| c.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(c)))
}

impl FromStr for MediaType {
    type Err = MediaTypeError;

    /// Reads the value of a `Content-Type`: parameters are dropped.
    fn from_str(text: &str) -> Result<Self, MediaTypeError> {
        let text = text.split(';').next().unwrap_or_default().trim_matches([' ', '\t']);
        let (kind, subtype) = text.split_once('/').ok_or(MediaTypeError)?;
        if !is_restricted_name(kind) || !is_restricted_name(subtype) {
            return Err(MediaTypeError);
        }
        let known = Self::KNOWN.iter().find(|known| known.eq_ignore_ascii_case(text));
        Ok(Self(known.map_or_else(|| Repr::Other(text.into()), |known| Repr::Known(known))))
    }
}

impl PartialEq for MediaType {
    fn eq(&self, other: &Self) -> bool {
        self.as_str().eq_ignore_ascii_case(other.as_str())
    }
}

impl Eq for MediaType {}

impl Hash for MediaType {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().bytes().for_each(|byte| state.write_u8(byte.to_ascii_lowercase()));
        state.write_u8(0xff);
    }
}

impl fmt::Display for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for MediaType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for MediaType {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        super::from_text(deserializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;

    #[test]
    fn parameters_and_case_do_not_matter() {
        for text in [
            "application/vnd.oci.image.index.v1+json",
            "application/vnd.oci.image.index.v1+json; charset=utf-8",
            "  application/vnd.oci.image.index.v1+json\t;a=b;c=d",
            "Application/VND.oci.image.index.v1+JSON",
        ] {
            let parsed: MediaType = text.parse().unwrap();
            assert_eq!(parsed, MediaType::OCI_INDEX, "{text}");
            assert_eq!(parsed.to_string(), "application/vnd.oci.image.index.v1+json", "{text}");
        }
    }

    #[test]
    fn an_unknown_type_keeps_its_spelling() {
        let parsed: MediaType = "application/vnd.Example.Thing+json".parse().unwrap();
        assert_eq!(parsed.to_string(), "application/vnd.Example.Thing+json");
        let other: MediaType = "application/vnd.example.thing+json".parse().unwrap();
        assert_eq!(parsed, other);
        assert_eq!(std::collections::HashSet::from([parsed, other]).len(), 1);
    }

    #[test]
    fn what_is_no_media_type() {
        let long = format!("a/{}", "b".repeat(128));
        for text in ["", "json", "/", "a/", "/b", "a/b/c", "a b/c", "a/b\r\nX: y", "a/\"b\"", ";a/b", "*/*", ".a/b", "a/é", &long]
        {
            assert_eq!(text.parse::<MediaType>(), Err(MediaTypeError), "{text}");
        }
        assert!(format!("a/{}", "b".repeat(127)).parse::<MediaType>().is_ok());
    }

    #[test]
    fn kinds() {
        let all = MediaType::KNOWN.iter().map(|text| text.parse::<MediaType>().unwrap());
        for media in all {
            let kinds = [media.is_index(), media.is_image(), media.is_artifact(), media.is_schema1(), media.is_vague()];
            assert_eq!(kinds.iter().filter(|is| **is).count(), 1, "{media}");
            assert_eq!(media.is_manifest(), kinds[..3].contains(&true), "{media}");
        }
        assert!(MediaType::OCI_INDEX.is_application() && !MediaType::TEXT.is_application());
    }

    #[test]
    fn everything_that_is_mirrored_is_asked_for() {
        let asked: Vec<_> = MediaType::ACCEPT.split(", ").collect();
        for media in [
            MediaType::DOCKER_LIST,
            MediaType::DOCKER_MANIFEST,
            MediaType::OCI_INDEX,
            MediaType::OCI_MANIFEST,
            MediaType::OCI_ARTIFACT,
        ] {
            assert!(asked.contains(&media.as_str()), "{media}");
        }
        assert_eq!(asked.last(), Some(&"*/*"));
        assert_eq!(asked.len(), 6);
    }

    proptest! {
        #[test]
        fn what_parses_is_a_header_and_parses_back(text in "[a-zA-Z0-9!#$&^_.+; -]{1,6}/[a-zA-Z0-9!#$&^_.+;/-]{1,12}") {
            if let Ok(media) = text.parse::<MediaType>() {
                prop_assert!(HeaderValue::from_str(media.as_str()).unwrap().to_str().is_ok());
                prop_assert_eq!(media.to_string().parse::<MediaType>(), Ok(media.clone()));
                let json = serde_json::to_string(&media).unwrap();
                prop_assert_eq!(serde_json::from_str::<MediaType>(&json).unwrap(), media);
            }
        }
    }
}
