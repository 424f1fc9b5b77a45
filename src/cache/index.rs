//! What the disk tier holds and may still take in: sizes, order of use, reservations.
//!
//! Owns the account behind I8: objects + leftovers + what is being unlinked + reservations ≤ limit, at every moment.
//! Never touches a file: it names a victim, [`super::Cache`] unlinks it and reports back. The lock is held for map
//! operations only.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::evict::{Id, Kind, Policy, policy};
use super::objects::{Entry, Objects};
use super::store::Space;
use crate::oci::Digest;

/// How much the disk tier may hold.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of all files together.
    pub max_size: u64,
    /// Bytes of the file system that stay free.
    pub min_free: u64,
}

/// What one quota grants to the content that counts for it. Class 0 is everything else, and has none.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quota {
    /// Bytes of its files together.
    pub max_size: Option<u64>,
    /// What was not used for so long goes.
    pub unused_for: Option<Duration>,
}

/// Files with their sizes in bytes.
pub type Files = Vec<(Digest, u64)>;

/// Which quota content counts for: 0, or the place of the quota in the list, from 1.
pub type Class = u8;

/// The account of the disk tier.
#[derive(Debug)]
pub struct Index {
    limits: Limits,
    state: Mutex<State>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) objects: Objects,
    classes: Vec<Share>,
    /// Bytes and number of all files.
    bytes: u64,
    len: usize,
    /// What earlier fills left in `ingest/`, in bytes.
    leftovers: HashMap<Digest, u64>,
    /// What was found damaged, in bytes.
    quarantined: HashMap<Digest, u64>,
    /// Bytes of both: what goes first.
    spare: u64,
    /// Bytes of files that were chosen as victims and may still be there.
    leaving: u64,
    /// Objects used since recency was last written down.
    used: Vec<Id>,
    /// What pins protect, whether it is here or not.
    protected: HashSet<Digest>,
    pinned: u64,
}

/// What counts for one quota.
#[derive(Debug)]
struct Share {
    quota: Quota,
    policy: Box<dyn Policy>,
    bytes: u64,
    pinned: u64,
    /// Bytes promised to fills.
    reserved: u64,
}

impl State {
    fn total(&self) -> u64 {
        self.bytes + self.spare + self.leaving + self.reserved()
    }

    fn reserved(&self) -> u64 {
        self.classes.iter().map(|share| share.reserved).sum()
    }

    fn class(&self, class: Class) -> Class {
        if usize::from(class) < self.classes.len() { class } else { 0 }
    }

    fn share(&mut self, class: Class) -> &mut Share {
        let class = self.class(class);
        &mut self.classes[usize::from(class)]
    }

    fn insert(&mut self, digest: &Digest, size: u64, class: Class, used: u32, since: u32) {
        let class = self.class(class);
        let id = self.objects.intern(digest);
        self.drop_file(id);
        let pinned = self.protected.contains(digest);
        let entry = self.objects.get_mut(id);
        (entry.size, entry.class, entry.used, entry.since) = (size, class, used, since);
        (entry.present, entry.pinned, entry.dirty) = (true, pinned, false);
        self.len += 1;
        self.bytes += size;
        self.admit(id);
    }

    /// Puts a file into the account of its class.
    fn admit(&mut self, id: Id) {
        let &Entry { size, class, pinned, .. } = self.objects.get(id);
        let name = self.objects.name(id);
        let share = self.share(class);
        share.bytes += size;
        if pinned {
            share.pinned += size;
            self.pinned += size;
        } else {
            share.policy.insert(id, name, size);
        }
    }

