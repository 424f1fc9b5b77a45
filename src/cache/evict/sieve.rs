//! SIEVE (Zhang et al., NSDI '24): a queue that a hand walks from old to new; what was used since it last came by
//! stays where it is. 9 bytes an object, O(1) amortised.

use super::chain::{Chain, Links};
use super::{Id, Policy};

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
    marks: Vec<Mark>,
    hand: Option<Id>,
}

impl Policy for Sieve {
    fn insert(&mut self, id: Id, _name: u64, _size: u64) {
        super::s3fifo::grow(&mut self.marks, id);
        self.marks[id as usize] = Mark::Unused;
        self.chain.push(&mut self.links, id);
    }

    fn touch(&mut self, id: Id) {
        if let Some(mark) = self.marks.get_mut(id as usize).filter(|mark| **mark != Mark::Unknown) {
            *mark = Mark::Used;
        }
    }

    fn remove(&mut self, id: Id) {
        let Some(mark) = self.marks.get_mut(id as usize) else { return };
        if std::mem::take(mark) != Mark::Unknown {
            if self.hand == Some(id) {
                self.hand = self.links.newer(id);
            }
            self.chain.remove(&mut self.links, id);
        }
    }

    fn evict(&mut self) -> Option<Id> {
        let mut at = self.hand.or(self.chain.oldest())?;
        while self.marks[at as usize] == Mark::Used {
            self.marks[at as usize] = Mark::Unused;
            at = self.links.newer(at).or(self.chain.oldest())?;
        }
        self.hand = self.links.newer(at);
        self.remove(at);
        Some(at)
    }

    fn candidate(&self) -> Option<Id> {
        self.hand.or(self.chain.oldest())
    }

    fn order(&self) -> Vec<Id> {
        let from_hand = std::iter::successors(self.hand, |id| self.links.newer(*id));
        let before = self.chain.iter(&self.links).take_while(|id| Some(*id) != self.hand);
        let all: Vec<Id> = from_hand.chain(before).collect();
        let (used, unused): (Vec<Id>, Vec<Id>) = all.into_iter().partition(|id| self.marks[*id as usize] == Mark::Used);
        [unused, used].concat()
    }
}
