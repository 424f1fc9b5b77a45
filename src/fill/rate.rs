//! Whether one more connection would bring a blob sooner. Pure.
//!
//! Several connections are for upstreams that limit each of them, and for long ways. Where one brings more than a disk
//! takes, a second one only makes the parts wait for each other. Asked by [`super::parts`].

use std::time::Duration;

use tokio::time::Instant;

/// Bytes a second that are enough: what a good disk writes, and four times what a link of 1 Gbit/s brings.
const ENOUGH: f64 = 500e6;

/// What was enough is enough until it has become so many times slower: a machine that is busy for a moment, or an average
/// around the bound, makes no connections, and an answer that comes well is not cut for them.
const TOLERANCE: f64 = 4.0;

/// So much has come, or so long it has taken, before anything is said.
const SAMPLE: u64 = 4 << 20;
const LONGEST: Duration = Duration::from_millis(50);

/// How fast a blob comes in all.
#[derive(Debug)]
pub struct Rate {
    began: Instant,
    /// Bytes that were there before.
    before: u64,
    /// It was enough when last asked.
    enough: bool,
}

impl Rate {
    /// Begins now, with so many bytes in the file.
    pub fn new(before: u64) -> Self {
        Self { began: Instant::now(), before, enough: false }
    }

    /// Whether it can be told, with so many bytes in the file.
    fn is_known(&self, bytes: u64, now: Instant) -> bool {
        bytes - self.before.min(bytes) >= SAMPLE || now >= self.began + LONGEST
    }

    /// When to ask again even if no byte comes until then: a connection that came well and then stands still tells nobody.
    /// `None`: it is slow already. Always later than `now`.
    pub fn slow_at(&mut self, bytes: u64, now: Instant) -> Option<Instant> {
        if !self.is_known(bytes, now) {
            return Some(self.began + LONGEST);
        }
        let came = bytes - self.before.min(bytes);
        let enough_for = Duration::from_secs_f64(came as f64 * TOLERANCE / ENOUGH);
        self.is_enough(bytes, now).then(|| self.began + enough_for + Duration::from_millis(1))
    }

    /// Whether it is fast enough, or not known to be slow yet.
    pub fn is_enough(&mut self, bytes: u64, now: Instant) -> bool {
        if !self.is_known(bytes, now) {
            return true;
        }
        let (came, took) = (bytes - self.before.min(bytes), now - self.began);
        let bound = if self.enough { ENOUGH / TOLERANCE } else { ENOUGH };
        self.enough = came as f64 >= bound * took.as_secs_f64();
        self.enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_is_said_late() {
        let mut rate = Rate::new(10);
        let began = rate.began;
        let at = |milliseconds| began + Duration::from_millis(milliseconds);
        assert!(rate.is_enough(10, at(49)), "not known");
        assert!(!rate.is_enough(10, at(50)), "nothing has come");
        assert!(!rate.is_enough(10 + SAMPLE, at(9)), "466 MB/s");
        assert!(rate.is_enough(10 + SAMPLE, at(8)), "524 MB/s");
    }

    #[test]
    fn what_stands_still_is_slow_in_the_end() {
        let mut rate = Rate::new(0);
        let began = rate.began;
        let at = |milliseconds| began + Duration::from_millis(milliseconds);
        assert_eq!(rate.slow_at(0, at(49)), Some(at(50)));
        assert_eq!(rate.slow_at(0, at(50)), None);
        // 8 MiB at 2 GB/s, and then nothing.
        let mut rate = Rate { began, ..Rate::new(0) };
        let asked = rate.slow_at(8 << 20, at(4)).unwrap();
        assert!(asked > at(68) && asked < at(69), "{:?}", asked - began);
        assert!(rate.is_enough(8 << 20, at(67)));
        assert_eq!(rate.slow_at(8 << 20, asked), None);
        assert!(!rate.is_enough(8 << 20, asked));
    }

    #[test]
    fn enough_stays_enough_until_it_is_much_less() {
        let mut rate = Rate::new(0);
        let began = rate.began;
        let at = |milliseconds| began + Duration::from_millis(milliseconds);
        assert!(rate.is_enough(600_000_000, at(1000)));
        assert!(rate.is_enough(600_000_000, at(4000)), "150 MB/s: it came fast, and then it did not");
        assert!(!rate.is_enough(600_000_000, at(5000)));
        assert!(!rate.is_enough(700_000_000, at(5000)), "140 MB/s");
        assert!(rate.is_enough(3_000_000_000, at(6000)));
    }
}
