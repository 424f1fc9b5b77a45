//! Pins: images that eviction, expiry and purging leave alone, with all that they need.
//!
//! Kept in `pins.json`, replaced atomically and durably. A pin on a tag follows the tag. What is protected is computed
//! anew whenever a pin, a pinned tag or a manifest changes, and told to the index.

use std::collections::HashSet;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, TryLockError};

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};

use super::Cache;
use super::catalog::Catalog;
use super::selector::{Selector, image_name};
use crate::clock::Timestamp;
use crate::oci::{Digest, Reference, Scope, Tag, UpstreamName};

/// One pinned image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// The image's name in full.
    pub image: String,
    /// Of a multi-platform image only these, as `linux/arm64`; all of them if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub platforms: Vec<String>,
    /// Since when.
    pub since: Timestamp,
}

impl Pin {
    /// Its image.
    pub fn target(&self) -> Option<(Scope, Reference)> {
        // Names in the file are full: the default is never used.
        let default: UpstreamName = "docker.io".parse().ok()?;
        match Selector::parse(&self.image, &default) {
            Ok(Selector::Image(scope, reference)) => Some((scope, reference)),
            _ => None,
        }
    }
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
            let root = pin.target().and_then(|(scope, reference)| catalog.resolve(&scope, &reference));
            if let Some((root, _)) = root {
                all.insert(root);
                all.extend(catalog.closure(&root, &pin.platforms).into_iter().map(|part| part.digest));
            }
        }
        all
    }
}

impl Cache {
    /// Blocks. Pins images, in place of older pins on them.
    pub fn pin(&self, images: &[(Scope, Reference)], platforms: &[String], since: Timestamp) -> io::Result<Vec<Pin>> {
        let pin = |(scope, reference): &(Scope, Reference)| Pin {
            image: image_name(scope, reference),
            platforms: platforms.to_vec(),
            since,
        };
        let new: Vec<Pin> = images.iter().map(pin).collect();
        self.change_pins(|pins| {
            let names: HashSet<&str> = new.iter().map(|pin| pin.image.as_str()).collect();
            pins.retain(|other| !names.contains(other.image.as_str()));
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

    /// Tells the index what pins protect now; or has whoever is about to do so do it once more.
    pub fn protect(&self) {
        let Protection { turn, outdated, .. } = &self.pins.protection;
        outdated.store(true, Ordering::SeqCst);
        // Looked at again after each turn: who found it taken relies on that.
        while outdated.load(Ordering::SeqCst) {
            let _turn = match turn.try_lock() {
                Ok(turn) => turn,
                Err(TryLockError::Poisoned(turn)) => turn.into_inner(),
                Err(TryLockError::WouldBlock) => return,
            };
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
        let pins = self.pins.all();
        if pins.is_empty() {
            return;
        }
        let name = image_name(scope, &Reference::Tag(tag.clone()));
        if pins.iter().any(|pin| pin.image == name) {
            self.protect();
        }
    }

    /// After it has become known what a manifest is made of: it may be of a pinned image. One that a computation has just
    /// looked at is not in the index yet.
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