    /// Takes a file out of the account of its class.
    fn dismiss(&mut self, id: Id) {
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
    fn drop_file(&mut self, id: Id) -> Option<u64> {
        if !self.objects.get(id).present {
            return None;
        }
        self.dismiss(id);
        let entry = self.objects.get_mut(id);
        entry.present = false;
        let size = entry.size;
        self.len -= 1;
        self.bytes -= size;
        Some(size)
    }

    fn remove(&mut self, id: Id) -> Option<u64> {
        let size = self.drop_file(id);
        self.objects.forget_if_unheld(id);
        size
    }

    /// Chooses the file to go: of `class`, or of the class whose next candidate was unused for longest.
    fn evict(&mut self, class: Option<Class>) -> Option<Victim> {
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
    fn evict_spare(&mut self) -> Option<Victim> {
        let first = |map: &mut HashMap<Digest, u64>| {
            let digest = *map.keys().next()?;
            map.remove_entry(&digest)
        };
        let found = first(&mut self.quarantined).map(|found| (found, Place::Quarantine));
        let ((digest, size), place) = found.or_else(|| first(&mut self.leftovers).map(|found| (found, Place::Ingest)))?;
        self.spare -= size;
        self.leaving += size;
        Some(Victim { digest, size, class: 0, place })
    }

    fn add_spare(&mut self, place: Place, digest: Digest, size: u64) {
        let map = if place == Place::Quarantine { &mut self.quarantined } else { &mut self.leftovers };
        let before = map.insert(digest, size).unwrap_or(0);
        self.spare = self.spare + size - before;
    }

    fn leave(&mut self, id: Id) -> Victim {
        let (digest, class) = (self.objects.digest(id), self.objects.get(id).class);
        let size = self.remove(id).unwrap_or(0);
        self.leaving += size;
        Victim { digest, size, class, place: Place::Blobs }
    }

    fn set_pinned(&mut self, digest: &Digest, pinned: bool) {
        let Some(id) = self.objects.find(digest) else { return };
        if !self.objects.get(id).present {
            return;
        }
        self.dismiss(id);
        self.objects.get_mut(id).pinned = pinned;
        self.admit(id);
    }
}

/// What has to happen before a claim can be granted.
#[derive(Debug)]
pub enum Claim {
    /// It is granted.
    Granted(Reservation),
    /// This must be unlinked first; then [`Index::left`] is called and the claim made again.
    Evict(Victim),
    /// Others are unlinking: make the claim again in a moment.
    Wait,
    /// It cannot be granted, whatever is evicted.
    Impossible,
}

/// A file that has to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Victim {
    /// Whose file.
    pub digest: Digest,
    /// Its bytes.
    pub size: u64,
    /// Which quota it counted for.
    pub class: Class,
    /// Where it lies.
    pub place: Place,
}

/// The folders whose files the account is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// `blobs/`
    Blobs,
    /// `ingest/`: what earlier fills left.
    Ingest,
    /// `quarantine/`: what was found damaged.
    Quarantine,
}

/// What the index knows of one object, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// Bytes.
    pub size: u64,
    /// It is under `blobs/`.
    pub present: bool,
    /// Seconds since 1970: the last use.
    pub used: u32,
    /// Seconds since 1970: when it came.
    pub since: u32,
    /// A pin protects it.
    pub pinned: bool,
    /// Manifests here that refer to it.
    pub references: u32,
}

/// Seconds since 1970, as the index keeps times: enough until 2106.
pub fn seconds(time: SystemTime) -> u32 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| u32::try_from(since.as_secs()).unwrap_or(u32::MAX))
}

impl Index {
    /// An empty account; `quotas` are the classes from 1 on.
    pub fn with(limits: Limits, quotas: &[Quota], kind: Kind) -> Self {
        let share = |quota| Share { quota, policy: policy(kind), bytes: 0, pinned: 0, reserved: 0 };
        let classes = std::iter::once(Quota::default()).chain(quotas.iter().copied()).map(share).collect();
        let state = State {
            objects: Objects::default(),
            classes,
            bytes: 0,
            len: 0,
            leftovers: HashMap::new(),
            quarantined: HashMap::new(),
            spare: 0,
            leaving: 0,
            used: Vec::new(),
            protected: HashSet::new(),
            pinned: 0,
        };
        Self { limits, state: Mutex::new(state) }
    }

