//! What the file system is still to give back for files that were evicted for the sake of its free space.
//!
//! Mostly nothing: the space is free when the last name is gone. But some file systems free it later (ZFS, XFS), and some
//! never, while a snapshot or another process holds it. Whoever waits for room then must neither take that for a reason to
//! evict more, and more, nor wait for ever. Pure; used by [`super::room`].

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// How long space counts as being on its way.
const PATIENCE: Duration = Duration::from_secs(60);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Owed(Mutex<Option<Debt>>);

#[derive(Clone, Copy, Debug)]
struct Debt {
    bytes: u64,
    /// Free bytes, when last looked at.
    free: u64,
    since: Instant,
}

impl Owed {
    /// A file of `size` bytes was unlinked; what was free before and after.
    pub fn unlinked(&self, size: u64, before: u64, after: u64, now: Instant) {
        // Others write meanwhile: if most of it has come, all of it counts as come.
        if after.saturating_sub(before) < size / 2 {
            let bytes = self.now(after, now) + size;
            self.set(Some(Debt { bytes, free: after, since: now }));
        }
    }

    /// Bytes that are still to come, where `free` are free now.
    pub fn now(&self, free: u64, now: Instant) -> u64 {
        let debt = *self.0.lock();
        let debt = debt.filter(|debt| now.duration_since(debt.since) < PATIENCE).and_then(|debt| {
            let bytes = debt.bytes.saturating_sub(free.saturating_sub(debt.free));
            (bytes > 0).then_some(Debt { bytes, free, ..debt })
        });
        self.set(debt);
        debt.map_or(0, |debt| debt.bytes)
    }

    fn set(&self, debt: Option<Debt>) {
        *self.0.lock() = debt;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_come_is_owed_until_it_does_or_for_a_minute() {
        let (owed, start) = (Owed::default(), Instant::now());
        owed.unlinked(1000, 50, 1050, start);
        assert_eq!(owed.now(1050, start), 0, "it came at once");
        owed.unlinked(1000, 50, 500, start);
        owed.unlinked(1000, 500, 500, start);
        assert_eq!(owed.now(500, start), 2000);
        assert_eq!(owed.now(200, start), 2000, "others write");
        assert_eq!(owed.now(1700, start), 500);
        assert_eq!(owed.now(2500, start), 0);
        owed.unlinked(1000, 0, 0, start);
        assert_eq!(owed.now(0, start + PATIENCE), 0);
        assert_eq!(owed.now(0, start), 0, "forgotten");
    }
}
