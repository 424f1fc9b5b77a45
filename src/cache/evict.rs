//! Which object goes first: pure bookkeeping, no I/O, no clock.
//!
//! Called by [`super::index`] under its lock, so every operation is O(log n) and allocates nothing beyond its entry.

use std::collections::{BTreeMap, HashMap};

use crate::oci::Digest;

/// Least recently used. Knows of each object its size and its place in the order of use.
#[derive(Debug, Default)]
pub struct Lru {
    objects: HashMap<Digest, Object>,
    /// Turn of last use → object. Turns are unique.
    order: BTreeMap<u64, Digest>,
    turn: u64,
    bytes: u64,
}

#[derive(Clone, Copy, Debug)]
struct Object {
    size: u64,
    turn: u64,
}

impl Lru {
    /// Takes in an object as the one used last. An object that is known already has its size corrected.
    pub fn insert(&mut self, digest: Digest, size: u64) {
        self.remove(&digest);
        self.turn += 1;
        self.objects.insert(digest, Object { size, turn: self.turn });
        self.order.insert(self.turn, digest);
        self.bytes += size;
    }

    /// Notes a use. `false` if the object is not known.
    pub fn touch(&mut self, digest: &Digest) -> bool {
        let Some(object) = self.objects.get_mut(digest) else { return false };
        // The one used last stays so without work: a hot object's usual case.
        if object.turn != self.turn {
            self.turn += 1;
            self.order.remove(&object.turn);
            object.turn = self.turn;
            self.order.insert(self.turn, *digest);
        }
        true
    }

    /// Forgets an object; its size in bytes.
    pub fn remove(&mut self, digest: &Digest) -> Option<u64> {
        let object = self.objects.remove(digest)?;
        self.order.remove(&object.turn);
        self.bytes -= object.size;
        Some(object.size)
    }

    /// Forgets the object that was not used for longest.
    pub fn pop(&mut self) -> Option<(Digest, u64)> {
        let (_, digest) = self.order.pop_first()?;
        let object = self.objects.remove(&digest)?;
        self.bytes -= object.size;
        Some((digest, object.size))
    }

    /// Whether the object is known.
    pub fn contains(&self, digest: &Digest) -> bool {
        self.objects.contains_key(digest)
    }

    /// The size of an object.
    pub fn size(&self, digest: &Digest) -> Option<u64> {
        self.objects.get(digest).map(|object| object.size)
    }

    /// Number of objects.
    pub fn len(&self) -> usize {
        self.objects.len()
    }

    /// Whether no object is known.
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// Bytes of all objects.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;
    use proptest::prelude::*;

    fn digest(n: u8) -> Digest {
        Digest::of(Algorithm::Sha256, &[n])
    }

    #[derive(Clone, Debug)]
    enum Step {
        Insert(u8, u64),
        Touch(u8),
        Remove(u8),
        Pop,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..8u8, 0..100u64).prop_map(|(n, size)| Step::Insert(n, size)),
            (0..8u8).prop_map(Step::Touch),
            (0..8u8).prop_map(Step::Remove),
            Just(Step::Pop),
        ]
    }

    proptest! {
        /// The same as a list in which the used element moves to the end.
        #[test]
        fn it_is_a_list_in_order_of_use(steps in prop::collection::vec(step(), 0..200)) {
            let mut lru = Lru::default();
            let mut list: Vec<(u8, u64)> = Vec::new();
            for step in steps {
                match step {
                    Step::Insert(n, size) => {
                        lru.insert(digest(n), size);
                        list.retain(|(other, _)| *other != n);
                        list.push((n, size));
                    }
                    Step::Touch(n) => {
                        let at = list.iter().position(|(other, _)| *other == n);
                        prop_assert_eq!(lru.touch(&digest(n)), at.is_some());
                        if let Some(at) = at {
                            let object = list.remove(at);
                            list.push(object);
                        }
                    }
                    Step::Remove(n) => {
                        let at = list.iter().position(|(other, _)| *other == n);
                        prop_assert_eq!(lru.remove(&digest(n)), at.map(|at| list.remove(at).1));
                    }
                    Step::Pop => {
                        let first = (!list.is_empty()).then(|| list.remove(0));
                        prop_assert_eq!(lru.pop(), first.map(|(n, size)| (digest(n), size)));
                    }
                }
                prop_assert_eq!(lru.len(), list.len());
                prop_assert_eq!(lru.bytes(), list.iter().map(|(_, size)| size).sum::<u64>());
            }
        }
    }
}
