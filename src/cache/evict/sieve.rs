//! SIEVE (Zhang et al., NSDI '24): a queue that a hand walks from old to new; what was used since it last came by
//! stays where it is. 9 bytes an object, O(1) amortised.

use super::chain::{Chain, Links};
use super::{Id, Policy};
use crate::cache::segments::Segments;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Mark {
    #[default]
    Unknown,
    Unused,
    Used,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Sieve {
    links: Links,
    chain: Chain,
    marks: Segments<Mark>,
    hand: Option<Id>,
}

impl Policy for Sieve {
    fn insert(&mut self, id: Id, _name: u64, _size: u64) {
        self.marks.grow(id);
        self.marks[id] = Mark::Unused;
        self.chain.push(&mut self.links, id);
    }

    fn touch(&mut self, id: Id) {
        if let Some(mark) = self.marks.get_mut(id).filter(|mark| **mark != Mark::Unknown) {
            *mark = Mark::Used;
        }
    }

    fn remove(&mut self, id: Id) {
        let Some(mark) = self.marks.get_mut(id) else { return };
        if std::mem::take(mark) != Mark::Unknown {
            if self.hand == Some(id) {
                self.hand = self.links.newer(id);
            }
            self.chain.remove(&mut self.links, id);
        }
    }

    fn evict(&mut self) -> Option<Id> {
        let mut at = self.hand.or(self.chain.oldest())?;
        while self.marks[at] == Mark::Used {
            self.marks[at] = Mark::Unused;
            at = self.links.newer(at).or(self.chain.oldest())?;
        }
        self.hand = self.links.newer(at);
        self.remove(at);
        Some(at)
    }

    fn candidate(&self) -> Option<Id> {
        self.hand.or(self.chain.oldest())
    }

    fn order(&self) -> Box<dyn Iterator<Item = Id> + '_> {
        let walk = || {
            let from_hand = std::iter::successors(self.hand, |id| self.links.newer(*id));
            from_hand.chain(self.chain.iter(&self.links).take_while(|id| Some(*id) != self.hand))
        };
        let unused = walk().filter(|id| self.marks[*id] != Mark::Used);
        Box::new(unused.chain(walk().filter(|id| self.marks[*id] == Mark::Used)))
    }

    fn heat(&self, id: Id) -> u8 {
        u8::from(self.marks.get(id) == Some(&Mark::Used))
    }

    fn restore(&mut self, id: Id, name: u64, size: u64, heat: u8) {
        self.insert(id, name, size);
        if heat > 0 {
            self.touch(id);
        }
    }
}
