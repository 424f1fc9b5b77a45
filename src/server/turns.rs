//! Serving threads that share a core take turns at it.
//!
//! Where others leave fewer cores than there are threads, two of these have to share one. Between threads that always have
//! something to do the kernel changes at its tick, on many machines every 4 ms, and that is what clients of the other one
//! wait, for answers that take 10 us. So a thread that comes to the end of its events makes way for one that seems to be
//! kept from its own. Called by the threads of [`super::workers`] around each wait for events; never blocks.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

/// In microseconds. A thread whose turn has lasted this long has probably lost its core; this is also how often a thread looks
/// for one that has. About ten answers from memory.
const PATIENCE: u64 = 100;

/// At most this many other threads are looked at in one go: on a machine with many cores, looking at all would cost more than
/// it gains.
const LOOKS: usize = 8;

/// Which threads have a turn, and since when: from the return of one wait for events to the next.
#[derive(Debug)]
pub(super) struct Turns {
    start: Instant,
    threads: Box<[Turn]>,
}

/// On a line of its own in the CPU's caches: its thread writes it twice a turn, others hardly ever look.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Turn {
    /// In microseconds from the start; 0 while the thread waits for events.
    began: AtomicU64,
    /// When it last looked at others.
    looked: AtomicU64,
    /// How many it has looked at.
    looks: AtomicUsize,
}

impl Turns {
    /// Nobody's turn, of so many threads.
    pub fn new(threads: usize) -> Self {
        Self { start: Instant::now(), threads: (0..threads).map(|_| Turn::default()).collect() }
    }

    /// A thread has got events.
    pub fn begin(&self, number: usize) {
        self.threads[number].began.store(self.now(), Ordering::Relaxed);
    }

    /// A thread has done what there was, and is about to wait for more.
    pub fn end(&self, number: usize) {
        if self.is_wanted(number, self.now()) {
            // Next to nothing if nobody waits for this very core. The turn is not over before: so the others make way for
            // this thread in the same manner.
            thread::yield_now();
        }
        self.threads[number].began.store(0, Ordering::Relaxed);
    }

    /// Microseconds from the start; never 0.
    fn now(&self) -> u64 {
        self.start.elapsed().as_micros() as u64 + 1
    }

    /// Whether another thread seems to be kept from its turn.
    fn is_wanted(&self, number: usize, now: u64) -> bool {
        let (own, others) = (&self.threads[number], self.threads.len() - 1);
        if others == 0 || now.saturating_sub(own.looked.load(Ordering::Relaxed)) < PATIENCE {
            return false;
        }
        own.looked.store(now, Ordering::Relaxed);
        let looks = others.min(LOOKS);
        let first = own.looks.fetch_add(looks, Ordering::Relaxed);
        (first..first + looks).any(|look| {
            let other = &self.threads[(number + 1 + look % others) % self.threads.len()];
            match other.began.load(Ordering::Relaxed) {
                0 => false,
                began => now.saturating_sub(began) >= PATIENCE,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn began(turns: &Turns, number: usize, at: u64) {
        turns.threads[number].began.store(at, Ordering::Relaxed);
    }

    #[test]
    fn who_is_kept_from_its_turn_is_made_way_for() {
        let turns = Turns::new(3);
        began(&turns, 0, 1);
        assert!(!turns.is_wanted(0, 10 * PATIENCE), "the others wait for events");
        began(&turns, 2, 11 * PATIENCE);
        assert!(!turns.is_wanted(0, 11 * PATIENCE + 1), "that one has just begun");
        assert!(!turns.is_wanted(0, 12 * PATIENCE), "it has looked a moment ago");
        assert!(turns.is_wanted(0, 12 * PATIENCE + 1));
        assert!(turns.is_wanted(2, 12 * PATIENCE + 1), "and the other way round");
        began(&turns, 2, 0);
        assert!(!turns.is_wanted(0, 14 * PATIENCE), "its turn is over");
        assert!(!Turns::new(1).is_wanted(0, PATIENCE), "there is nobody else");
    }

    #[test]
    fn of_many_each_is_looked_at_in_a_few_goes() {
        for kept in (0..40).filter(|kept| *kept != 7) {
            let turns = Turns::new(40);
            began(&turns, kept, 1);
            assert!((1..=5).any(|go| turns.is_wanted(7, go * 2 * PATIENCE)), "{kept}");
        }
    }

    #[test]
    fn a_turn_begins_and_ends() {
        let turns = Turns::new(2);
        turns.begin(1);
        assert!(turns.threads[1].began.load(Ordering::Relaxed) > 0);
        turns.end(1);
        assert_eq!(turns.threads[1].began.load(Ordering::Relaxed), 0);
    }
}
