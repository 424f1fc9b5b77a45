//! What time an operation takes, and how much of it the process was at work: the second does not depend on who else
//! wants the CPU, nor on how long the disk takes.

use std::fs;
use std::time::{Duration, Instant};

/// A moment, and how much CPU the threads of this process had had by then.
#[derive(Clone, Copy)]
pub struct Moment {
    at: Instant,
    own: Duration,
    others: Duration,
}

/// What passed between two moments.
#[derive(Clone, Copy)]
pub struct Spent {
    /// Time.
    pub wall: Duration,
    /// CPU of the thread that measures, user and system.
    pub own: Duration,
    /// CPU of all other threads, user and system.
    pub others: Duration,
}

/// The kernel's own account, in nanoseconds. A thread that sleeps is in it to the last one.
fn account(path: &str) -> Duration {
    let text = fs::read_to_string(path).unwrap_or_default();
    Duration::from_nanos(text.split(' ').next().and_then(|nanoseconds| nanoseconds.parse().ok()).unwrap_or(0))
}

fn own() -> Duration {
    // Brings the account of a thread that runs up to date.
    std::thread::yield_now();
    account("/proc/thread-self/schedstat")
}

fn all() -> Duration {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    tasks.map(|task| account(&format!("{}/schedstat", task.unwrap().path().display()))).sum()
}

impl Moment {
    /// Now. The other threads should be asleep.
    pub fn now() -> Self {
        let own = own();
        Self { others: all().saturating_sub(own), own, at: Instant::now() }
    }

    /// Since then.
    pub fn spent(self) -> Spent {
        let wall = self.at.elapsed();
        let own = own();
        Spent { wall, own: own.saturating_sub(self.own), others: all().saturating_sub(own).saturating_sub(self.others) }
    }
}

/// As [`Moment`], of this thread alone, which costs less.
pub struct Work(Duration);

impl Work {
    /// Now.
    pub fn begin() -> Self {
        Self(own())
    }

    /// CPU since then.
    pub fn end(self) -> Duration {
        own().saturating_sub(self.0)
    }
}
