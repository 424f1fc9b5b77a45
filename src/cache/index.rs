//! What the disk tier holds and may still take in: sizes, order of use, reservations.
//!
//! Owns the account behind I8: objects + leftovers + damaged files + what is being unlinked + reservations ≤ limit, at
//! every moment. Never touches a file: it names a victim, [`super::Cache`] unlinks it and reports back. Until then the
//! victim is leaving, and may be taken back: by a fill that resumes it, or by a publication under its name. The lock is
//! held for map operations only.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::{Mutex, MutexGuard};

use super::evict::{Id, Kind, MAX_HEAT, policy};
use super::objects::Objects;
pub use super::objects::SHARDS;
use crate::clock::{Clock, Moment, Timestamp};
use crate::oci::Digest;

mod due;
mod hold;
mod leaving;
mod reservation;
mod state;

pub use due::Sum;
pub use hold::Hold;
pub use reservation::{Claim, Reservation};
use state::Share;
pub(super) use state::State;

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

/// Objects looked at under one lock.
pub const CHUNK: Id = 4096;

/// The account of the disk tier.
#[derive(Debug)]
pub struct Index {
    limits: Limits,
    /// By which it counts how long something was not used.
    clock: Clock,
    state: Mutex<State>,
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
    /// What its entry needs, should it stay: see [`Known::stamp`].
    pub stamp: u32,
    /// See [`Known::used`].
    pub used: u32,
    /// See [`Known::since`].
    pub since: u32,
}

/// The folders whose files the account is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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
    /// The last use, by the index's clock; [`Index::date`] is for people.
    pub used: u32,
    /// When it came, by the same clock.
    pub since: u32,
    /// A pin protects it.
    pub pinned: bool,
    /// Manifests here that refer to it.
    pub references: u32,
    /// Its file's modification time, as [`super::store::stamp`] has it.
    pub stamp: u32,
}

/// A file under `blobs/`.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    /// Bytes.
    pub size: u64,
    /// The last use, by the index's clock.
    pub used: u32,
    /// When it came, by the same clock.
    pub since: u32,
    /// Its modification time, as [`super::store::stamp`] has it.
    pub stamp: u32,
    /// What an earlier process knew of its uses; `None` for one that has just come.
    pub heat: Option<u8>,
}

impl Found {
    /// A file that comes, or is used, `now`.
    pub fn new(size: u64, stamp: u32, now: u32) -> Self {
        Self { size, used: now, since: now, stamp, heat: None }
    }
}

/// A use to be written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    /// Of what.
    pub digest: Digest,
    /// Seconds since 1970, by the wall clock.
    pub at: u32,
    /// What its policy wants to be told after a restart.
    pub heat: u8,
}

/// No mirror ran before 2025: in seconds since 1970.
const FIRST: u32 = 1_735_689_600;

