//! Media types of manifests.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

/// A media type without parameters, in lower case.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "String")]
pub struct MediaType(Cow<'static, str>);

impl MediaType {
    /// An OCI image index.
    pub const OCI_INDEX: Self = Self(Cow::Borrowed("application/vnd.oci.image.index.v1+json"));
    /// An OCI image manifest.
    pub const OCI_MANIFEST: Self = Self(Cow::Borrowed("application/vnd.oci.image.manifest.v1+json"));
    /// An OCI artifact manifest: withdrawn from the specification, still in registries.
    pub const OCI_ARTIFACT: Self = Self(Cow::Borrowed("application/vnd.oci.artifact.manifest.v1+json"));
    /// A Docker manifest list.
    pub const DOCKER_LIST: Self = Self(Cow::Borrowed("application/vnd.docker.distribution.manifest.list.v2+json"));
    /// A Docker image manifest, schema 2.
    pub const DOCKER_MANIFEST: Self = Self(Cow::Borrowed("application/vnd.docker.distribution.manifest.v2+json"));

    /// What an upstream is asked for, always in full: some rewrite or refuse what is not named (protocol notes 0.10).
    pub const ACCEPT: &'static str = "application/vnd.oci.image.index.v1+json, \
        application/vnd.oci.image.manifest.v1+json, \
        application/vnd.docker.distribution.manifest.list.v2+json, \
        application/vnd.docker.distribution.manifest.v2+json, \
        application/vnd.oci.artifact.manifest.v1+json, \
        */*";

    /// A media type from a `Content-Type`: without parameters, in lower case.
    pub fn new(text: &str) -> Self {
        let text = text.split(';').next().unwrap_or_default().trim();
        Self(Cow::Owned(text.to_ascii_lowercase()))
    }

    /// The media type as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it says nothing about a manifest, so that the bytes decide.
    pub fn is_vague(&self) -> bool {
        matches!(self.as_str(), "" | "application/octet-stream" | "binary/octet-stream" | "text/plain" | "application/json")
    }

    /// Docker's schema 1: signed, not addressable by digest, refused by present clients.
    pub fn is_schema1(&self) -> bool {
        self.as_str().starts_with("application/vnd.docker.distribution.manifest.v1+")
    }
}

impl From<String> for MediaType {
    fn from(text: String) -> Self {
        Self::new(&text)
    }
}

impl fmt::Display for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
