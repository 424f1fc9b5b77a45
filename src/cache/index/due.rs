//! What is due to go: by the time that its quota grants, and for room that is asked for.
//!
//! A few at a time, since the lock is held. For the housekeeping, and for operators who ask what would go.

use super::{Files, Index, Victim};
use crate::cache::evict::Id;
use crate::cache::store::Space;

/// Some objects, added up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    /// How many they are.
    pub objects: u64,
    /// Their bytes together.
    pub bytes: u64,
}

impl Sum {
    /// One more, of `size` bytes.
    pub fn add(&mut self, size: u64) {
        self.objects += 1;
        self.bytes += size;
    }
}

/// For how long things were not used, as it is now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Idle {
    now: u32,
    start: u32,
    /// How far the wall clock is ahead of the index's.
    off: i64,
}

impl Idle {
    /// Of what was last used at that time, in seconds. By the index's clock, so that a jump of the wall clock expires nothing,
    /// neither at once nor later. What an earlier process wrote down may look old only because this one has begun under a
    /// clock that was ahead: if the wall clock says less by now, less counts.
    pub fn of(self, used: u32) -> u64 {
        let idle = i64::from(self.now.saturating_sub(used));
        let by_wall = if used < self.start { i64::from(self.now) + self.off - i64::from(used) } else { idle };
        u64::try_from(idle.min(by_wall)).unwrap_or(0)
    }
}

impl Index {
    fn idle(&self) -> Idle {
        Idle { now: self.now(), start: self.start(), off: self.clock.off() }
    }

    /// Chooses the objects among `count` numbers from `from` on that were not used for longer than their quota says,
    /// and where to go on. They are leaving now: [`Index::left`] must follow.
    pub fn expire(&self, from: Id, count: Id) -> (Vec<Victim>, Option<Id>) {
        let idle = self.idle();
        let mut state = self.lock();
        let (expired, next) = state.expired(idle, from, count);
        (expired.into_iter().map(|id| state.leave(id)).collect(), next)
    }

    /// Makes a manifest leave that was found by its number, unless it was used meanwhile, or stays; [`Index::left`] must follow.
    pub fn expel_manifest(&self, id: Id, used: u32) -> Option<Victim> {
        let mut state = self.lock();
        let entry = state.objects.get(id);
        (entry.present && entry.manifest && !entry.pinned && entry.used == used).then(|| state.leave(id))
    }

    /// Adds what [`Index::expire`] would choose to `sum`; where to go on.
    pub fn count_expired(&self, from: Id, count: Id, sum: &mut Sum) -> Option<Id> {
        let idle = self.idle();
        let state = self.lock();
        let (expired, next) = state.expired(idle, from, count);
        expired.iter().for_each(|id| sum.add(state.objects.get(*id).size));
        next
    }

    /// The objects that would go for the quotas and then for `bytes` more, in that order, once the leftovers have gone; at most
    /// `most`, since the lock is held. Then the bytes that would have to go besides.
    pub fn preview(&self, bytes: u64, space: Space, most: usize) -> (Files, u64) {
        let state = self.lock();
        let over = state.total().saturating_add(bytes).saturating_sub(self.limits.max_size);
        let short = bytes.saturating_add(self.limits.min_free).saturating_sub(space.free);
        let mut wanted = over.max(short).saturating_sub(state.spare);
        let mut orders: Vec<_> = state.classes.iter().map(|share| share.policy.order().peekable()).collect();
        let mut files = Vec::new();
        for (share, order) in state.classes.iter().zip(&mut orders) {
            let mut beyond = share.beyond(0);
            // What cannot be brought under its limit is left as it is.
            while beyond > 0 && share.can_free(beyond) && files.len() < most {
                let Some(id) = order.next() else { break };
                let size = state.objects.get(id).size;
                (beyond, wanted) = (beyond.saturating_sub(size), wanted.saturating_sub(size));
                files.push((state.objects.digest(id), size));
            }
        }
        while wanted > 0 && files.len() < most {
            // As when evicting: the class whose next candidate was unused for longest.
            let next = orders.iter_mut().filter_map(|order| {
                let used = state.objects.get(*order.peek()?).used;
                Some((used, order))
            });
            let next = next.min_by_key(|(used, _)| *used).and_then(|(_, order)| order.next());
            let Some(id) = next else { return (files, 0) };
            let size = state.objects.get(id).size;
            wanted = wanted.saturating_sub(size);
            files.push((state.objects.digest(id), size));
        }
        (files, wanted)
    }
}
