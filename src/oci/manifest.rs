//! A view of a manifest: what it is and what it refers to. The bytes stay as they came (I10).

use serde::Deserialize;

use super::digest::Digest;
use super::media::MediaType;

/// The largest manifest that is taken in. Clients stop at 4 MiB; the specification wants at least that.
pub const MAX_MANIFEST: u64 = 8 << 20;

/// A reference from a manifest to content. Its `urls` are not read: a mirror never fetches them (CVE-2020-15157).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Descriptor {
    /// What it names.
    pub digest: Digest,
    /// In bytes.
    pub size: u64,
    /// For what machine, where an index says so.
    pub platform: Option<Platform>,
}

/// A machine that an image of an index is for (OCI image-spec, *image-index.md*).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Platform {
    /// As `linux`.
    #[serde(default)]
    pub os: String,
    /// As `arm64`.
    #[serde(default)]
    pub architecture: String,
    /// As `v8`.
    pub variant: Option<String>,
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.iter().try_for_each(|variant| write!(f, "/{variant}"))
    }
}

/// What a manifest says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// What it is.
    pub media_type: MediaType,
    /// The manifests of an index.
    pub manifests: Vec<Descriptor>,
    /// The config, layers and blobs of an image or artifact.
    pub blobs: Vec<Descriptor>,
}

/// Why bytes are not a manifest that the mirror passes on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Not JSON, or fields of the wrong kind.
    #[error("it is not a manifest: {0}")]
    Json(String),
    /// The header and the document disagree (CVE-2021-41190).
    #[error("its Content-Type is {header}, but it says of itself that it is {body}")]
    TypeMismatch {
        /// What the header says.
        header: MediaType,
        /// What the document says.
        body: MediaType,
    },
    /// It is an index and an image at once (CVE-2021-41190).
    #[error("it is an index and an image at once")]
    Ambiguous,
    /// Docker's schema 1.
    #[error("it is a schema 1 manifest, which no present client takes; push the image again with a present client")]
    Schema1,
    /// Nothing tells what it is.
    #[error("nothing in it tells what it is")]
    Untyped,
}

/// The fields that matter. Unknown ones are nobody's business here; the bytes carry them.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    schema_version: Option<u64>,
    media_type: Option<MediaType>,
    manifests: Option<Vec<Descriptor>>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    blobs: Option<Vec<Descriptor>>,
    fs_layers: Option<serde::de::IgnoredAny>,
}

