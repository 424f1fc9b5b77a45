//! The objects the index knows, 64 bytes each: found by digest, named by a small number.
//!
//! A SHA-256 digest is kept as its 32 bytes; of the rare SHA-512 one the first half is the key and the second lies in
//! a map of its own. An entry lives as long as its file, or as long as a manifest that is here refers to it. Pure;
//! used by [`super::index`] under its lock.

use std::collections::HashMap;

use hashbrown::HashTable;

use super::evict::Id;
use crate::oci::{Algorithm, Digest};

/// What is known of one object.
#[derive(Clone, Debug)]
pub struct Entry {
    key: [u8; 32],
    /// Bytes of its file; where there is none, what a manifest says.
    pub size: u64,
    /// Seconds since 1970: the last use.
    pub used: u32,
    /// Seconds since 1970: when it came.
    pub since: u32,
    /// Manifests that refer to it.
    pub references: u32,
    /// Which quota it counts for.
    pub class: u8,
    /// It has a file under `blobs/`.
    pub present: bool,
    /// It was used since recency was last written down.
    pub dirty: bool,
    /// It is protected by a pin.
    pub pinned: bool,
    sha512: bool,
    live: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Objects {
    entries: Vec<Entry>,
    free: Vec<Id>,
    table: HashTable<Id>,
    tails: HashMap<Id, [u8; 32]>,
}

/// A digest's bytes are random already.
fn hash(key: &[u8]) -> u64 {
    key.first_chunk().map_or(0, |first| u64::from_le_bytes(*first))
}

impl Objects {
    /// The number of an object.
    pub fn find(&self, digest: &Digest) -> Option<Id> {
        let (key, tail) = digest.raw().split_at(32);
        let same = |id: &Id| {
            let entry = &self.entries[*id as usize];
            entry.key == key
                && entry.sha512 != tail.is_empty()
                && (tail.is_empty() || self.tails.get(id).is_some_and(|own| own == tail))
        };
        self.table.find(hash(key), same).copied()
    }

    /// The number of an object, which is made known if it is not.
    pub fn intern(&mut self, digest: &Digest) -> Id {
        if let Some(id) = self.find(digest) {
            return id;
        }
        let (head, tail) = digest.raw().split_at(32);
        let mut key = [0; 32];
        key.copy_from_slice(head);
        let entry = Entry {
            key,
            size: 0,
            used: 0,
            since: 0,
            references: 0,
            class: 0,
            present: false,
            dirty: false,
            pinned: false,
            sha512: !tail.is_empty(),
            live: true,
        };
        let id = match self.free.pop() {
            Some(id) => {
                self.entries[id as usize] = entry;
                id
            }
            None => {
                self.entries.push(entry);
                (self.entries.len() - 1) as Id
            }
        };
        if let Ok(tail) = tail.try_into() {
            self.tails.insert(id, tail);
        }
        let entries = &self.entries;
        self.table.insert_unique(hash(head), id, |id| hash(&entries[*id as usize].key));
        id
    }

    /// Forgets an object that nothing holds: no file, no manifest.
    pub fn forget_if_unheld(&mut self, id: Id) {
        let entry = &mut self.entries[id as usize];
        if entry.present || entry.references > 0 || !entry.live {
            return;
        }
        entry.live = false;
        if let Ok(found) = self.table.find_entry(hash(&entry.key), |other| *other == id) {
            found.remove();
        }
        self.tails.remove(&id);
        self.free.push(id);
    }

    /// An object by its number.
    pub fn get(&self, id: Id) -> &Entry {
        &self.entries[id as usize]
    }

    /// An object by its number, to be changed.
    pub fn get_mut(&mut self, id: Id) -> &mut Entry {
        &mut self.entries[id as usize]
    }

    /// An object's digest.
    pub fn digest(&self, id: Id) -> Digest {
        let entry = &self.entries[id as usize];
        let digest = match self.tails.get(&id) {
            Some(tail) => Digest::from_raw(Algorithm::Sha512, &[entry.key, *tail].concat()),
            None => Digest::from_raw(Algorithm::Sha256, &entry.key),
        };
        // Both have their algorithm's length.
        digest.unwrap_or_else(|| Digest::of(Algorithm::Sha256, b""))
    }

    /// Tells an object apart for ever.
    pub fn name(&self, id: Id) -> u64 {
        hash(&self.entries[id as usize].key)
    }

    /// All numbers from `from` on that name an object, at most `count` of them tried; and where to go on.
    pub fn walk(&self, from: Id, count: usize) -> (impl Iterator<Item = (Id, &Entry)>, Option<Id>) {
        let end = (from as usize).saturating_add(count).min(self.entries.len());
        let next = (end < self.entries.len()).then_some(end as Id);
        let start = (from as usize).min(end);
        let found = self.entries[start..end].iter().enumerate().filter(|(_, entry)| entry.live);
        (found.map(move |(at, entry)| ((start + at) as Id, entry)), next)
    }

    /// Bytes of memory that these structures take.
    pub fn memory(&self) -> usize {
        self.entries.capacity() * size_of::<Entry>()
            + self.table.allocation_size()
            + self.free.capacity() * size_of::<Id>()
            + self.tails.capacity() * (32 + size_of::<Id>() + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_small() {
        assert_eq!(size_of::<Entry>(), 64);
    }

    #[test]
    fn digests_of_both_algorithms_come_back() {
        let mut objects = Objects::default();
        let digests: Vec<Digest> = (0..200u8).flat_map(|n| Algorithm::ALL.map(|algorithm| Digest::of(algorithm, &[n]))).collect();
        let ids: Vec<Id> = digests.iter().map(|digest| objects.intern(digest)).collect();
        for (digest, id) in digests.iter().zip(&ids) {
            assert_eq!((objects.find(digest), objects.digest(*id)), (Some(*id), *digest));
        }
        objects.get_mut(ids[3]).references = 1;
        ids.iter().for_each(|id| objects.forget_if_unheld(*id));
        let left: Vec<_> = digests.iter().filter(|digest| objects.find(digest).is_some()).collect();
        assert_eq!(left, [&digests[3]]);
        // A number is used again, and a second release of it does no harm.
        objects.forget_if_unheld(ids[0]);
        let again = objects.intern(&digests[10]);
        assert!(ids.contains(&again) && again != ids[3]);
        assert_eq!(objects.digest(again), digests[10]);
    }
}
