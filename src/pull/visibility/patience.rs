//! How often a caller may be refused: the mirror is nobody's tool for trying passwords on an upstream.
//!
//! Refusals are counted by the caller's address. Checks that succeed cost nothing; while one runs it counts as a refusal
//! to come, so that a thousand at once try no more than a few. An address that has none left waits for a check that runs,
//! or is told when to come again.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache as Memory;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::policy::network;

/// Refusals within [`WINDOW`], from one address.
pub(super) const REFUSALS: usize = 20;
/// For how long a refusal counts.
pub(super) const WINDOW: Duration = Duration::from_secs(60);
/// Addresses remembered.
const CALLERS: u64 = 50_000;

/// All callers that were checked of late.
#[derive(Debug)]
pub(super) struct Patience(Memory<Option<IpAddr>, Arc<Caller>>);

#[derive(Debug, Default)]
struct Caller {
    state: Mutex<State>,
    ended: Notify,
}

#[derive(Debug, Default)]
struct State {
    running: usize,
    refused: VecDeque<Instant>,
}

/// A check that may run. Dropped without [`Turn::refused`], it was no refusal.
#[derive(Debug)]
pub(super) struct Turn(Arc<Caller>);

impl Default for Patience {
    fn default() -> Self {
        Self(Memory::builder().max_capacity(CALLERS).time_to_idle(2 * WINDOW).build())
    }
}

impl Patience {
    /// Waits until a check may run for a caller at this address; `Err`: how long none may. Cancel-safe.
    pub async fn turn(&self, from: Option<IpAddr>) -> Result<Turn, Duration> {
        let caller = self.0.get_with(from.map(network), Arc::default);
        loop {
            let mut ended = std::pin::pin!(caller.ended.notified());
            ended.as_mut().enable();
            {
                let mut state = caller.state.lock();
                let now = Instant::now();
                while state.refused.front().is_some_and(|at| now >= *at + WINDOW) {
                    state.refused.pop_front();
                }
                if state.running + state.refused.len() < REFUSALS {
                    state.running += 1;
                    return Ok(Turn(caller.clone()));
                }
                if let (0, Some(first)) = (state.running, state.refused.front()) {
                    return Err(*first + WINDOW - now);
                }
            }
            ended.await;
        }
    }
}

impl Turn {
    /// The upstream refused the caller.
    pub fn refused(&self) {
        self.0.state.lock().refused.push_back(Instant::now());
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.state.lock().running -= 1;
        self.0.ended.notify_waiters();
    }
}