    /// The limits in force.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Tries to set `bytes` aside for content of `class`. `space` is what the file system says now.
    pub fn claim(self: &Arc<Self>, bytes: u64, class: Class, space: Space) -> Claim {
        let mut state = self.lock();
        let class = state.class(class);
        let over = state.total().saturating_add(bytes).saturating_sub(self.limits.max_size);
        let short = bytes.saturating_add(self.limits.min_free).saturating_sub(space.free);
        let share = &state.classes[usize::from(class)];
        let beyond =
            share.quota.max_size.map_or(0, |quota| (share.bytes + share.reserved).saturating_add(bytes).saturating_sub(quota));
        if over == 0 && short == 0 && beyond == 0 {
            state.share(class).reserved += bytes;
            return Claim::Granted(Reservation { index: self.clone(), bytes, class });
        }
        // What eviction could free at best; if that is not enough, nothing is evicted in vain.
        let evictable = state.bytes - state.pinned + state.spare + state.leaving;
        if over.max(short) > evictable || beyond > share.bytes - share.pinned {
            return Claim::Impossible;
        }
        let spare = if over.max(short) > 0 { state.evict_spare() } else { None };
        let victim = spare.or_else(|| state.evict((beyond > 0).then_some(class)));
        match victim {
            Some(victim) => Claim::Evict(victim),
            None if state.leaving > 0 => Claim::Wait,
            None => Claim::Impossible,
        }
    }

    /// Bytes by which the file system's free space, without what is promised to fills, lies below `min_free`, and what
    /// could be evicted for it.
    pub fn shortage(&self, space: Space) -> Option<Victim> {
        let mut state = self.lock();
        if space.free >= self.limits.min_free || state.leaving > 0 {
            return None;
        }
        state.evict(None)
    }

    /// A victim has been unlinked.
    pub fn left(&self, victim: Victim) {
        self.lock().leaving -= victim.size;
    }

    /// A victim could not be unlinked: it is still there and still counts.
    pub fn stayed(&self, victim: Victim) {
        let mut state = self.lock();
        state.leaving -= victim.size;
        if victim.place == Place::Blobs {
            let now = seconds(SystemTime::now());
            state.insert(&victim.digest, victim.size, victim.class, now, now);
        } else {
            state.add_spare(victim.place, victim.digest, victim.size);
        }
    }

    /// Takes in a file that is under `blobs/`, as the one used last.
    pub fn insert(&self, digest: Digest, size: u64) {
        let now = seconds(SystemTime::now());
        self.lock().insert(&digest, size, 0, now, now);
    }

    /// Takes in a file that the start found, unless a fill has published it meanwhile. To be called in order of use.
    pub fn insert_found(&self, digest: &Digest, size: u64, used: u32, since: u32) {
        let mut state = self.lock();
        if !state.objects.find(digest).is_some_and(|id| state.objects.get(id).present) {
            state.insert(digest, size, 0, used, since);
        }
    }

    /// Takes in what an earlier fill left.
    pub fn insert_leftover(&self, digest: Digest, size: u64) {
        self.lock().add_spare(Place::Ingest, digest, size);
    }

    /// Takes in a damaged file that was set apart.
    pub fn insert_quarantined(&self, digest: Digest, size: u64) {
        self.lock().add_spare(Place::Quarantine, digest, size);
    }

    /// Chooses a leftover or a damaged file to go.
    pub fn spare(&self) -> Option<Victim> {
        self.lock().evict_spare()
    }

    /// What earlier fills left, and what was found damaged.
    pub fn spares(&self) -> (Files, Files) {
        let state = self.lock();
        let list = |map: &HashMap<Digest, u64>| map.iter().map(|(digest, size)| (*digest, *size)).collect();
        (list(&state.leftovers), list(&state.quarantined))
    }

    /// Hands a leftover over to a new fill of the same digest: its bytes count as that fill's from now on.
    pub fn take_leftover(self: &Arc<Self>, digest: &Digest, class: Class) -> Reservation {
        let mut state = self.lock();
        let class = state.class(class);
        let bytes = state.leftovers.remove(digest).unwrap_or(0);
        state.spare -= bytes;
        state.share(class).reserved += bytes;
        Reservation { index: self.clone(), bytes, class }
    }

