//! S3-FIFO (Yang et al., SOSP '23): a small queue in which one-hit wonders leave soon, a main queue, and the names of
//! what left the small one. 32 bytes an object and 16 a remembered name, O(1) amortised.
//!
//! The paper counts objects; a cache of files counts bytes, so the small queue's share is one of bytes.

use std::collections::{HashSet, VecDeque};

use super::chain::{Chain, Links};
use super::{Id, Policy};

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
    queue: Queue,
    uses: u8,
}

/// See the module.
#[derive(Debug, Default)]
pub struct S3Fifo {
    links: Links,
    objects: Vec<Object>,
    small: Chain,
    main: Chain,
    small_bytes: u64,
    main_bytes: u64,
    main_len: usize,
    ghosts: VecDeque<u64>,
    ghost_names: HashSet<u64>,
}

/// Makes room for an element.
pub(super) fn grow<T: Clone + Default>(array: &mut Vec<T>, id: Id) {
    if array.len() <= id as usize {
        array.resize(id as usize + 1, T::default());
    }
}

impl S3Fifo {
    fn enqueue(&mut self, id: Id, queue: Queue) {
        let object = &mut self.objects[id as usize];
        object.queue = queue;
        object.uses = 0;
        match queue {
            Queue::None => {}
            Queue::Small => {
                self.small_bytes += object.size;
                self.small.push(&mut self.links, id);
            }
            Queue::Main => {
                self.main_bytes += object.size;
                self.main_len += 1;
                self.main.push(&mut self.links, id);
            }
        }
    }

    fn dequeue(&mut self, id: Id) {
        let object = &mut self.objects[id as usize];
        match std::mem::take(&mut object.queue) {
            Queue::None => {}
            Queue::Small => {
                self.small_bytes -= object.size;
                self.small.remove(&mut self.links, id);
            }
            Queue::Main => {
                self.main_bytes -= object.size;
                self.main_len -= 1;
                self.main.remove(&mut self.links, id);
            }
        }
    }

    fn remember(&mut self, name: u64) {
        if self.ghost_names.insert(name) {
            self.ghosts.push_back(name);
        }
        while self.ghosts.len() > self.main_len.max(64) {
            if let Some(name) = self.ghosts.pop_front() {
                self.ghost_names.remove(&name);
            }
        }
    }
}

impl Policy for S3Fifo {
    fn insert(&mut self, id: Id, name: u64, size: u64) {
        grow(&mut self.objects, id);
        self.objects[id as usize] = Object { name, size, ..Object::default() };
        // A name that comes back was evicted too soon.
        let queue = if self.ghost_names.contains(&name) { Queue::Main } else { Queue::Small };
        self.enqueue(id, queue);
    }

    fn touch(&mut self, id: Id) {
        if let Some(object) = self.objects.get_mut(id as usize) {
            object.uses = (object.uses + 1).min(MAX_USES);
        }
    }

    fn remove(&mut self, id: Id) {
        if (id as usize) < self.objects.len() {
            self.dequeue(id);
        }
    }

    fn evict(&mut self) -> Option<Id> {
        loop {
            let all = self.small_bytes + self.main_bytes;
            let from_small =
                self.small.oldest().filter(|_| self.main.oldest().is_none() || self.small_bytes as f64 >= SMALL * all as f64);
            if let Some(id) = from_small {
                let Object { uses, name, .. } = self.objects[id as usize];
                self.dequeue(id);
                if uses > 1 {
                    self.enqueue(id, Queue::Main);
                    continue;
                }
                self.remember(name);
                return Some(id);
            }
            let id = self.main.oldest()?;
            let uses = self.objects[id as usize].uses;
            self.dequeue(id);
            if uses == 0 {
                return Some(id);
            }
            self.enqueue(id, Queue::Main);
            self.objects[id as usize].uses = uses - 1;
        }
    }

    fn candidate(&self) -> Option<Id> {
        self.small.oldest().or(self.main.oldest())
    }

    fn order(&self) -> Vec<Id> {
        let all = self.small.iter(&self.links).chain(self.main.iter(&self.links));
        let (used, unused): (Vec<Id>, Vec<Id>) = all.partition(|id| self.objects[*id as usize].uses > 0);
        [unused, used].concat()
    }
}