/// In seconds, as the index keeps times: enough until 2106.
fn seconds(millis: u64) -> u32 {
    u32::try_from(millis / 1000).unwrap_or(u32::MAX)
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
            stuck: HashSet::new(),
            leaving: HashMap::new(),
            condemned: HashMap::new(),
            used: Vec::new(),
            orphans: Vec::new(),
            waiting: Vec::new(),
            protected: Arc::default(),
            held: HashMap::new(),
            pinned: 0,
        };
        Self { limits, clock: Clock::new(), state: Mutex::new(state) }
    }

    /// The clock, which is the whole mirror's.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Now, as the index keeps times: in seconds, by its clock. A jump of the wall clock makes nothing here old or new.
    pub fn now(&self) -> u32 {
        seconds(self.clock.now().0)
    }

    /// When that clock began.
    pub(super) fn start(&self) -> u32 {
        seconds(self.clock.start().0)
    }

    /// A time that a file has, as the index keeps times.
    pub fn time(&self, file: SystemTime) -> u32 {
        seconds(self.clock.moment(Timestamp(crate::clock::seconds(file) * 1000)).0)
    }

    /// A time of the index in seconds since 1970 by the wall clock, for people.
    pub fn date(&self, time: u32) -> u32 {
        seconds(self.clock.date(Moment(u64::from(time) * 1000)).0)
    }

    /// The limits in force.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// What is granted to content of `class`.
    pub fn quota_of(&self, class: Class) -> Quota {
        let state = self.lock();
        state.classes[usize::from(state.class(class))].quota
    }

    /// Takes in a file that is under `blobs/`, as the one used last.
    pub fn insert(&self, digest: Digest, size: u64) {
        self.lock().insert(&digest, 0, Found::new(size, 0, self.now()));
    }

    /// Takes in a file that was found under its name, unless a fill has published it meanwhile, it is known to be damaged, or
    /// is leaving; whether it is an object now. At the start to be called in order of use.
    pub fn insert_found(&self, digest: &Digest, mut found: Found) -> bool {
        let now = self.now();
        // What lies ahead, or before any mirror ran, was written under a wrong clock. It counts from now on, and is written
        // down again: else it would lie ahead for years, or be expired by the next process.
        let wrong = found.used > now || found.used < FIRST;
        (found.used, found.since) = (if wrong { now } else { found.used }, found.since.min(now));
        let mut state = self.lock();
        if state.condemned.contains_key(digest) || state.leaving.contains_key(&(Place::Blobs, *digest)) {
            return false;
        }
        let known = state.objects.find(digest).map(|id| state.objects.get(id));
        if !known.is_some_and(|entry| entry.present) {
            let class = known.map_or(0, |entry| entry.class);
            let id = state.insert(digest, class, found);
            if wrong {
                state.note_use(id);
            }
        }
        true
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

    /// Whether an earlier fill has left something of an object.
    pub fn has_leftover(&self, digest: &Digest) -> bool {
        let state = self.lock();
        state.leftovers.contains_key(digest) || state.leaving.contains_key(&(Place::Ingest, *digest))
    }

    /// Hands a leftover to a new fill of the same digest: its bytes count as that fill's from now on. So is one that was
    /// chosen as a victim and is not unlinked yet.
    pub fn take_leftover(self: &Arc<Self>, digest: &Digest, class: Class) -> Reservation {
        let mut state = self.lock();
        let class = state.class(class);
        let bytes = state.take_spare(Place::Ingest, digest);
        state.share(class).reserved += bytes;
        Reservation { index: self.clone(), bytes, class }
    }

    /// Forgets an object; its size.
    pub fn remove(&self, digest: &Digest) -> Option<u64> {
        let mut state = self.lock();
        let id = state.objects.find(digest)?;
        state.remove(id)
    }

    /// Makes an object leave, to be unlinked now; [`Index::left`] must follow. `None` if it is not here.
    pub fn expel(&self, digest: &Digest) -> Option<Victim> {
        let mut state = self.lock();
        let id = state.objects.find(digest).filter(|id| state.objects.get(*id).present)?;
        Some(state.leave(id))
    }

    /// Notes that an object was served; whether it is here.
    pub fn touch(&self, digest: &Digest) -> bool {
        let now = self.now();
        let mut state = self.lock();
        state.objects.find(digest).is_some_and(|id| state.touch(id, now))
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

    /// Objects used since they were last taken, for recency to be written down: at most `most` of them.
    pub fn take_used(&self, most: usize) -> Vec<Used> {
        let mut state = self.lock();
        let from = state.used.len().saturating_sub(most);
        let used = state.used.split_off(from);
        let (mut taken, off) = (Vec::with_capacity(used.len()), self.clock.off());
        for id in used {
            // A number may have gone to another object meanwhile, which then is not dirty.
            if std::mem::take(&mut state.objects.get_mut(id).dirty) && state.objects.get(id).present {
                let heat = state.heat(id).unwrap_or(MAX_HEAT);
                let at = i64::from(state.objects.get(id).used) + off;
                taken.push(Used { digest: state.objects.digest(id), at: u32::try_from(at.max(0)).unwrap_or(u32::MAX), heat });
            }
        }
        taken
    }

    /// Has all uses since the start written down again.
    pub fn rewrite_uses(&self) {
        let (start, mut from) = (self.start(), Some(0));
        while let Some(at) = from {
            let mut state = self.lock();
            let (all, next) = state.objects.walk(at, CHUNK);
            let used: Vec<Id> = all.filter(|(_, entry)| entry.present && entry.used >= start).map(|(id, _)| id).collect();
            used.into_iter().for_each(|id| state.note_use(id));
            from = next;
        }
    }

    /// Notes what the modification time of an object's file is now.
    pub fn set_stamp(&self, digest: &Digest, stamp: u32) {
        let mut state = self.lock();
        if let Some(id) = state.objects.find(digest) {
            state.objects.get_mut(id).stamp = stamp;
        }
    }

    /// The objects here of one of [`SHARDS`] shares.
    pub fn shard(&self, shard: usize) -> Files {
        let state = self.lock();
        let here = state.objects.shard(shard).filter(|(_, entry)| entry.present);
        here.map(|(id, entry)| (state.objects.digest(id), entry.size)).collect()
    }

    /// Whether pins protect an object, here or not.
    pub fn is_protected(&self, digest: &Digest) -> bool {
        self.lock().protected.contains(digest)
    }

    /// Replaces the set of what pins protect. It may be large, and every hit takes the lock: only what changes is looked at
    /// under it.
    pub fn protect(&self, protected: HashSet<Digest>) {
        let protected = Arc::new(protected);
        loop {
            let before = self.lock().protected.clone();
            let changed: Vec<Digest> = before.symmetric_difference(&protected).copied().collect();
            let mut state = self.lock();
            // Somebody else may have replaced it meanwhile.
            if Arc::ptr_eq(&state.protected, &before) {
                state.protected = protected;
                return changed.iter().for_each(|digest| state.repin(digest, None));
            }
        }
    }

    /// Bytes held and promised, and the number of objects.
    pub fn totals(&self) -> (u64, usize) {
        let state = self.lock();
        (state.total(), state.len)
    }

    /// Bytes of pinned files.
    pub fn pinned(&self) -> u64 {
        let state = self.lock();
        state.pinned - state.only_held()
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
        self.state.lock()
    }
}

#[cfg(test)]
mod tests;
