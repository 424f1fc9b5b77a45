//! S3-FIFO (Yang et al., SOSP '23): a small queue in which one-hit wonders leave soon, a main queue, and the names of
//! what left the small one. 25 bytes an object and 16 a remembered name, O(1) amortised.
//!
//! What a use changes is one byte an object, in an array of its own that fits into the CPU's cache.
//!
//! The paper counts objects; a cache of files counts bytes, so the small queue's share is one of bytes.

use std::collections::{HashSet, VecDeque};

use super::chain::{Chain, Links};
use super::{Id, Policy};
use crate::cache::segments::Segments;

/// The small queue's share of all bytes.
const SMALL: f64 = 0.1;

/// Uses that count.
const MAX_USES: u8 = 3;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Queue {
    #[default]
    None,
    Small,
    Main,
}

#[derive(Clone, Copy, Debug, Default)]
struct Object {
    name: u64,
    size: u64,
}

/// Where an object is, and how often it was used since it got there.
#[derive(Clone, Copy, Debug, Default)]
struct Mark {
    queue: Queue,
    uses: u8,
}

/// The names of what was evicted, as many tables as make the growth of one of them a small matter.
#[derive(Debug, Default)]
struct Ghosts {
    order: VecDeque<u64>,
    names: [HashSet<u64>; 32],
}

impl Ghosts {
    fn table(&mut self, name: u64) -> &mut HashSet<u64> {
        &mut self.names[(name % 32) as usize]
    }

    fn remember(&mut self, name: u64, most: usize) {
        if self.table(name).insert(name) {
            self.order.push_back(name);
        }
        while self.order.len() > most {
            if let Some(name) = self.order.pop_front() {
                self.table(name).remove(&name);
            }
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct S3Fifo {
    links: Links,
    objects: Segments<Object>,
    marks: Segments<Mark>,
    small: Chain,
    main: Chain,
    small_bytes: u64,
    main_bytes: u64,
    main_len: usize,
    ghosts: Ghosts,
}

impl S3Fifo {
    fn enqueue(&mut self, id: Id, queue: Queue) {
        self.marks[id] = Mark { queue, uses: 0 };
        let size = self.objects[id].size;
        match queue {
            Queue::None => {}
            Queue::Small => {
                self.small_bytes += size;
                self.small.push(&mut self.links, id);
            }
            Queue::Main => {
                self.main_bytes += size;
                self.main_len += 1;
                self.main.push(&mut self.links, id);
            }
        }
    }

    fn dequeue(&mut self, id: Id) {
        let size = self.objects[id].size;
        match std::mem::take(&mut self.marks[id]).queue {
            Queue::None => {}
            Queue::Small => {
                self.small_bytes -= size;
                self.small.remove(&mut self.links, id);
            }
            Queue::Main => {
                self.main_bytes -= size;
                self.main_len -= 1;
                self.main.remove(&mut self.links, id);
            }
        }
    }

    fn know(&mut self, id: Id, name: u64, size: u64) {
        self.objects.grow(id);
        self.marks.grow(id);
        self.objects[id] = Object { name, size };
    }
}

impl Policy for S3Fifo {
    fn insert(&mut self, id: Id, name: u64, size: u64) {
        self.know(id, name, size);
        // A name that comes back was evicted too soon.
        let queue = if self.ghosts.table(name).contains(&name) { Queue::Main } else { Queue::Small };
        self.enqueue(id, queue);
    }

    fn touch(&mut self, id: Id) {
        if let Some(mark) = self.marks.get_mut(id) {
            mark.uses = (mark.uses + 1).min(MAX_USES);
        }
    }

    fn remove(&mut self, id: Id) {
        if self.marks.get(id).is_some() {
            self.dequeue(id);
        }
    }

    fn evict(&mut self) -> Option<Id> {
        loop {
            let all = self.small_bytes + self.main_bytes;
            let from_small =
                self.small.oldest().filter(|_| self.main.oldest().is_none() || self.small_bytes as f64 >= SMALL * all as f64);
            if let Some(id) = from_small {
                let uses = self.marks[id].uses;
                self.dequeue(id);
                if uses > 1 {
                    self.enqueue(id, Queue::Main);
                    continue;
                }
                self.ghosts.remember(self.objects[id].name, self.main_len.max(64));
                return Some(id);
            }
            let id = self.main.oldest()?;
            let uses = self.marks[id].uses;
            self.dequeue(id);
            if uses == 0 {
                return Some(id);
            }
            self.enqueue(id, Queue::Main);
            self.marks[id].uses = uses - 1;
        }
    }

    fn candidate(&self) -> Option<Id> {
        self.small.oldest().or(self.main.oldest())
    }

    fn order(&self) -> Box<dyn Iterator<Item = Id> + '_> {
        let walk = || self.small.iter(&self.links).chain(self.main.iter(&self.links));
        let unused = walk().filter(|id| self.marks[*id].uses == 0);
        Box::new(unused.chain(walk().filter(|id| self.marks[*id].uses > 0)))
    }

    /// The uses, and 4 for the main queue.
    fn heat(&self, id: Id) -> u8 {
        self.marks.get(id).map_or(0, |mark| mark.uses + if mark.queue == Queue::Main { 4 } else { 0 })
    }

    fn restore(&mut self, id: Id, name: u64, size: u64, heat: u8) {
        self.know(id, name, size);
        self.enqueue(id, if heat >= 4 { Queue::Main } else { Queue::Small });
        self.marks[id].uses = heat % 4;
    }
}
