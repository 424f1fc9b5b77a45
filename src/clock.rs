//! The time of day, for everything that outlives the process.
//!
//! A [`Clock`] reads it once, when it is made, and is then carried forward by tokio's monotonic clock: a jump of the wall
//! clock while the mirror runs makes no tag fresh or stale, and tests that pause tokio's time move this clock too.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// The clock of one mirror.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    wall: SystemTime,
    started: Instant,
}

impl Clock {
    /// A clock that shows the present time.
    pub fn new() -> Self {
        Self { wall: SystemTime::now(), started: Instant::now() }
    }

    /// Now.
    pub fn now(&self) -> Timestamp {
        let wall = self.wall + self.started.elapsed();
        Timestamp(wall.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64)
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

/// Seconds since 1970 (UTC); 0 for what was before. For what others keep in seconds, and for what is shown.
pub fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Milliseconds since 1970 (UTC), as records on disk keep them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// So much later.
    pub fn after(self, time: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)))
    }

    /// Seconds since 1970 (UTC), as they are shown.
    pub fn seconds(self) -> u64 {
        self.0 / 1000
    }

    /// The time from `earlier` to this. `None` if `earlier` lies ahead: a record written under a wrong clock.
    pub fn since(self, earlier: Self) -> Option<Duration> {
        self.0.checked_sub(earlier.0).map(Duration::from_millis)
    }
}
