//! What stands behind the index's lock: the objects, the classes they count for, and the sums over them.
//!
//! Keeps the sums in step with the objects; knows no lock and no file. Used by [`super::Index`], and by the catalog,
//! which counts what manifests refer to.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::due::Idle;
use super::hold::Held;
use super::{Class, Found, Known, Place, Quota, Victim};
use crate::cache::evict::{Id, Policy};
use crate::cache::objects::{Entry, Objects};
use crate::cache::store::FileId;
use crate::oci::Digest;

/// The account. Every number it gives out names an object that is in `objects`.
#[derive(Debug)]
pub(in crate::cache) struct State {
    pub(in crate::cache) objects: Objects,
    pub(super) classes: Vec<Share>,
    /// Bytes and number of all files.
    pub(super) bytes: u64,
    pub(super) len: usize,
    /// What earlier fills left in `ingest/`, in bytes.
    pub(super) leftovers: HashMap<Digest, u64>,
    /// What was found damaged, in bytes.
    pub(super) quarantined: HashMap<Digest, u64>,
    /// Bytes of both: what goes first.
    pub(super) spare: u64,
    /// Which of both could not be unlinked: nobody tries again before [`super::Index::retry`].
    pub(super) stuck: HashSet<(Place, Digest)>,
    /// Files that were chosen as victims and may still be there, in bytes. What takes such a name meanwhile takes it out of
    /// here, and nobody unlinks it.
    pub(super) leaving: HashMap<(Place, Digest), u64>,
    /// Files under `blobs/` that are known to be damaged and are still there: as good as absent, and counted.
    pub(super) condemned: HashMap<Digest, Condemned>,
    /// Objects used since recency was last written down.
    pub(super) used: Vec<Id>,
    /// Manifests of the catalog whose files have gone, or were not here when they were noted, and when that was (by the
    /// index's clock; 0: gone). For the catalog's next pruning.
    pub(in crate::cache) orphans: Vec<(Id, u32)>,
    /// Those of them that may still be on their way.
    pub(in crate::cache) waiting: Vec<(Id, u32)>,
    /// What pins protect, whether it is here or not.
    pub(super) protected: Arc<HashSet<Digest>>,
    /// What somebody holds, whether it is here or not.
    pub(super) held: HashMap<Digest, Held>,
    /// Bytes of files that stay, for either reason.
    pub(super) pinned: u64,
}

/// A damaged file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Condemned {
    pub(super) size: u64,
    pub(super) file: FileId,
}

/// What counts for one quota.
#[derive(Debug)]
pub(super) struct Share {
    pub(super) quota: Quota,
    pub(super) policy: Box<dyn Policy>,
    pub(super) bytes: u64,
    pub(super) pinned: u64,
    /// Bytes promised to fills.
    pub(super) reserved: u64,
}

impl Share {
    /// By how much it would be beyond its quota with `bytes` more.
    pub(super) fn beyond(&self, bytes: u64) -> u64 {
        self.quota.max_size.map_or(0, |quota| (self.bytes + self.reserved).saturating_add(bytes).saturating_sub(quota))
    }

    /// Whether eviction could free so much of it.
    pub(super) fn can_free(&self, bytes: u64) -> bool {
        bytes <= self.bytes - self.pinned
    }
}

impl State {
    pub(super) fn total(&self) -> u64 {
        let condemned: u64 = self.condemned.values().map(|condemned| condemned.size).sum();
        self.bytes + self.spare + condemned + self.leaving() + self.reserved()
    }

    pub(super) fn leaving(&self) -> u64 {
        self.leaving.values().sum()
    }

    pub(super) fn reserved(&self) -> u64 {
        self.classes.iter().map(|share| share.reserved).sum()
    }

    pub(super) fn class(&self, class: Class) -> Class {
        if usize::from(class) < self.classes.len() { class } else { 0 }
    }

    pub(super) fn share(&mut self, class: Class) -> &mut Share {
        let class = self.class(class);
        &mut self.classes[usize::from(class)]
    }

