//! The words of a bundle: its index, the annotations in it, the lock file.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Read as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::document::Descriptor;
use super::{input, tar};
use crate::oci::{Digest, ImageRef, MediaType, Platforms};

/// The file that makes a folder an OCI image layout.
pub const LAYOUT: &str = "oci-layout";
/// Its content.
pub const LAYOUT_CONTENT: &[u8] = b"{\"imageLayoutVersion\":\"1.0.0\"}";
/// The list of images.
pub const INDEX: &str = "index.json";
/// The signature of the list, right behind it.
pub const SIGNATURE: &str = "index.json.sig";
/// Docker's list of images.
pub const DOCKER_MANIFEST: &str = "manifest.json";
/// The largest index that is read: about 100 000 images.
pub const MAX_INDEX: u64 = 64 << 20;

/// The name of an image, in every tool's spelling of an OCI layout.
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// containerd's and Docker's own.
pub const IMAGE_NAME: &str = "io.containerd.image.name";
/// The bundle's version, on the index.
pub const VERSION: &str = "io.roadstead.bundle";
/// Bytes of all blobs in this bundle, on the index: so that space can be checked first.
pub const BYTES: &str = "io.roadstead.bytes";
/// The images of which this bundle leaves something out because the other side has it, by digest, on the index: so that this is not
/// evicted to make room for the bundle.
pub const BASE: &str = "io.roadstead.base";
/// The platforms that were chosen, on an image.
pub const PLATFORMS: &str = "io.roadstead.platforms";
/// The repository and digest that a list of referrers is about, on that list.
pub const SUBJECT: &str = "io.roadstead.referrers-of";

/// `index.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// 2
    pub schema_version: u32,
    /// An OCI index.
    #[serde(default = "index_type")]
    pub media_type: MediaType,
    /// The images.
    pub manifests: Vec<Descriptor>,
    /// What concerns all of them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

fn index_type() -> MediaType {
    MediaType::OCI_INDEX
}

/// One line of a lock file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Locked {
    /// The image.
    pub image: ImageRef,
    /// What it was.
    pub digest: Digest,
    /// Of which platforms.
    pub platforms: Platforms,
}

/// The text of a lock file.
pub fn write_lock(images: &[Locked]) -> String {
    let mut text = String::from("# roadstead lock 1: image, digest, platforms\n");
    for Locked { image, digest, platforms } in images {
        let _ = writeln!(text, "{image} {digest} {platforms}");
    }
    text
}

/// Reads a lock file.
pub fn read_lock(text: &str) -> Result<Vec<Locked>, String> {
    let line = |(number, line): (usize, &str)| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let locked = match words[..] {
            [image, digest, platforms] => {
                (|| Some(Locked { image: image.parse().ok()?, digest: digest.parse().ok()?, platforms: platforms.parse().ok()? }))(
                )
            }
            _ => None,
        };
        locked.ok_or_else(|| format!("line {}: expected IMAGE DIGEST PLATFORMS", number + 1))
    };
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
    lines.map(line).collect()
}

/// What an earlier bundle, or its lock, says the other side has.
pub fn read_since(path: &Path) -> Result<Vec<Locked>, String> {
    let fail = |error: &dyn std::fmt::Display| format!("--since {}: {error}", path.display());
    let mut start = Vec::new();
    let opened = std::fs::File::open(path).map_err(|error| fail(&error))?;
    opened.take(16).read_to_end(&mut start).map_err(|error| fail(&error))?;
    if start.starts_with(b"# roadstead lock") {
        let text = std::fs::read_to_string(path).map_err(|error| fail(&error))?;
        return read_lock(&text).map_err(|error| fail(&error));
    }
    let mut archive = tar::Reader::new(input::open(&[path.to_path_buf()]).map_err(|error| fail(&error))?);
    while let Some(entry) = archive.next_entry().map_err(|error| fail(&error))? {
        if entry.name == INDEX {
            let bytes = archive.whole(INDEX, MAX_INDEX).map_err(|error| fail(&error))?;
            let index: Index = serde_json::from_slice(&bytes).map_err(|error| fail(&error))?;
            return Ok(index.manifests.iter().filter_map(locked).collect());
        }
    }
    Err(fail(&"there is no index.json in it, and it is no lock file"))
}

fn locked(descriptor: &Descriptor) -> Option<Locked> {
    let image = descriptor.annotations.get(REF_NAME)?.parse().ok()?;
    let platforms = descriptor.annotations.get(PLATFORMS)?.parse().ok()?;
    Some(Locked { image, digest: descriptor.digest, platforms })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    #[test]
    fn a_lock_is_read_as_it_was_written() {
        let locked = |image: &str, platforms: &str| Locked {
            image: image.parse().unwrap(),
            digest: Digest::of(Algorithm::Sha256, image.as_bytes()),
            platforms: platforms.parse().unwrap(),
        };
        let images = [locked("alpine:3", "all"), locked("quay.io/a/b:1", "linux/amd64,linux/arm/v7")];
        assert_eq!(read_lock(&write_lock(&images)).unwrap(), images);
        assert!(read_lock("alpine:3\n").unwrap_err().starts_with("line 1"));
    }
}
