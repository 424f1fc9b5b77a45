//! Pins: images that eviction, expiry and purging leave alone, with all that they need.
//!
//! Kept in `pins.json`, replaced atomically and durably. A pin on a tag follows the tag. What is protected is computed
//! anew whenever a pin, a pinned tag or a manifest changes, and told to the index.

use std::collections::HashSet;
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard};

use serde::{Deserialize, Deserializer, Serialize};

use super::Cache;
use super::catalog::Catalog;
use crate::clock::Timestamp;
use crate::oci::{Digest, ImageRef, Platforms, Scope, Tag};

/// One pinned image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// Which.
    pub image: ImageRef,
    /// Of a multi-platform image only these.
    #[serde(default, skip_serializing_if = "Platforms::is_all", deserialize_with = "platforms")]
    pub platforms: Platforms,
    /// Since when.
    pub since: Timestamp,
}

/// Any words were once written down as platforms. A pin with one that is none protects all of its image: what was to be kept
/// must not be evicted for it.
fn platforms<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Platforms, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    Ok(texts.join(",").parse().unwrap_or_default())
}

/// All pins of a cache.
#[derive(Debug)]
pub struct Pins {
    path: PathBuf,
    pins: Mutex<Vec<Pin>>,
}

impl Pins {
    /// The file's name in the cache folder.
    pub const FILE: &str = "pins.json";

    /// Reads the file. A damaged one is an error: what was to be kept must not be evicted for it.
    pub fn open(path: PathBuf) -> io::Result<Self> {
        let pins = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(io::Error::other)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        Ok(Self { path, pins: Mutex::new(pins) })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Pin>> {
        self.pins.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// All pins.
    pub fn all(&self) -> Vec<Pin> {
        self.lock().clone()
    }

    /// What they protect, here or not yet here.
    pub fn protected(&self, catalog: &Catalog) -> HashSet<Digest> {
        let mut all = HashSet::new();
        for pin in self.all() {
            if let Some((root, _)) = catalog.resolve(&pin.image.scope, &pin.image.reference) {
                all.insert(root);
                all.extend(catalog.closure(&root, &pin.platforms).into_iter().map(|part| part.digest));
            }
        }
        all
    }
}

impl Cache {
    /// Blocks. Pins images, in place of older pins on them.
    pub fn pin(&self, images: Vec<ImageRef>, platforms: &Platforms, since: Timestamp) -> io::Result<Vec<Pin>> {
        let new: Vec<Pin> = images.into_iter().map(|image| Pin { image, platforms: platforms.clone(), since }).collect();
        self.change_pins(|pins| {
            let named: HashSet<&ImageRef> = new.iter().map(|pin| &pin.image).collect();
            pins.retain(|other| !named.contains(&other.image));
            pins.extend_from_slice(&new);
        })?;
        Ok(new)
    }

    /// Blocks. Removes the pins whose images are `wanted`; which they were.
    pub fn unpin(&self, wanted: impl Fn(&Pin) -> bool) -> io::Result<Vec<Pin>> {
        let mut removed = Vec::new();
        self.change_pins(|pins| {
            let (gone, kept) = std::mem::take(pins).into_iter().partition(&wanted);
            removed = gone;
            *pins = kept;
        })?;
        Ok(removed)
    }

    fn change_pins(&self, change: impl FnOnce(&mut Vec<Pin>)) -> io::Result<()> {
        {
            let mut pins = self.pins.lock();
            let mut changed = pins.clone();
            change(&mut changed);
            let json = serde_json::to_vec_pretty(&changed).map_err(io::Error::other)?;
            self.store.replace(&self.pins.path, &json, true)?;
            *pins = changed;
        }
        self.protect();
        Ok(())
    }

    /// Tells the index what pins protect now.
    pub fn protect(&self) {
        self.index.protect(self.pins.protected(&self.catalog));
    }

    /// Blocks. After a tag has moved: it may be pinned.
    pub(super) fn reprotect_tag(&self, scope: &Scope, tag: &Tag) {
        let is_pinned = {
            let pins = self.pins.lock();
            !pins.is_empty() && {
                let image = scope.image(tag.clone());
                pins.iter().any(|pin| pin.image == image)
            }
        };
        if is_pinned {
            self.protect();
        }
    }

    /// After much has changed: it may be pinned.
    pub(super) fn reprotect(&self) {
        if !self.pins.lock().is_empty() {
            self.protect();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> io::Result<Pins> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(Pins::FILE);
        std::fs::write(&path, text).unwrap();
        Pins::open(path)
    }

    #[test]
    fn records_are_read_as_they_always_were_and_written_the_same() {
        let digest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let text = format!(
            r#"[{{"image":"docker.io/library/alpine:3.20","since":1}},{{"image":"registry:5000/a@{digest}","platforms":["linux/amd64","linux/arm/v7"],"since":2}}]"#
        );
        let pins = read(&text).unwrap();
        assert_eq!(serde_json::to_string(&pins.all()).unwrap(), text);
    }

    #[test]
    fn words_that_are_no_platforms_lift_no_protection() {
        let platforms = |list: &str| {
            let pins = read(&format!(r#"[{{"image":"docker.io/a/b:1","platforms":{list},"since":1}}]"#)).unwrap();
            pins.all()[0].platforms.to_string()
        };
        assert_eq!(platforms("[]"), "all");
        assert_eq!(platforms(r#"["linux/amd64"," linux/arm64"]"#), "linux/amd64,linux/arm64");
        assert_eq!(platforms(r#"["linux//","linux/amd64"]"#), "all");
    }

    #[test]
    fn a_damaged_file_is_an_error() {
        assert!(read("[{").is_err());
        let error = read(r#"[{"image":"docker.io/A:1","since":1}]"#).unwrap_err().to_string();
        assert!(error.contains("\"docker.io/A:1\" is no image: a repository is"), "{error}");
    }
}
