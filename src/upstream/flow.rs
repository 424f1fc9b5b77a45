//! Whether a body comes at all: not in silence, and not so slowly that it is as good as silence. Pure; used by
//! [`super::blob`], and for what it calls slow by the fills.

use std::fmt;
use std::time::Duration;

/// Bytes a second below which nothing gets on. A byte now and then keeps every time-out away, and with it for ever what was
/// set aside for the whole: a place in the cache, a slot, a connection (I8). A modem brings four times as much; at this
/// rate a layer of 100 MB takes more than a day.
pub const SLOWEST: u64 = 1024;

/// The rate is a mean over so many times the stall time-out, a minute by default: one silence that is still allowed makes no
/// connection slow that is twice as fast.
const WINDOW: u32 = 2;

/// How a body stalled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stall {
    /// Not a byte came for so long.
    Silent(Duration),
    /// So few came in so long.
    Slow(u64, Duration),
}

impl fmt::Display for Stall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let told = |time: &Duration| humantime::format_duration(Duration::from_millis(time.as_millis() as u64));
        match self {
            Self::Silent(time) => write!(f, "no byte for {}", told(time)),
            Self::Slow(bytes, time) => write!(f, "only {bytes} bytes in {}", told(time)),
        }
    }
}

/// What of a body has come since it was last looked at, and how long it was waited for. Time in which nobody wanted more of
/// it, because the disk is behind or the bandwidth is shared, is not the upstream's.
#[derive(Debug)]
pub(super) struct Flow {
    patience: Duration,
    bytes: u64,
    waited: Duration,
}

impl Flow {
    /// `patience`: the stall time-out.
    pub fn new(patience: Duration) -> Self {
        Self { patience, bytes: 0, waited: Duration::ZERO }
    }

    /// Notes that so many bytes came, after they were waited for so long.
    pub fn came(&mut self, bytes: u64, after: Duration) -> Result<(), Stall> {
        (self.bytes, self.waited) = (self.bytes + bytes, self.waited + after);
        if self.waited < self.patience * WINDOW {
            return Ok(());
        }
        let (bytes, waited) = (std::mem::take(&mut self.bytes), std::mem::take(&mut self.waited));
        if is_progress(bytes, waited) { Ok(()) } else { Err(Stall::Slow(bytes, waited)) }
    }

    /// Nothing came.
    pub fn silent(&self) -> Stall {
        Stall::Silent(self.patience)
    }
}

/// Whether so many bytes in so long are more than next to nothing ([`SLOWEST`]).
pub fn is_progress(bytes: u64, took: Duration) -> bool {
    bytes > 0 && bytes as f64 >= SLOWEST as f64 * took.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_byte_now_and_then_is_a_stall_after_a_minute() {
        let mut flow = Flow::new(30 * SECOND);
        for _ in 0..59 {
            flow.came(1, SECOND).unwrap();
        }
        let stall = flow.came(1, SECOND).unwrap_err();
        assert_eq!(stall, Stall::Slow(60, 60 * SECOND));
        assert_eq!(stall.to_string(), "only 60 bytes in 1m");
        assert_eq!(flow.silent().to_string(), "no byte for 30s");
    }

    #[test]
    fn what_is_slow_but_comes_is_waited_for() {
        let mut flow = Flow::new(30 * SECOND);
        for _ in 0..600 {
            flow.came(SLOWEST, SECOND).unwrap();
        }
        // The longest silence that is allowed, and twice the slowest rate.
        for _ in 0..10 {
            flow.came(2 * SLOWEST, 30 * SECOND).unwrap();
            (0..30).for_each(|_| flow.came(2 * SLOWEST, SECOND).unwrap());
        }
        // Nobody waited.
        for _ in 0..600 {
            flow.came(1, Duration::ZERO).unwrap();
        }
    }
}
