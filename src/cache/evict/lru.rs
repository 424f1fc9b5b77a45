//! Least recently used. 9 bytes an object, O(1).

use super::chain::{Chain, Links};
use super::{Id, Policy};
use crate::cache::segments::Segments;

/// See the module.
#[derive(Debug, Default)]
pub struct Lru {
    links: Links,
    chain: Chain,
    known: Segments<bool>,
}

impl Policy for Lru {
    fn insert(&mut self, id: Id, _name: u64, _size: u64) {
        self.known.grow(id);
        self.known[id] = true;
        self.chain.push(&mut self.links, id);
    }

    fn touch(&mut self, id: Id) {
        if self.known.get(id) == Some(&true) && self.chain.newest() != Some(id) {
            self.chain.remove(&mut self.links, id);
            self.chain.push(&mut self.links, id);
        }
    }

    fn remove(&mut self, id: Id) {
        if let Some(known) = self.known.get_mut(id)
            && std::mem::take(known)
        {
            self.chain.remove(&mut self.links, id);
        }
    }

    fn evict(&mut self) -> Option<Id> {
        let oldest = self.chain.oldest()?;
        self.remove(oldest);
        Some(oldest)
    }

    fn candidate(&self) -> Option<Id> {
        self.chain.oldest()
    }

    fn order(&self) -> Box<dyn Iterator<Item = Id> + '_> {
        Box::new(self.chain.iter(&self.links))
    }
}
