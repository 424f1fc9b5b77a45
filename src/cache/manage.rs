//! What operators ask of the cache and tell it: list, explain, clean up. [`purge`](super::purge) is beside it.
//!
//! Answers come from the index and the catalog in memory, never from a walk of the tree. Knows nothing of HTTP or of
//! upstreams; called by `admin`.

use std::io;
use std::sync::Arc;

use serde::Serialize;

use super::catalog::{Part, Tagged};
use super::index::{Known, Place, Victim};
use super::pins::Pin;
use super::selector::Selector;
use super::{Cache, NoRoom};
use crate::metrics::Removal;
use crate::oci::{Digest, ImageRef, Platforms};

/// Manifests that share a part are not counted beyond this.
const MOST_OWNERS: usize = 1001;

/// Objects of which it is said that they would be evicted.
const MOST_LISTED: usize = 10_000;

/// An image in a list.
#[derive(Clone, Debug, Serialize)]
pub struct ImageRow {
    /// Its name in full.
    pub image: String,
    /// What its tag stands for.
    pub digest: Digest,
    /// Bytes of it that are here.
    pub bytes: u64,
    /// Bytes of it that are not here, as far as its manifests that are here tell.
    pub missing_bytes: u64,
    /// Seconds since 1970: when its manifest came.
    pub since: u32,
    /// Seconds since 1970: its last use.
    pub used: u32,
    /// Seconds since 1970: when the upstream last confirmed the tag.
    pub checked: u64,
    /// A pin protects it.
    pub pinned: bool,
    /// Its manifest is here.
    pub cached: bool,
}

/// A part of an image, explained.
#[derive(Clone, Debug, Serialize)]
pub struct PartRow {
    /// What.
    pub digest: Digest,
    /// `manifest` or `blob`.
    pub kind: &'static str,
    /// For what machine.
    pub platform: Option<String>,
    /// Bytes.
    pub bytes: u64,
    /// It is here.
    pub cached: bool,
    /// Seconds since 1970: when it came. 0 where it is not here.
    pub since: u32,
    /// Seconds since 1970: its last use. 0 where it is not here.
    pub used: u32,
    /// A pin protects it.
    pub pinned: bool,
    /// How many other manifests here need it; not counted beyond 1000.
    pub shared_by: u32,
}

/// A pin in a list.
#[derive(Clone, Debug, Serialize)]
pub struct PinRow {
    /// Which image, in full.
    pub image: ImageRef,
    /// Of a multi-platform image only these.
    #[serde(skip_serializing_if = "Platforms::is_all")]
    pub platforms: Platforms,
    /// Seconds since 1970: since when.
    pub since: u64,
}

impl From<&Pin> for PinRow {
    fn from(pin: &Pin) -> Self {
        Self { image: pin.image.clone(), platforms: pin.platforms.clone(), since: pin.since.seconds() }
    }
}

/// What a cleaning-up removed, or would remove.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Collected {
    /// Unfinished downloads that nobody continues.
    pub leftovers: u64,
    /// Damaged files that were set apart.
    pub quarantined: u64,
    /// Bytes of both.
    pub spare_bytes: u64,
    /// Objects beyond their quota's time.
    pub expired: u64,
    /// Records of manifests that are gone, and of the tags that stood for them.
    pub records: u64,
    /// What has to go for the quotas and for `free`, in this order: the first 10 000 objects.
    pub evicted: Vec<(Digest, u64)>,
    /// Bytes that have to go besides.
    pub evicted_more_bytes: u64,
    /// Bytes in all.
    pub bytes: u64,
    /// Why `free` more bytes do not fit, with all this gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What takes how much.
#[derive(Clone, Debug, Serialize)]
pub struct Account {
    /// Files that pins keep.
    pub pinned_bytes: u64,
    /// In the order of the configuration.
    pub quotas: Vec<QuotaRow>,
    /// Memory that the index takes, and what manifests name.
    pub index_memory_bytes: usize,
}

/// A quota, and what counts for it.
#[derive(Clone, Debug, Serialize)]
pub struct QuotaRow {
    /// As configured.
    pub pattern: String,
    /// Bytes of files, and of room that is set aside.
    pub bytes: u64,
}

impl Collected {
    /// A file is gone.
    fn note(&mut self, victim: &Victim) {
        self.bytes += victim.size;
        match victim.place {
            Place::Ingest => self.leftovers += 1,
            Place::Quarantine => self.quarantined += 1,
            Place::Blobs if self.evicted.len() < MOST_LISTED => self.evicted.push((victim.digest, victim.size)),
            Place::Blobs => self.evicted_more_bytes += victim.size,
        }
        if victim.place != Place::Blobs {
            self.spare_bytes += victim.size;
        }
    }
}

/// Bytes that are here, and that are not. The size of what is not is whatever its manifest says.
fn held(parts: &[Part]) -> (u64, u64) {
    parts.iter().fold((0, 0), |(here, missing), part| match part.known.present {
        true => (here + part.known.size, missing),
        false => (here, missing.saturating_add(part.known.size)),
    })
}

impl Cache {
    /// The images a selector names, by name; at most `limit`.
    pub fn images(&self, selector: Option<&Selector>, limit: usize) -> Vec<ImageRow> {
        self.catalog.tags(selector, limit).iter().map(|tagged| self.row(tagged)).collect()
    }