    /// Takes in the file that has the name under `blobs/` now, whatever had it before.
    pub(super) fn insert(&mut self, digest: &Digest, class: Class, file: Found) -> Id {
        self.leaving.remove(&(Place::Blobs, *digest));
        self.condemned.remove(digest);
        let class = self.class(class);
        let id = self.objects.intern(digest);
        self.drop_file(id);
        let pinned = self.stays(digest);
        let entry = self.objects.get_mut(id);
        let Found { size, used, since, stamp, heat } = file;
        (entry.size, entry.class, entry.used, entry.since, entry.stamp) = (size, class, used, since, stamp);
        (entry.present, entry.pinned, entry.dirty) = (true, pinned, false);
        self.len += 1;
        self.bytes += size;
        self.admit(id, heat);
        id
    }

    /// Puts a file into the account of its class.
    pub(super) fn admit(&mut self, id: Id, heat: Option<u8>) {
        let &Entry { size, class, pinned, .. } = self.objects.get(id);
        let name = self.objects.name(id);
        let share = self.share(class);
        share.bytes += size;
        if pinned {
            share.pinned += size;
            self.pinned += size;
        } else if let Some(heat) = heat {
            share.policy.restore(id, name, size, heat);
        } else {
            share.policy.insert(id, name, size);
        }
    }

    /// Takes a file out of the account of its class.
    pub(super) fn dismiss(&mut self, id: Id) {
        let &Entry { size, class, pinned, .. } = self.objects.get(id);
        let share = self.share(class);
        share.bytes -= size;
        share.policy.remove(id);
        if pinned {
            share.pinned -= size;
            self.pinned -= size;
        }
    }

    /// Forgets an object's file; its size, if it had one.
    pub(super) fn drop_file(&mut self, id: Id) -> Option<u64> {
        if !self.objects.get(id).present {
            return None;
        }
        self.dismiss(id);
        let entry = self.objects.get_mut(id);
        entry.present = false;
        let (size, is_manifest) = (entry.size, entry.manifest);
        if is_manifest {
            self.orphans.push((id, 0));
        }
        self.len -= 1;
        self.bytes -= size;
        Some(size)
    }

    pub(super) fn remove(&mut self, id: Id) -> Option<u64> {
        let size = self.drop_file(id);
        self.objects.forget_if_unheld(id);
        size
    }

    /// Chooses the file to go: of `class`, or of the class whose next candidate was unused for longest.
    pub(super) fn evict(&mut self, class: Option<Class>) -> Option<Victim> {
        let class = class.or_else(|| {
            let candidates = (0..self.classes.len()).filter_map(|class| {
                let id = self.classes[class].policy.candidate()?;
                Some((self.objects.get(id).used, class as Class))
            });
            candidates.min().map(|(_, class)| class)
        })?;
        let id = self.share(class).policy.evict()?;
        Some(self.leave(id))
    }

    /// Chooses a file that no pull would miss.
    pub(super) fn evict_spare(&mut self) -> Option<Victim> {
        let first = |place: Place, map: &HashMap<Digest, u64>| {
            let digest = map.keys().find(|digest| !self.stuck.contains(&(place, **digest)))?;
            Some((place, *digest))
        };
        let found = first(Place::Quarantine, &self.quarantined).or_else(|| first(Place::Ingest, &self.leftovers));
        let (place, digest) = found?;
        let size = self.take_spare(place, &digest);
        self.leaving.insert((place, digest), size);
        Some(Victim { digest, size, class: 0, place, stamp: 0, used: 0, since: 0 })
    }

    /// The objects among `count` numbers from `from` on that were unused for longer than their quota says.
    pub(super) fn expired(&self, idle: Idle, from: Id, count: Id) -> (Vec<Id>, Option<Id>) {
        if self.classes.iter().all(|share| share.quota.unused_for.is_none()) {
            return (Vec::new(), None);
        }
        let (found, next) = self.objects.walk(from, count);
        let expired = found.filter(|(_, entry)| {
            let unused_for = self.classes.get(usize::from(entry.class)).and_then(|share| share.quota.unused_for);
            entry.present && !entry.pinned && unused_for.is_some_and(|limit| idle.of(entry.used) > limit.as_secs())
        });
        (expired.map(|(id, _)| id).collect(), next)
    }