    /// Forgets an object; its size.
    pub fn remove(&self, digest: &Digest) -> Option<u64> {
        let mut state = self.lock();
        let id = state.objects.find(digest)?;
        state.remove(id)
    }

    /// Forgets an object that is to be unlinked now; [`Index::left`] must follow. `None` if it is not here.
    pub fn expel(&self, digest: &Digest) -> Option<Victim> {
        let mut state = self.lock();
        let id = state.objects.find(digest).filter(|id| state.objects.get(*id).present)?;
        Some(state.leave(id))
    }

    /// Notes that an object was served.
    pub fn touch(&self, digest: &Digest) {
        let now = seconds(SystemTime::now());
        let mut state = self.lock();
        if let Some(id) = state.objects.find(digest) {
            state.touch(id, now);
        }
    }

    /// Whether the object is held.
    pub fn contains(&self, digest: &Digest) -> bool {
        let state = self.lock();
        state.objects.find(digest).is_some_and(|id| state.objects.get(id).present)
    }

    /// What is known of an object.
    pub fn known(&self, digest: &Digest) -> Option<Known> {
        let state = self.lock();
        state.objects.find(digest).map(|id| state.known(id))
    }

    /// The size of an object that is held.
    pub fn size(&self, digest: &Digest) -> Option<u64> {
        let state = self.lock();
        let entry = state.objects.get(state.objects.find(digest)?);
        entry.present.then_some(entry.size)
    }

    /// The objects used since the last call, for recency to be written down.
    pub fn take_used(&self) -> Vec<Digest> {
        let mut state = self.lock();
        let used = std::mem::take(&mut state.used);
        let mut digests = Vec::with_capacity(used.len());
        for id in used {
            // A number may have gone to another object meanwhile, which then is not dirty.
            if std::mem::take(&mut state.objects.get_mut(id).dirty) && state.objects.get(id).present {
                digests.push(state.objects.digest(id));
            }
        }
        digests
    }

    /// The objects here, from `from` on, `count` numbers tried at a time; and where to go on.
    pub fn page(&self, from: Id, count: usize) -> (Files, Option<Id>) {
        let state = self.lock();
        let (found, next) = state.objects.walk(from, count);
        (found.filter(|(_, entry)| entry.present).map(|(id, entry)| (state.objects.digest(id), entry.size)).collect(), next)
    }

    /// Chooses the objects among those numbers that were not used for longer than their quota says.
    pub fn expire(&self, now: u32, from: Id, count: usize) -> (Vec<Victim>, Option<Id>) {
        let mut state = self.lock();
        if state.classes.iter().all(|share| share.quota.unused_for.is_none()) {
            return (Vec::new(), None);
        }
        let (found, next) = state.objects.walk(from, count);
        let expired: Vec<Id> = found
            .filter(|(_, entry)| {
                let unused_for = state.classes.get(usize::from(entry.class)).and_then(|share| share.quota.unused_for);
                let idle = u64::from(now.saturating_sub(entry.used));
                entry.present && !entry.pinned && unused_for.is_some_and(|limit| idle > limit.as_secs())
            })
            .map(|(id, _)| id)
            .collect();
        (expired.into_iter().map(|id| state.leave(id)).collect(), next)
    }

    /// The objects that would go for `bytes` more, in that order; leftovers first.
    pub fn preview(&self, bytes: u64, space: Space) -> Files {
        let state = self.lock();
        let over = state.total().saturating_add(bytes).saturating_sub(self.limits.max_size);
        let short = bytes.saturating_add(self.limits.min_free).saturating_sub(space.free);
        let mut wanted = over.max(short).saturating_sub(state.spare);
        let mut orders: Vec<Id> = state.classes.iter().flat_map(|share| share.policy.order()).collect();
        if state.classes.len() > 1 {
            orders.sort_by_key(|id| state.objects.get(*id).used);
        }
        let victims = orders.into_iter().map_while(|id| {
            let size = state.objects.get(id).size;
            let due = wanted > 0;
            wanted = wanted.saturating_sub(size);
            due.then(|| (state.objects.digest(id), size))
        });
        victims.collect()
    }

