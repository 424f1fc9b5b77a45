//! A doubly linked list over dense numbers: two of them an element, in one array that several lists can share.

use super::Id;
use crate::cache::segments::Segments;

const NONE: Id = Id::MAX;

#[derive(Clone, Copy, Debug, Default)]
struct Link {
    older: Id,
    newer: Id,
}

/// The array of links. An element is in at most one list at a time.
#[derive(Debug, Default)]
pub struct Links(Segments<Link>);

/// The two ends of one list.
#[derive(Debug)]
pub struct Chain {
    oldest: Id,
    newest: Id,
}

impl Default for Chain {
    fn default() -> Self {
        Self { oldest: NONE, newest: NONE }
    }
}

fn some(id: Id) -> Option<Id> {
    (id != NONE).then_some(id)
}

impl Links {
    /// The element after `id`, towards the newest.
    pub fn newer(&self, id: Id) -> Option<Id> {
        some(self.0[id].newer)
    }
}

impl Chain {
    /// The oldest element.
    pub fn oldest(&self) -> Option<Id> {
        some(self.oldest)
    }

    /// The newest element.
    pub fn newest(&self) -> Option<Id> {
        some(self.newest)
    }

    /// Adds an element that is in no list.
    pub fn push(&mut self, links: &mut Links, id: Id) {
        links.0.grow(id);
        links.0[id] = Link { older: self.newest, newer: NONE };
        match some(self.newest) {
            Some(newest) => links.0[newest].newer = id,
            None => self.oldest = id,
        }
        self.newest = id;
    }

    /// Takes out an element of this list.
    pub fn remove(&mut self, links: &mut Links, id: Id) {
        let Link { older, newer } = links.0[id];
        match some(older) {
            Some(older) => links.0[older].newer = newer,
            None => self.oldest = newer,
        }
        match some(newer) {
            Some(newer) => links.0[newer].older = older,
            None => self.newest = older,
        }
    }

    /// The elements from the oldest on.
    pub fn iter<'a>(&self, links: &'a Links) -> impl Iterator<Item = Id> + 'a {
        std::iter::successors(self.oldest(), |id| links.newer(*id))
    }
}
