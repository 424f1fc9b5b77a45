//! Images in memory: random layers, configs, manifests and indexes whose every digest is right.
//!
//! Deterministic: the same seed gives the same bytes, so a failing test fails again. Manifests are written with three
//! spaces of indentation, as Docker does, so that whoever re-serialises one changes its digest (I10).

use bytes::Bytes;
use roadstead::oci::{Algorithm, Digest};
use serde_json::{Value, json};

/// Docker's image manifest, schema 2.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker's manifest list.
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// The OCI image manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// The OCI image index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// What an OCI descriptor says of content that is empty on purpose: `{}`.
pub const OCI_EMPTY: &str = "application/vnd.oci.empty.v1+json";

/// One piece of content: what a descriptor points to.
#[derive(Clone, Debug)]
pub struct Blob {
    /// The digest of `bytes`.
    pub digest: Digest,
    /// The media type that a descriptor of it states.
    pub media_type: String,
    /// The content.
    pub bytes: Bytes,
}

impl Blob {
    /// Content named by its sha256.
    pub fn new(media_type: &str, bytes: impl Into<Bytes>) -> Self {
        Self::with(Algorithm::Sha256, media_type, bytes)
    }

    /// Content named by its digest of `algorithm`.
    pub fn with(algorithm: Algorithm, media_type: &str, bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self { digest: Digest::of(algorithm, &bytes), media_type: media_type.to_owned(), bytes }
    }

    /// A layer of `size` random bytes.
    pub fn random(seed: u64, size: usize) -> Self {
        Self::random_as(Algorithm::Sha256, seed, size)
    }

    /// A layer of `size` random bytes, named by its digest of `algorithm`.
    pub fn random_as(algorithm: Algorithm, seed: u64, size: usize) -> Self {
        Self::with(algorithm, "application/vnd.oci.image.layer.v1.tar+gzip", random(seed, size))
    }

    /// The size in bytes.
    pub fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// The descriptor, as it stands in a manifest.
    pub fn descriptor(&self) -> Value {
        json!({ "mediaType": self.media_type, "digest": self.digest.to_string(), "size": self.bytes.len() })
    }
}

