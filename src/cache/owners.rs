//! Who refers to what, both by small numbers: of each object, the manifests that name it, and which of them as their own; of
//! each manifest, the repositories that have it.
//!
//! 12 bytes a reference and 4 an object. A reference is added and removed in O(1), whatever number of others there are:
//! a base layer may be named by 10^5 manifests. Pure; used by [`super::catalog`] under its lock.

use super::evict::Id;
use super::segments::Segments;

const NONE: Id = Id::MAX;

/// Set in an owner of what is its own. Numbers do not get there: so many objects would take 128 GiB of memory.
const OWN: Id = 1 << 31;

/// The first reference to an object.
#[derive(Clone, Copy, Debug)]
struct Head(Id);

impl Default for Head {
    fn default() -> Self {
        Self(NONE)
    }
}

/// One reference, in the list of all to the same object.
#[derive(Clone, Copy, Debug, Default)]
struct Link {
    owner: Id,
    before: Id,
    after: Id,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Owners {
    heads: Segments<Head>,
    links: Segments<Link>,
    len: Id,
    free: Vec<Id>,
}

impl Owners {
    /// Notes that `owner` refers to `id`. The number returned takes it back.
    pub fn add(&mut self, id: Id, owner: Id) -> Id {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.len += 1;
            self.len - 1
        });
        self.heads.grow(id);
        self.links.grow(slot);
        let after = std::mem::replace(&mut self.heads[id], Head(slot)).0;
        self.links[slot] = Link { owner, before: NONE, after };
        if after != NONE {
            self.links[after].before = slot;
        }
        slot
    }

    /// As [`Owners::add`], of what is `owner`'s own.
    pub fn add_own(&mut self, id: Id, owner: Id) -> Id {
        debug_assert_eq!(owner & OWN, 0);
        self.add(id, owner | OWN)
    }

    /// Takes back what [`Owners::add`] noted for `id`.
    pub fn remove(&mut self, id: Id, slot: Id) {
        let Link { before, after, .. } = self.links[slot];
        match before {
            NONE => self.heads[id] = Head(after),
            before => self.links[before].after = after,
        }
        if after != NONE {
            self.links[after].before = before;
        }
        self.free.push(slot);
    }

    /// Who refers to an object.
    pub fn of(&self, id: Id) -> impl Iterator<Item = Id> + '_ {
        self.links(id).map(|owner| owner & !OWN)
    }

    /// Whose own it is.
    pub fn whose(&self, id: Id) -> impl Iterator<Item = Id> + '_ {
        self.links(id).filter(|owner| owner & OWN != 0).map(|owner| owner & !OWN)
    }

    fn links(&self, id: Id) -> impl Iterator<Item = Id> + '_ {
        let first = self.heads.get(id).map_or(NONE, |head| head.0);
        let slots = std::iter::successors((first != NONE).then_some(first), |slot| {
            let after = self.links[*slot].after;
            (after != NONE).then_some(after)
        });
        slots.map(|slot| self.links[slot].owner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Sorted, to be compared.
    trait Sorted: Iterator<Item = Id> + Sized {
        fn sorted(self) -> Vec<Id> {
            let mut all: Vec<Id> = self.collect();
            all.sort_unstable();
            all
        }
    }

    impl<I: Iterator<Item = Id>> Sorted for I {}

    proptest! {
        /// Whatever is added and removed, in whatever order, what is left is found and nothing else.
        #[test]
        fn as_a_list_of_pairs(steps in prop::collection::vec((0..6u32, 0..6u32, any::<bool>(), any::<bool>()), 0..200)) {
            let mut owners = Owners::default();
            let mut links: Vec<(Id, Id, bool, Id)> = Vec::new();
            for (id, owner, own, add) in steps {
                match links.iter().position(|link| link.0 == id) {
                    Some(at) if !add => {
                        let (id, .., slot) = links.remove(at);
                        owners.remove(id, slot);
                    }
                    _ if own => links.push((id, owner, own, owners.add_own(id, owner))),
                    _ => links.push((id, owner, own, owners.add(id, owner))),
                }
                for id in 0..8 {
                    let wanted = |own: bool| {
                        let links = links.iter().filter(|link| link.0 == id && (link.2 || !own));
                        links.map(|link| link.1).sorted()
                    };
                    prop_assert_eq!(owners.of(id).sorted(), wanted(false));
                    prop_assert_eq!(owners.whose(id).sorted(), wanted(true));
                }
            }
        }
    }
}
