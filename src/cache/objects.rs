//! The objects the index knows, 64 bytes each: found by digest, named by a small number.
//!
//! Nothing here is ever moved or hashed again as a whole: entries lie in segments, and the table is 256 small ones, by
//! the digest's first byte, each of which grows by itself. So no insertion among 10^6 objects makes the pulls wait for
//! a copy of them all.
//!
//! A SHA-256 digest is kept as its 32 bytes; of the rare SHA-512 one the first half is the key and the second lies in
//! a map of its own. An entry lives as long as its file, or as long as a manifest that is here refers to it. Pure;
//! used by [`super::index`] under its lock.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};

use hashbrown::HashTable;

use super::evict::Id;
use super::segments::Segments;
use crate::oci::{Algorithm, Digest};

/// Tables; also the steps in which all objects can be gone through in an order that a restart does not change.
pub const SHARDS: usize = 256;

/// What is known of one object. One line of the CPU's cache.
#[derive(Clone, Debug, Default)]
#[repr(align(64))]
pub struct Entry {
    key: [u8; 32],
    /// Bytes of its file; where there is none, what a manifest says.
    pub size: u64,
    /// In seconds, by the index's clock: the last use.
    pub used: u32,
    /// The same: when it came.
    pub since: u32,
    /// Manifests that refer to it.
    pub references: u32,
    /// Its file's modification time, as [`super::store::stamp`] has it, when the mirror last saw or set it.
    pub stamp: u32,
    /// Which quota it counts for.
    pub class: u8,
    /// It has a file under `blobs/`.
    pub present: bool,
    /// It was used since recency was last written down.
    pub dirty: bool,
    /// A pin protects it, or somebody holds it.
    pub pinned: bool,
    /// The catalog has it as a manifest.
    pub manifest: bool,
    sha512: bool,
    live: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Objects {
    entries: Segments<Entry>,
    /// Numbers that were given out, free ones included.
    len: Id,
    free: Vec<Id>,
    tables: Box<[HashTable<Id>]>,
    tails: HashMap<Id, [u8; 32]>,
    keys: Keys,
}

/// What makes places in the tables of a digest. Its bytes are random already, unless a manifest made them up: whoever
/// does not know these numbers cannot aim at one place. Two multiplications, where a hash of any bytes takes a tenth
/// of what a hit costs here.
#[derive(Debug)]
struct Keys([u64; 4]);

impl Default for Keys {
    fn default() -> Self {
        let random = RandomState::new();
        Self(std::array::from_fn(|at| random.hash_one(at)))
    }
}

impl Keys {
    fn hash(&self, key: &[u8; 32]) -> u64 {
        let mut words = [0; 4];
        for ((word, bytes), own) in words.iter_mut().zip(key.as_chunks::<8>().0).zip(self.0) {
            *word = u64::from_le_bytes(*bytes) ^ own;
        }
        let folded = |a: u64, b: u64| {
            let product = u128::from(a) * u128::from(b);
            (product >> 64) as u64 ^ product as u64
        };
        folded(words[0], words[1]) ^ folded(words[2], words[3]).rotate_left(29)
    }
}

impl Default for Objects {
    fn default() -> Self {
        let tables = (0..SHARDS).map(|_| HashTable::new()).collect();
        Self { entries: Segments::default(), len: 0, free: Vec::new(), tables, tails: HashMap::new(), keys: Keys::default() }
    }
}

fn shard(key: &[u8; 32]) -> usize {
    usize::from(key[0])
}

/// What an object is found by, and what else there is of its digest.
fn split(digest: &Digest) -> (&[u8; 32], &[u8]) {
    // No digest is shorter.
    digest.raw().split_first_chunk().unwrap_or((&[0; 32], &[]))
}

impl Objects {
    /// The number of an object.
    pub fn find(&self, digest: &Digest) -> Option<Id> {
        let (key, tail) = split(digest);
        let same = |id: &Id| {
            let entry = &self.entries[*id];
            entry.key == *key
                && entry.sha512 != tail.is_empty()
                && (tail.is_empty() || self.tails.get(id).is_some_and(|own| own == tail))
        };
        self.tables[shard(key)].find(self.keys.hash(key), same).copied()
    }

    /// The number of an object, which is made known if it is not.
    pub fn intern(&mut self, digest: &Digest) -> Id {
        if let Some(id) = self.find(digest) {
            return id;
        }
        let (key, tail) = split(digest);
        let entry = Entry { key: *key, sha512: !tail.is_empty(), live: true, ..Entry::default() };
        let id = self.free.pop().unwrap_or_else(|| {
            self.len += 1;
            self.len - 1
        });
        self.entries.grow(id);
        self.entries[id] = entry;
        if let Ok(tail) = tail.try_into() {
            self.tails.insert(id, tail);
        }
        let (entries, keys) = (&self.entries, &self.keys);
        self.tables[shard(key)].insert_unique(keys.hash(key), id, |id| keys.hash(&entries[*id].key));
        id
    }

    /// Forgets an object that nothing holds: no file, no manifest.
    pub fn forget_if_unheld(&mut self, id: Id) {
        let entry = &mut self.entries[id];
        if entry.present || entry.references > 0 || !entry.live {
            return;
        }
        entry.live = false;
        if let Ok(found) = self.tables[shard(&entry.key)].find_entry(self.keys.hash(&entry.key), |other| *other == id) {
            found.remove();
        }
        self.tails.remove(&id);
        self.free.push(id);
    }

    /// An object by its number.
    pub fn get(&self, id: Id) -> &Entry {
        &self.entries[id]
    }

    /// An object by its number, to be changed.
    pub fn get_mut(&mut self, id: Id) -> &mut Entry {
        &mut self.entries[id]
    }

    /// An object's digest.
    pub fn digest(&self, id: Id) -> Digest {
        let entry = &self.entries[id];
        let digest = match self.tails.get(&id) {
            Some(tail) => Digest::from_raw(Algorithm::Sha512, &[entry.key, *tail].concat()),
            None => Digest::from_raw(Algorithm::Sha256, &entry.key),
        };
        // Both have their algorithm's length.
        digest.unwrap_or_else(|| Digest::of(Algorithm::Sha256, b""))
    }

    /// A name that tells the object apart for ever, unlike its number.
    pub fn name(&self, id: Id) -> u64 {
        self.entries[id].key.first_chunk().map_or(0, |first| u64::from_le_bytes(*first))
    }

    /// All numbers from `from` on that name an object, at most `count` of them tried; and where to go on.
    pub fn walk(&self, from: Id, count: Id) -> (impl Iterator<Item = (Id, &Entry)>, Option<Id>) {
        let end = from.saturating_add(count).min(self.len);
        let next = (end < self.len).then_some(end);
        let found = (from.min(end)..end).map(|id| (id, &self.entries[id])).filter(|(_, entry)| entry.live);
        (found, next)
    }

    /// The objects of one of [`SHARDS`] shares: about a 256th of all.
    pub fn shard(&self, shard: usize) -> impl Iterator<Item = (Id, &Entry)> {
        self.tables.get(shard).into_iter().flat_map(HashTable::iter).map(|id| (*id, &self.entries[*id]))
    }

    /// Bytes of memory that these structures take.
    pub fn memory(&self) -> usize {
        self.entries.memory()
            + self.tables.iter().map(|table| table.allocation_size() + size_of_val(table)).sum::<usize>()
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