    /// Replaces the set of what pins protect.
    pub fn protect(&self, protected: HashSet<Digest>) {
        let mut state = self.lock();
        let before = std::mem::replace(&mut state.protected, protected.clone());
        before.difference(&protected).for_each(|digest| state.set_pinned(digest, false));
        protected.difference(&before).for_each(|digest| state.set_pinned(digest, true));
    }

    /// Bytes held and promised, and the number of objects.
    pub fn totals(&self) -> (u64, usize) {
        let state = self.lock();
        (state.total(), state.len)
    }

    /// Bytes of pinned files.
    pub fn pinned(&self) -> u64 {
        self.lock().pinned
    }

    /// Bytes of files and promises of each quota, in the order of the configuration.
    pub fn quotas(&self) -> Vec<u64> {
        self.lock().classes[1..].iter().map(|share| share.bytes + share.reserved).collect()
    }

    /// Bytes of memory that the objects' entries take, without the policy's 10 to 22 bytes each.
    pub fn memory(&self) -> usize {
        self.lock().objects.memory()
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing under the lock panics; if it did, the account is still the best there is.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl State {
    /// Notes a use.
    pub(super) fn touch(&mut self, id: Id, now: u32) {
        let entry = self.objects.get_mut(id);
        if !entry.present {
            return;
        }
        entry.used = now;
        if !std::mem::replace(&mut entry.dirty, true) {
            self.used.push(id);
        }
        let (class, pinned) = (self.objects.get(id).class, self.objects.get(id).pinned);
        if !pinned {
            self.share(class).policy.touch(id);
        }
    }

    pub(super) fn known(&self, id: Id) -> Known {
        let &Entry { size, present, used, since, pinned, references, .. } = self.objects.get(id);
        Known { size, present, used, since, pinned, references }
    }

    /// A manifest refers to an object: it is known from now on, and counts for the manifest's quota if it has none.
    pub(super) fn refer(&mut self, digest: &Digest, size: u64, class: Class) -> Id {
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

    /// A manifest that referred to an object is gone.
    pub(super) fn release(&mut self, id: Id) {
        let entry = self.objects.get_mut(id);
        entry.references = entry.references.saturating_sub(1);
        self.objects.forget_if_unheld(id);
    }

    /// Makes an object count for a quota, if it counts for none.
    pub(super) fn classify(&mut self, id: Id, class: Class) {
        let entry = self.objects.get(id);
        if class == 0 || entry.class != 0 {
            return;
        }
        let present = entry.present;
        if present {
            self.dismiss(id);
        }
        self.objects.get_mut(id).class = class;
        if present {
            self.admit(id);
        }
    }
}

/// Bytes set aside for one fill; given back when dropped.
#[derive(Debug)]
pub struct Reservation {
    index: Arc<Index>,
    bytes: u64,
    class: Class,
}

impl Reservation {
    /// How many bytes are set aside.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes over another reservation of the same index and quota.
    pub fn absorb(&mut self, mut other: Self) {
        debug_assert!(Arc::ptr_eq(&self.index, &other.index) && self.class == other.class);
        self.bytes += std::mem::take(&mut other.bytes);
    }

    /// Sets `bytes` of it apart, as far as it goes.
    pub fn split(&mut self, bytes: u64) -> Self {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        Self { index: self.index.clone(), bytes, class: self.class }
    }

    /// The fill has been published as an object of `size` bytes.
    pub fn published(mut self, digest: Digest, size: u64) {
        let now = seconds(SystemTime::now());
        let mut state = self.index.lock();
        state.share(self.class).reserved -= std::mem::take(&mut self.bytes);
        state.insert(&digest, size, self.class, now, now);
    }

    /// The fill stopped and left `size` bytes that can be resumed.
    pub fn left_over(mut self, digest: Digest, size: u64) {
        let mut state = self.index.lock();
        state.share(self.class).reserved -= std::mem::take(&mut self.bytes);
        state.add_spare(Place::Ingest, digest, size);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.index.lock().share(self.class).reserved -= self.bytes;
        }
    }
}

#[cfg(test)]
mod tests;
