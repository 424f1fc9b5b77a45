//! Times: how old things are in this process, and the time of day for everything that outlives it.
//!
//! The wall clock jumps: at boot, when NTP finds it wrong, and when somebody sets it. So a [`Clock`] reads it when it is
//! made and is carried forward by tokio's monotonic clock from there: no jump makes what is known in the process fresh or
//! old, and tests that pause tokio's time move this clock too. Its times are [`Moment`]s. What is written to disk, or told
//! to others, is a [`Timestamp`]: the wall clock's time as it is by then. The two are different types, so that neither can be
//! taken for the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::system::sysinfo;
use tokio::time::Instant;

/// A wall clock that is set by less makes no record wrong enough to be written again. In seconds.
const SMALL_JUMP: i64 = 60;

/// The clock of one mirror; its clones are the same one.
#[derive(Clone, Debug)]
pub struct Clock(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// What the wall clock said when this one was made, and when that was by others.
    wall: SystemTime,
    started: Instant,
    /// Not tokio's, which tests pause: for the comparison with the wall clock, which they do not.
    began: std::time::Instant,
    /// How long the machine had been up then.
    up: Duration,
    /// For how long the machine has slept since, in milliseconds, as of the last look: the monotonic clock stands still then.
    slept: AtomicU64,
    /// How far the wall clock was off this one at the last look, in seconds.
    off: AtomicI64,
    /// How far a test has set the wall clock.
    #[cfg(test)]
    set: AtomicI64,
}

/// How long the machine has been up, sleep included, in whole seconds. By a system call and not by a clock of the vDSO, which
/// cannot be called under valgrind.
fn uptime() -> Duration {
    Duration::from_secs(u64::try_from(sysinfo().uptime).unwrap_or(0))
}

impl Clock {
    /// A clock that shows the present time.
    pub fn new() -> Self {
        Self(Arc::new(Inner {
            wall: SystemTime::now(),
            started: Instant::now(),
            began: std::time::Instant::now(),
            up: uptime(),
            slept: AtomicU64::new(0),
            off: AtomicI64::new(0),
            #[cfg(test)]
            set: AtomicI64::new(0),
        }))
    }

    /// Now, in this process.
    pub fn now(&self) -> Moment {
        self.at(self.0.started.elapsed())
    }

    /// When it was made.
    pub fn start(&self) -> Moment {
        Moment(millis(self.0.wall))
    }

    fn at(&self, running: Duration) -> Moment {
        Moment(millis(self.0.wall + running).saturating_add(self.0.slept.load(Ordering::Relaxed)))
    }

    /// Now, as the wall clock has it.
    pub fn wall(&self) -> Timestamp {
        self.date(self.now())
    }

    /// When something was, as the wall clock has it by now: for others, and for the disk.
    pub fn date(&self, moment: Moment) -> Timestamp {
        Timestamp(moment.0.saturating_add_signed(self.off() * 1000))
    }

    /// When something was that was written down.
    pub fn moment(&self, date: Timestamp) -> Moment {
        Moment(date.0.saturating_add_signed(-self.off() * 1000))
    }

    /// How far the wall clock is ahead of this one by now, in whole seconds: a date that is read again must be the moment
    /// that it was, although the two clocks are not read at the same instant.
    pub fn off(&self) -> i64 {
        let wall = millis(SystemTime::now()) as i64;
        #[cfg(test)]
        let wall = wall + self.0.set.load(Ordering::Relaxed) * 1000;
        let off = wall - self.at(self.0.began.elapsed()).0 as i64;
        // Rounded: in most cases it is next to 0, or was set by whole seconds.
        (off + 500).div_euclid(1000)
    }

    /// To be called every minute: notes for how long the machine has slept, and whether the wall clock was set since the
    /// last time.
    pub fn look(&self) -> Look {
        let slept = uptime().saturating_sub(self.0.up + self.0.began.elapsed()).as_millis() as u64;
        // Less may be what whole seconds leave out.
        if slept >= self.0.slept.load(Ordering::Relaxed) + 2000 {
            self.0.slept.fetch_max(slept, Ordering::Relaxed);
        }
        let off = self.off();
        if (off - self.0.off.load(Ordering::Relaxed)).abs() < SMALL_JUMP {
            return Look::Steady;
        }
        self.0.off.store(off, Ordering::Relaxed);
        Look::Set
    }

    /// Sets the wall clock forward, or back.
    #[cfg(test)]
    pub fn set(&self, seconds: i64) {
        self.0.set.fetch_add(seconds, Ordering::Relaxed);
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

/// What became of the wall clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// It goes as it did.
    Steady,
    /// It was set: what was written down before says another time than what is written now.
    Set,
}

fn millis(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

/// Seconds since 1970 (UTC); 0 for what was before. For what others keep in seconds, and for what is shown.
pub fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Seconds since 1970 by the wall clock, for what is remembered for a while, and where a jump costs nothing but a look.
pub fn wall_seconds() -> u32 {
    u32::try_from(seconds(SystemTime::now())).unwrap_or(u32::MAX)
}

/// A time by a [`Clock`]: milliseconds since 1970, if the wall clock was right when that was made. Never written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub u64);

impl Moment {
    /// So much later.
    pub fn after(self, time: Duration) -> Self {
        Self(later(self.0, time))
    }

    /// The time from `earlier` to this. `None` if `earlier` lies ahead: it comes from a record written under a wrong clock.
    pub fn since(self, earlier: Self) -> Option<Duration> {
        self.0.checked_sub(earlier.0).map(Duration::from_millis)
    }
}

/// Milliseconds since 1970 (UTC) by the wall clock, as records on disk keep them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// So much later.
    pub fn after(self, time: Duration) -> Self {
        Self(later(self.0, time))
    }

    /// Seconds since 1970 (UTC), as they are shown.
    pub fn seconds(self) -> u64 {
        self.0 / 1000
    }

    /// The time from `earlier` to this. `None` if `earlier` lies ahead.
    pub fn since(self, earlier: Self) -> Option<Duration> {
        self.0.checked_sub(earlier.0).map(Duration::from_millis)
    }
}

fn later(millis: u64, time: Duration) -> u64 {
    millis.saturating_add(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_jump_of_the_wall_clock_changes_dates_and_no_ages() {
        let clock = Clock::new();
        let before = clock.now();
        for jump in [20 * 86_400, -40 * 86_400] {
            let date = clock.date(before);
            clock.set(jump);
            tokio::time::advance(Duration::from_secs(1)).await;
            let moved = clock.date(before).0 as i64 - date.0 as i64;
            assert!((moved - jump * 1000).abs() <= 1000, "{moved}");
            assert_eq!(clock.moment(clock.date(before)), before, "what is written down is read as what it was");
            assert_eq!((clock.look(), clock.look()), (Look::Set, Look::Steady));
        }
        assert_eq!(clock.now().since(before), Some(Duration::from_secs(2)));
        clock.set(SMALL_JUMP / 2);
        assert_eq!(clock.look(), Look::Steady);
    }
}
