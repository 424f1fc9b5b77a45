//! Pins: images that eviction, expiry and purging leave alone, with all that they need.
//!
//! Kept in `pins.json`, replaced atomically and durably. A pin on a tag follows the tag. What is protected is computed
//! anew whenever a pin, a pinned tag or a manifest changes, and told to the index.

use std::collections::HashSet;
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard};

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
                let name = image_name(scope, &Reference::Tag(tag.clone()));
                pins.iter().any(|pin| pin.image == name)
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