/// `size` bytes that only depend on `seed` and do not compress (splitmix64).
pub fn random(seed: u64, size: usize) -> Vec<u8> {
    let mut state = seed;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bytes.extend_from_slice(&(word ^ (word >> 31)).to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}

/// A manifest document in the bytes in which a registry keeps it.
pub fn document(algorithm: Algorithm, media_type: &str, value: &Value) -> Blob {
    let mut bytes = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"   ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, formatter);
    serde::Serialize::serialize(value, &mut serializer).expect("a JSON value can be written");
    Blob::with(algorithm, media_type, bytes)
}

/// An image of one platform, or an artifact: a manifest and all that it refers to.
#[derive(Clone, Debug)]
pub struct Image {
    /// The manifest itself.
    pub manifest: Blob,
    /// The configuration.
    pub config: Blob,
    /// The layers, lowest first.
    pub layers: Vec<Blob>,
    /// Operating system and architecture.
    pub platform: (String, String),
}

impl Image {
    /// A small Docker image: two layers of 100,000 and 2,000 bytes.
    pub fn small(seed: u64) -> Self {
        Builder::new(seed).layer(100_000).layer(2_000).build()
    }

    /// The configuration and the layers.
    pub fn blobs(&self) -> impl Iterator<Item = &Blob> {
        std::iter::once(&self.config).chain(&self.layers)
    }
}

/// Builds an [`Image`].
#[derive(Clone, Debug)]
pub struct Builder {
    seed: u64,
    layers: Vec<usize>,
    oci: bool,
    algorithm: Algorithm,
    platform: (String, String),
    artifact_type: Option<String>,
    subject: Option<Value>,
}

impl Builder {
    /// A Docker image for linux/amd64 with no layer yet. Two images with different seeds share no content.
    pub fn new(seed: u64) -> Self {
        let platform = ("linux".to_owned(), "amd64".to_owned());
        Self { seed, layers: Vec::new(), oci: false, algorithm: Algorithm::Sha256, platform, artifact_type: None, subject: None }
    }

    /// Puts a layer of `size` random bytes on top.
    pub fn layer(mut self, size: usize) -> Self {
        self.layers.push(size);
        self
    }

    /// An OCI manifest instead of Docker's.
    pub fn oci(mut self) -> Self {
        self.oci = true;
        self
    }

    /// Names everything, the manifest included, by its sha512.
    pub fn sha512(mut self) -> Self {
        self.algorithm = Algorithm::Sha512;
        self
    }

    /// The platform that config and index state.
    pub fn platform(mut self, os: &str, architecture: &str) -> Self {
        self.platform = (os.to_owned(), architecture.to_owned());
        self
    }

    /// An OCI artifact of this type that refers to `subject`, as a signature or an SBOM does.
    pub fn artifact(mut self, artifact_type: &str, subject: &Blob) -> Self {
        self.artifact_type = Some(artifact_type.to_owned());
        self.subject = Some(subject.descriptor());
        self.oci()
    }

    /// The image.
    pub fn build(self) -> Image {
        let (manifest_type, config_type, layer_type) = match (self.oci, &self.artifact_type) {
            (true, Some(_)) => (OCI_MANIFEST, OCI_EMPTY, "application/octet-stream"),
            (true, None) => {
                (OCI_MANIFEST, "application/vnd.oci.image.config.v1+json", "application/vnd.oci.image.layer.v1.tar+gzip")
            }
            (false, _) => (
                DOCKER_MANIFEST,
                "application/vnd.docker.container.image.v1+json",
                "application/vnd.docker.image.rootfs.diff.tar.gzip",
            ),
        };
        let layer = |(number, size): (usize, &usize)| {
            let seed = self.seed.wrapping_mul(1_000_003).wrapping_add(number as u64);
            Blob::with(self.algorithm, layer_type, random(seed, *size))
        };
        let layers: Vec<Blob> = self.layers.iter().enumerate().map(layer).collect();
        let diff_ids: Vec<String> = layers.iter().map(|layer| layer.digest.to_string()).collect();
        let config = match &self.artifact_type {
            Some(_) => Blob::with(self.algorithm, config_type, &b"{}"[..]),
            None => document(
                self.algorithm,
                config_type,
                &json!({
                    "architecture": self.platform.1, "os": self.platform.0, "seed": self.seed,
                    "config": {}, "rootfs": { "type": "layers", "diff_ids": diff_ids },
                }),
            ),
        };
        let mut manifest = json!({
            "schemaVersion": 2, "mediaType": manifest_type, "config": config.descriptor(),
            "layers": layers.iter().map(Blob::descriptor).collect::<Vec<_>>(),
        });
        if let Some(artifact_type) = &self.artifact_type {
            manifest["artifactType"] = json!(artifact_type);
            manifest["annotations"] = json!({ "seed": self.seed.to_string() });
        }
        if let Some(subject) = &self.subject {
            manifest["subject"] = subject.clone();
        }
        let manifest = document(self.algorithm, manifest_type, &manifest);
        Image { manifest, config, layers, platform: self.platform }
    }
}

/// An image for several platforms.
#[derive(Clone, Debug)]
pub struct Index {
    /// The OCI index or Docker manifest list.
    pub manifest: Blob,
    /// The images it names.
    pub images: Vec<Image>,
}

impl Index {
    /// An OCI index over `images`.
    pub fn oci(images: Vec<Image>) -> Self {
        Self::of(OCI_INDEX, images)
    }

    /// A Docker manifest list over `images`.
    pub fn docker(images: Vec<Image>) -> Self {
        Self::of(DOCKER_LIST, images)
    }

    fn of(media_type: &str, images: Vec<Image>) -> Self {
        let entry = |image: &Image| {
            let mut descriptor = image.manifest.descriptor();
            descriptor["platform"] = json!({ "os": image.platform.0, "architecture": image.platform.1 });
            descriptor
        };
        let manifests: Vec<Value> = images.iter().map(entry).collect();
        let value = json!({ "schemaVersion": 2, "mediaType": media_type, "manifests": manifests });
        Self { manifest: document(Algorithm::Sha256, media_type, &value), images }
    }
}
