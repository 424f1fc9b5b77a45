//! Whether one more connection would bring a blob sooner, and how much to ask of each. Pure.
//!
//! Several connections are for upstreams that limit each of them, and for long ways. Where one brings more than a disk
//! takes, a second one only makes the parts wait for each other. And where an answer is long in coming, parts are larger, so
//! that connections are not idle for much of the time. Asked by [`super::parts`].

use std::time::Duration;

use tokio::time::Instant;

/// Bytes a second that are enough: what a good disk writes, and four times what a link of 1 Gbit/s brings.
const ENOUGH: f64 = 500e6;

/// What was enough is enough until it has become so many times slower: a machine that is busy for a moment, or an average
/// around the bound, makes no connections, and an answer that comes well is not cut for them.
const TOLERANCE: f64 = 4.0;

/// Nothing is said before so much has come, or so long has passed.
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
        bytes.saturating_sub(self.before) >= SAMPLE || now >= self.began + LONGEST
    }

    /// When to ask again even if no byte comes until then: a connection that was fast and then stands still causes no
    /// event. `None`: it is slow already. Always later than `now`.
    pub fn slow_at(&mut self, bytes: u64, now: Instant) -> Option<Instant> {
        if !self.is_known(bytes, now) {
            return Some(self.began + LONGEST);
        }
        let came = bytes.saturating_sub(self.before);
        let enough_for = Duration::from_secs_f64(came as f64 * TOLERANCE / ENOUGH);
        self.is_enough(bytes, now).then(|| self.began + enough_for + Duration::from_millis(1))
    }

    /// Whether it is fast enough, or not known to be slow yet.
    pub fn is_enough(&mut self, bytes: u64, now: Instant) -> bool {
        if !self.is_known(bytes, now) {
            return true;
        }
        let (came, took) = (bytes.saturating_sub(self.before), now - self.began);
        let bound = if self.enough { ENOUGH / TOLERANCE } else { ENOUGH };
        self.enough = came as f64 >= bound * took.as_secs_f64();
        self.enough
    }
}

/// A connection that waits for an answer brings nothing: at most one part in so many of its time.
const WORTH: f64 = 10.0;

/// No wait makes a part longer than this, to the next whole step: what is read back to be hashed shall still be in memory.
const LARGEST: f64 = (64 << 20) as f64;

/// Seconds that a part waits for its answer, and bytes a second that one connection brings after that: the means of all
/// parts, the last one for half.
#[derive(Debug, Default)]
pub struct Pace(Option<(f64, f64)>);

impl Pace {
    /// A part of so many bytes waited so long for its answer, which then took so long to come.
    pub fn learn(&mut self, bytes: u64, waited: Duration, took: Duration) {
        let now = (waited.as_secs_f64(), bytes as f64 / took.as_secs_f64().max(1e-6));
        self.0 = Some(self.0.map_or(now, |(waited, speed)| ((waited + now.0) / 2.0, (speed + now.1) / 2.0)));
    }

    /// Bytes of a part that is worth its answer's wait; 0 while nothing is known.
    pub fn worthwhile(&self) -> u64 {
        self.0.map_or(0, |(waited, speed)| (WORTH * waited * speed).min(LARGEST) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longer_the_wait_the_larger_the_part() {
        let of = |waited, speed: u64| {
            let mut pace = Pace::default();
            pace.learn(speed * 2, Duration::from_millis(waited), Duration::from_secs(2));
            pace.worthwhile()
        };
        assert_eq!(Pace::default().worthwhile(), 0);
        assert_eq!((of(0, 20_000_000), of(1, 20_000_000), of(100, 20_000_000)), (0, 200_000, 20_000_000));
        assert_eq!(of(100, 1_000_000), 1_000_000);
        assert_eq!(of(1000, 20_000_000), LARGEST as u64);
        let mut pace = Pace::default();
        pace.learn(1_000_000, Duration::from_millis(300), Duration::from_secs(1));
        pace.learn(1_000_000, Duration::from_millis(100), Duration::from_secs(1));
        assert_eq!(pace.worthwhile(), 2_000_000, "the first one had to connect");
        pace.learn(1, Duration::ZERO, Duration::ZERO);
        assert!(pace.worthwhile() <= LARGEST as u64);
    }

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
