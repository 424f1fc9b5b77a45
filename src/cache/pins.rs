//! Pins: images that eviction, expiry and purging leave alone, with all that they need.
//!
//! Kept in `pins.json`, replaced atomically and durably. A pin on a tag follows the tag. What is protected is computed
//! anew whenever a pin, a pinned tag or a manifest changes, and told to the index.

use std::collections::HashSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
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
    pins: ArcSwap<Vec<Pin>>,
    /// Held while the file is written: blocks.
    changing: Mutex<()>,
    protection: Protection,
}

/// Who computes what pins protect. The result of one computation must not take the place of a later one's.
#[derive(Debug, Default)]
struct Protection {
    /// Held from the first look at the catalog until the index knows.
    turn: Mutex<()>,
    running: AtomicUsize,
    /// Something has changed that a computation may not have seen.
    outdated: AtomicBool,
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
        Ok(Self { path, pins: ArcSwap::from_pointee(pins), changing: Mutex::default(), protection: Protection::default() })
    }

    /// All pins.
    pub fn all(&self) -> Arc<Vec<Pin>> {
        self.pins.load_full()
    }

    /// What they protect, here or not yet here.
    pub fn protected(&self, catalog: &Catalog) -> HashSet<Digest> {
        let mut all = HashSet::new();
        for pin in self.all().iter() {
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
            let _changing = self.pins.changing.lock();
            let mut changed = Vec::clone(&self.pins.all());
            change(&mut changed);
            let json = serde_json::to_vec_pretty(&changed).map_err(io::Error::other)?;
            self.store.replace(&self.pins.path, &json, true)?;
            self.pins.pins.store(Arc::new(changed));
        }
        let _turn = self.pins.protection.turn.lock();
        self.compute_protection();
        Ok(())
    }

    /// Tells the index what pins protect now. If somebody is doing that already, they do it once more.
    pub fn protect(&self) {
        let Protection { turn, outdated, .. } = &self.pins.protection;
        outdated.store(true, Ordering::SeqCst);
        // Looked at again after each turn: whoever found the turn taken relies on that.
        while outdated.load(Ordering::SeqCst) {
            let Some(_turn) = turn.try_lock() else { return };
            while outdated.swap(false, Ordering::SeqCst) {
                self.compute_protection();
            }
        }
    }

    /// Called by who has the turn.
    fn compute_protection(&self) {
        let running = &self.pins.protection.running;
        running.fetch_add(1, Ordering::SeqCst);
        self.index.protect(self.pins.protected(&self.catalog));
        running.fetch_sub(1, Ordering::SeqCst);
    }

    /// After a tag has moved: it may be pinned.
    pub(super) fn reprotect_tag(&self, scope: &Scope, tag: &Tag) {
        let image = scope.image(tag.clone());
        if self.pins.all().iter().any(|pin| pin.image == image) {
            self.protect();
        }
    }

    /// After it has become known what a manifest is made of: it may belong to a pinned image. While a computation runs,
    /// the index does not know yet what that will find.
    pub(super) fn reprotect_manifest(&self, digest: &Digest) {
        if self.pins.protection.running.load(Ordering::SeqCst) > 0 || self.index.is_protected(digest) {
            self.reprotect();
        }
    }

    /// After much has changed: it may be pinned.
    pub(super) fn reprotect(&self) {
        if !self.pins.all().is_empty() {
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
        assert_eq!(serde_json::to_string(&*pins.all()).unwrap(), text);
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
