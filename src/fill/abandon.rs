//! When a fill that nobody reads any more is given up, where `fill.abandoned` says so.
//!
//! Asked by the loops that receive, [`super::whole`] and [`super::parts`].

use std::time::Duration;

use tokio::time::{Interval, MissedTickBehavior, interval};

use super::Fill;
use crate::config::{self, Abandoned};

/// Looks in a row without a reader that make up `fill.abandon_after`.
const LOOKS: u32 = 4;

/// Watches the readers of one fill.
#[derive(Debug)]
pub(super) struct Abandonment {
    /// `None`: it is finished whoever reads.
    look: Option<Interval>,
    unread: u32,
}

impl Abandonment {
    /// From now on.
    pub fn new(config: &config::Fill) -> Self {
        let look = (config.abandoned == Abandoned::Abort).then(|| {
            let mut look = interval((config.abandon_after / LOOKS).max(Duration::from_millis(1)));
            look.set_missed_tick_behavior(MissedTickBehavior::Delay);
            look
        });
        Self { look, unread: 0 }
    }

    /// Waits until nobody has read `fill` for long enough, and gives it up: whoever comes after that begins it anew.
    /// Cancel-safe.
    pub async fn of(&mut self, fill: &Fill) {
        let Some(look) = &mut self.look else { return std::future::pending().await };
        loop {
            look.tick().await;
            self.unread = if fill.progress.readers() == 0 { self.unread + 1 } else { 0 };
            if self.unread > LOOKS && fill.progress.give_up() {
                return;
            }
        }
    }
}
