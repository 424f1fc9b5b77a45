//! What a transfer needs to know of a manifest beyond what a pull does: platforms, annotations, types of children.

use std::collections::{BTreeMap, HashSet};

use serde::{Deserialize, Serialize};

use crate::oci::manifest::ManifestError;
use crate::oci::{Digest, Manifest, MediaType, Platform, Platforms};

/// BuildKit's word for "this child describes that one": attestations have no platform of their own.
const ABOUT: &str = "vnd.docker.reference.digest";

/// Manifests that one image may have, itself and those below it. No real one comes near.
pub const MAX_MANIFESTS: usize = 10_000;

/// A reference to content, as it stands in an index or manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What it is.
    #[serde(default = "unknown")]
    pub media_type: MediaType,
    /// What it names.
    pub digest: Digest,
    /// In bytes.
    pub size: u64,
    /// What it runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// What kind of thing a referrer is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// Anything else.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

fn unknown() -> MediaType {
    MediaType::OCTET_STREAM
}

/// A manifest or index.
#[derive(Clone, Debug)]
pub struct Document {
    /// What it is.
    pub media_type: MediaType,
    /// The children of an index.
    pub manifests: Vec<Descriptor>,
    /// The config, layers and blobs of anything else; the config first.
    pub blobs: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Fields {
    manifests: Option<Vec<Descriptor>>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    blobs: Option<Vec<Descriptor>>,
}

impl Document {
    /// Looks at a manifest, as strictly as a pull does.
    pub fn parse(bytes: &[u8], media_type: Option<&str>) -> Result<Self, ManifestError> {
        let Manifest { media_type, .. } = Manifest::parse(bytes, media_type)?;
        let fields: Fields = serde_json::from_slice(bytes).map_err(|error| ManifestError::Json {
            problem: "a descriptor in it has a field of the wrong kind",
            line: error.line(),
            column: error.column(),
        })?;
        let blobs =
            fields.config.into_iter().chain(fields.layers.into_iter().flatten()).chain(fields.blobs.into_iter().flatten());
        Ok(Self { media_type, manifests: fields.manifests.unwrap_or_default(), blobs: blobs.collect() })
    }

    /// The children that belong to the wanted platforms: those of the platforms themselves, those without any, and
    /// what describes a wanted one.
    pub fn wanted(&self, platforms: &Platforms) -> Vec<&Descriptor> {
        let direct = |child: &Descriptor| match &child.platform {
            Some(platform) if !platform.is_unknown() => platforms.wants(platform),
            _ => !child.annotations.contains_key(ABOUT),
        };
        let chosen: HashSet<Digest> = self.manifests.iter().filter(|child| direct(child)).map(|child| child.digest).collect();
        let about = |child: &Descriptor| {
            let subject = child.annotations.get(ABOUT).and_then(|text| text.parse::<Digest>().ok());
            subject.is_some_and(|subject| chosen.contains(&subject))
        };
        self.manifests.iter().filter(|child| platforms.is_all() || direct(child) || about(child)).collect()
    }

    /// The platforms that an index has.
    pub fn platforms(&self) -> Platforms {
        let real = self.manifests.iter().filter_map(|child| child.platform.clone()).filter(|platform| !platform.is_unknown());
        Platforms(real.collect())
    }

    /// Whether an index lacks every wanted platform.
    pub fn lacks(&self, platforms: &Platforms) -> bool {
        let own = self.platforms();
        !platforms.is_all() && !own.0.is_empty() && !own.0.iter().any(|platform| platforms.wants(platform))
    }
}

/// What the config of an image says it runs on.
pub fn platform_of_config(config: &[u8]) -> Option<Platform> {
    serde_json::from_slice::<Platform>(config).ok().filter(|platform| !platform.os.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    #[test]
    fn attestations_go_with_their_image() {
        let digest = |n: u8| Digest::of(Algorithm::Sha256, &[n]);
        let child = |n: u8, platform: &str, about: Option<u8>| {
            let (os, architecture) = platform.split_once('/').unwrap();
            let annotations = about.map(|n| (ABOUT.to_owned(), digest(n).to_string())).into_iter().collect::<BTreeMap<_, _>>();
            serde_json::json!({"mediaType": "x/y", "digest": digest(n), "size": 1, "annotations": annotations,
                "platform": {"os": os, "architecture": architecture}})
        };
        let index = serde_json::json!({"manifests": [child(1, "linux/amd64", None), child(2, "linux/arm64", None),
            child(3, "unknown/unknown", Some(1)), child(4, "unknown/unknown", Some(2))]});
        let document = Document::parse(index.to_string().as_bytes(), None).unwrap();
        let wanted = |text: &str| document.wanted(&text.parse().unwrap()).iter().map(|child| child.digest).collect::<Vec<_>>();
        assert_eq!(wanted("linux/amd64"), [digest(1), digest(3)]);
        assert_eq!(wanted("all").len(), 4);
        assert!(document.lacks(&"linux/s390x".parse().unwrap()) && !document.lacks(&"linux/arm64".parse().unwrap()));
    }
}