    fn row(&self, tagged: &Tagged) -> ImageRow {
        let Tagged { scope, tag, record } = tagged;
        let parts = self.catalog.closure(&record.digest, &Platforms::default());
        let (bytes, missing_bytes) = held(&parts);
        let known = self.index.known(&record.digest);
        ImageRow {
            image: scope.image(tag.clone()).to_string(),
            digest: record.digest,
            bytes,
            missing_bytes,
            since: known.map_or(0, |known| self.index.date(known.since)),
            used: known.map_or(0, |known| self.index.date(known.used)),
            checked: self.clock().date(record.checked_at).seconds(),
            pinned: known.is_some_and(|known| known.pinned),
            cached: known.is_some_and(|known| known.present),
        }
    }

    /// A manifest and everything below it.
    pub fn explain(&self, root: &Digest) -> Vec<PartRow> {
        let parts = self.catalog.closure(root, &Platforms::default());
        let rows = parts.into_iter().map(|part| {
            let Known { size, present, used, since, pinned, .. } = part.known;
            let owners = self.catalog.count_owners(&part.digest, MOST_OWNERS) as u32;
            PartRow {
                digest: part.digest,
                kind: if part.is_manifest { "manifest" } else { "blob" },
                platform: part.platform.map(|platform| platform.to_string()),
                bytes: size,
                cached: present,
                since: if present { self.index.date(since) } else { 0 },
                used: if present { self.index.date(used) } else { 0 },
                pinned,
                // One of them is the image's own.
                shared_by: owners.saturating_sub(1),
            }
        });
        rows.collect()
    }

    /// Blocks. Removes an object from both tiers; its size, if it was here and was not published anew meanwhile. Where that
    /// fails nobody is given it any more, and it is tried again.
    pub(super) fn remove(&self, digest: &Digest, why: Removal) -> io::Result<Option<u64>> {
        self.memory.forget(digest);
        let Some(victim) = self.index.expel(digest) else { return Ok(None) };
        let removed = self.unlink(victim);
        let removed = removed.inspect_err(|error| tracing::error!(%digest, %error, "cannot remove a cached file"))?;
        Ok(removed.then(|| {
            self.count_eviction(&victim, why);
            victim.size
        }))
    }

    /// Removes what nobody would miss: leftovers, damaged files, what is expired; evicts what is beyond a quota; and evicts until
    /// `free` more bytes fit.
    /// An error if the folder cannot be read.
    pub async fn collect(self: &Arc<Self>, free: u64, dry_run: bool) -> Result<Collected, NoRoom> {
        self.until_scanned().await?;
        if dry_run {
            return Ok(self.blocking(move |cache| cache.would_collect(free)).await.unwrap_or_default());
        }
        let mut collected = self.blocking(|cache| cache.collect_useless()).await.unwrap_or_default();
        collected.records = self.prune_records().await;
        Ok(self.blocking(move |cache| cache.collect_for(free, collected)).await.unwrap_or_default())
    }

    fn would_collect(&self, free: u64) -> Collected {
        let (leftovers, quarantined) = self.index.spares();
        let mut collected = Collected {
            leftovers: leftovers.len() as u64,
            quarantined: quarantined.len() as u64,
            spare_bytes: leftovers.iter().chain(&quarantined).map(|(_, bytes)| bytes).sum(),
            records: self.count_prunable(),
            ..Collected::default()
        };
        collected.bytes = collected.spare_bytes;
        if let Ok(space) = self.store.space() {
            (collected.evicted, collected.evicted_more_bytes) = self.index.preview(free, space, MOST_LISTED);
            collected.bytes += collected.evicted.iter().map(|(_, bytes)| bytes).sum::<u64>() + collected.evicted_more_bytes;
        }
        let expired = self.count_expired();
        collected.expired = expired.objects;
        collected.bytes += expired.bytes;
        collected
    }

    /// Removes leftovers, damaged files and what is expired. What was done counts, not what was to be.
    fn collect_useless(&self) -> Collected {
        let mut collected = Collected::default();
        self.index.retry();
        self.retry_condemned();
        while let Some(victim) = self.index.spare() {
            debug_assert!(victim.place != Place::Blobs);
            match self.evict(victim) {
                Ok(true) => collected.note(&victim),
                Ok(false) => {}
                Err(error) => tracing::warn!(digest = %victim.digest, %error, place = ?victim.place, "cannot be removed"),
            }
        }
        let expired = self.expire();
        collected.expired = expired.objects;
        collected.bytes += expired.bytes;
        collected
    }

    /// Evicts what is beyond a quota, and until `free` more bytes fit.
    fn collect_for(&self, free: u64, mut collected: Collected) -> Collected {
        if let Err(error) = self.keep_limits(&mut |victim| collected.note(victim)) {
            tracing::warn!(%error, "a limit cannot be kept");
        }
        // The claim evicts; what it set aside is given back at once.
        if let Err(error) = self.room(free, 0, &mut |victim| collected.note(victim)) {
            tracing::warn!(%error, "not as much could be made free as was asked for");
            collected.error = Some(error.to_string());
        }
        collected
    }

    /// Whether an object is here, and what is known of it.
    pub fn known(&self, digest: &Digest) -> Option<Known> {
        self.index.known(digest)
    }

    /// A time of [`Known`] in seconds since 1970, for people.
    pub fn date(&self, time: u32) -> u32 {
        self.index.date(time)
    }

    /// What takes how much.
    pub fn account(&self) -> Account {
        let patterns = self.quotas.iter().map(|quota| quota.patterns().join(" "));
        Account {
            pinned_bytes: self.index.pinned(),
            quotas: patterns.zip(self.index.quotas()).map(|(pattern, bytes)| QuotaRow { pattern, bytes }).collect(),
            index_memory_bytes: self.index.memory() + self.catalog.memory(),
        }
    }
}