impl Manifest {
    /// Looks at a manifest that came with `content_type`. Costs time in proportion to the bytes: at most
    /// [`MAX_MANIFEST`] of them.
    pub fn parse(bytes: &[u8], content_type: Option<&str>) -> Result<Self, ManifestError> {
        let document: Document = serde_json::from_slice(bytes).map_err(|error| ManifestError::Json(error.to_string()))?;
        let header = content_type.map(MediaType::new).filter(|header| !header.is_vague());
        let is_schema1 = document.schema_version == Some(1) || document.fs_layers.is_some();
        if is_schema1 || [&header, &document.media_type].into_iter().flatten().any(MediaType::is_schema1) {
            return Err(ManifestError::Schema1);
        }
        let is_image = document.config.is_some() || document.layers.is_some();
        if document.manifests.is_some() && (is_image || document.blobs.is_some()) {
            return Err(ManifestError::Ambiguous);
        }
        let media_type = match (header, document.media_type) {
            (Some(header), Some(body)) if header != body => return Err(ManifestError::TypeMismatch { header, body }),
            (Some(known), _) | (None, Some(known)) => known,
            // As moby's detectManifestBlobMediaType: by what the document has.
            (None, None) if document.manifests.is_some() => MediaType::OCI_INDEX,
            (None, None) if is_image => MediaType::OCI_MANIFEST,
            (None, None) => return Err(ManifestError::Untyped),
        };
        // A type that belongs to one shape does not go with the other.
        let wants_index = [MediaType::OCI_INDEX, MediaType::DOCKER_LIST].contains(&media_type);
        let wants_image = [MediaType::OCI_MANIFEST, MediaType::DOCKER_MANIFEST].contains(&media_type);
        if wants_index && (is_image || document.blobs.is_some()) || wants_image && document.manifests.is_some() {
            return Err(ManifestError::Ambiguous);
        }
        let blobs =
            document.config.into_iter().chain(document.layers.into_iter().flatten()).chain(document.blobs.into_iter().flatten());
        Ok(Self { media_type, manifests: document.manifests.unwrap_or_default(), blobs: blobs.collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;
    use proptest::prelude::*;

    fn descriptor(n: u8) -> String {
        format!(r#"{{"mediaType":"x/y","digest":"{}","size":{n}}}"#, Digest::of(Algorithm::Sha256, &[n]))
    }

    fn sizes(descriptors: &[Descriptor]) -> Vec<u64> {
        descriptors.iter().map(|descriptor| descriptor.size).collect()
    }

    #[test]
    fn images_and_indexes() {
        let image = format!(
            r#"{{"schemaVersion":2,"config":{},"layers":[{},{}],"annotations":{{"a":"b"}}}}"#,
            descriptor(1),
            descriptor(2),
            descriptor(3)
        );
        let parsed =
            Manifest::parse(image.as_bytes(), Some("application/vnd.oci.image.manifest.v1+json; charset=utf-8")).unwrap();
        assert_eq!((parsed.media_type, sizes(&parsed.blobs)), (MediaType::OCI_MANIFEST, vec![1, 2, 3]));
        let index = format!(r#"{{"schemaVersion":2,"manifests":[{},{}]}}"#, descriptor(4), descriptor(5));
        let parsed = Manifest::parse(index.as_bytes(), None).unwrap();
        assert_eq!((parsed.media_type, sizes(&parsed.manifests)), (MediaType::OCI_INDEX, vec![4, 5]));
        let artifact = format!(r#"{{"mediaType":"application/vnd.oci.artifact.manifest.v1+json","blobs":[{}]}}"#, descriptor(6));
        let parsed = Manifest::parse(artifact.as_bytes(), Some("text/plain")).unwrap();
        assert_eq!((parsed.media_type, sizes(&parsed.blobs)), (MediaType::OCI_ARTIFACT, vec![6]));
    }

    #[test]
    fn t13_what_is_two_things_is_refused() {
        let both = format!(r#"{{"manifests":[],"layers":[{}]}}"#, descriptor(1));
        assert_eq!(Manifest::parse(both.as_bytes(), None), Err(ManifestError::Ambiguous));
        let config = format!(r#"{{"manifests":[],"config":{}}}"#, descriptor(1));
        assert_eq!(Manifest::parse(config.as_bytes(), None), Err(ManifestError::Ambiguous));
        let image = format!(r#"{{"mediaType":"{}","config":{}}}"#, MediaType::DOCKER_MANIFEST, descriptor(1));
        assert!(matches!(
            Manifest::parse(image.as_bytes(), Some(MediaType::OCI_MANIFEST.as_str())),
            Err(ManifestError::TypeMismatch { .. })
        ));
        let untyped = format!(r#"{{"config":{}}}"#, descriptor(1));
        assert_eq!(Manifest::parse(untyped.as_bytes(), Some(MediaType::OCI_INDEX.as_str())), Err(ManifestError::Ambiguous));
    }

    #[test]
    fn what_no_client_takes_is_refused() {
        assert_eq!(Manifest::parse(br#"{"schemaVersion":1,"fsLayers":[]}"#, None), Err(ManifestError::Schema1));
        assert_eq!(
            Manifest::parse(b"{}", Some("application/vnd.docker.distribution.manifest.v1+prettyjws")),
            Err(ManifestError::Schema1)
        );
        assert_eq!(Manifest::parse(b"{}", None), Err(ManifestError::Untyped));
        assert!(matches!(Manifest::parse(b"<html>", Some("text/html")), Err(ManifestError::Json(_))));
        assert!(matches!(
            Manifest::parse(br#"{"layers":[{"digest":"sha256:../..","size":1}]}"#, None),
            Err(ManifestError::Json(_))
        ));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in any::<Vec<u8>>(), json in "[{}\\[\\]\",:a-z0-9]{0,60}", content_type in any::<Option<String>>()) {
            let _ = Manifest::parse(&bytes, content_type.as_deref());
            let _ = Manifest::parse(json.as_bytes(), content_type.as_deref());
        }
    }
}