    fn spares(&mut self, place: Place) -> &mut HashMap<Digest, u64> {
        if place == Place::Quarantine { &mut self.quarantined } else { &mut self.leftovers }
    }

    /// Takes in the leftover or damaged file that has the name now, whatever had it before.
    pub(super) fn add_spare(&mut self, place: Place, digest: Digest, size: u64) {
        self.leaving.remove(&(place, digest));
        let before = self.spares(place).insert(digest, size).unwrap_or(0);
        self.spare = self.spare + size - before;
    }

    /// Takes a leftover or damaged file out of the account, also one that was to be unlinked; its bytes.
    pub(super) fn take_spare(&mut self, place: Place, digest: &Digest) -> u64 {
        self.stuck.remove(&(place, *digest));
        let held = self.spares(place).remove(digest).unwrap_or(0);
        self.spare -= held;
        held + self.leaving.remove(&(place, *digest)).unwrap_or(0)
    }

    pub(super) fn leave(&mut self, id: Id) -> Victim {
        let (digest, &Entry { class, stamp, used, since, .. }) = (self.objects.digest(id), self.objects.get(id));
        let size = self.remove(id).unwrap_or(0);
        self.leaving.insert((Place::Blobs, digest), size);
        Victim { digest, size, class, place: Place::Blobs, stamp, used, since }
    }

    /// What the policy knows of an object's uses, to be carried to another one.
    pub(super) fn heat(&self, id: Id) -> Option<u8> {
        let entry = self.objects.get(id);
        (!entry.pinned).then(|| self.classes[usize::from(entry.class)].policy.heat(id))
    }

    /// Notes a use, of what has a file; whether it has.
    pub(in crate::cache) fn touch(&mut self, id: Id, now: u32) -> bool {
        let entry = self.objects.get_mut(id);
        if !entry.present {
            return false;
        }
        entry.used = now;
        self.note_use(id);
        let (class, pinned) = (self.objects.get(id).class, self.objects.get(id).pinned);
        if !pinned {
            self.share(class).policy.touch(id);
        }
        true
    }

    /// The use is to be written down.
    pub(super) fn note_use(&mut self, id: Id) {
        if !std::mem::replace(&mut self.objects.get_mut(id).dirty, true) {
            self.used.push(id);
        }
    }

    pub(in crate::cache) fn known(&self, id: Id) -> Known {
        let &Entry { size, present, used, since, pinned, references, stamp, .. } = self.objects.get(id);
        let pinned = pinned && (self.held.is_empty() || self.protected.contains(&self.objects.digest(id)));
        Known { size, present, used, since, pinned, references, stamp }
    }

    /// A manifest refers to an object: it is known from now on, and counts for the manifest's quota if it has none.
    pub(in crate::cache) fn refer(&mut self, digest: &Digest, size: u64, class: Class) -> Id {
        let class = self.class(class);
        let id = self.objects.intern(digest);
        let entry = self.objects.get_mut(id);
        entry.references += 1;
        if !entry.present {
            entry.size = size;
        }
        self.classify(id, class);
        id
    }

    /// As [`State::refer`], for a manifest that the catalog has from `now` on.
    pub(in crate::cache) fn refer_manifest(&mut self, digest: &Digest, class: Class, now: u32) -> Id {
        let id = self.refer(digest, 0, class);
        let entry = self.objects.get_mut(id);
        if !std::mem::replace(&mut entry.manifest, true) && !entry.present {
            self.orphans.push((id, now));
        }
        id
    }

    /// A manifest that referred to an object is gone.
    pub(in crate::cache) fn release(&mut self, id: Id) {
        let entry = self.objects.get_mut(id);
        entry.references = entry.references.saturating_sub(1);
        self.objects.forget_if_unheld(id);
    }

    /// Makes an object count for a quota, if it counts for none.
    pub(in crate::cache) fn classify(&mut self, id: Id, class: Class) {
        let entry = self.objects.get(id);
        if class == 0 || entry.class != 0 {
            return;
        }
        let (present, heat) = (entry.present, self.heat(id));
        if present {
            self.dismiss(id);
        }
        self.objects.get_mut(id).class = class;
        if present {
            self.admit(id, heat);
        }
    }
}
