//! Silence after a 429, as a pure state machine: for the time that the upstream told, else for one that is learned.
//!
//! Meanwhile nothing is sent; afterwards one request, as a probe. Its success ends the silence, another 429 begins a
//! longer one. One for each kind of request of an origin: a registry that counts pulls goes on to answer HEADs.

use std::time::Duration;

use tokio::time::Instant;

use super::breaker::Verdict;

/// The first silence where the upstream does not say how long, and the longest. Each further 429 doubles it.
const LEARNED: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// How long a probe without an answer puts the next one off.
const PROBE: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
pub(super) struct Holdback {
    until: Option<Instant>,
    /// 429s in a row, those of one burst counted once.
    streak: u32,
}

impl Holdback {
    /// What [`Self::admit`] would say, without taking the probe.
    pub(super) fn peek(&self, now: Instant) -> Verdict {
        match self.until {
            None => Verdict::Go,
            Some(until) if now < until => Verdict::Not(until),
            Some(_) => Verdict::Probe,
        }
    }

    pub(super) fn admit(&mut self, now: Instant) -> Verdict {
        let verdict = self.peek(now);
        if verdict == Verdict::Probe {
            self.until = Some(now + PROBE);
        }
        verdict
    }

    /// The upstream said 429, and perhaps for how long. `jitter` (0 to 1) makes learned times differ between mirrors.
    pub(super) fn throttled(&mut self, now: Instant, told: Option<Duration>, probe: bool, jitter: f64) {
        if self.until.is_some() && !probe {
            // Of the same burst: it was on its way already. It may know better how long.
            self.until = self.until.max(told.map(|told| now + told));
            return;
        }
        let learned = LEARNED.0.saturating_mul(1 << self.streak.min(16)).min(LEARNED.1);
        let pause = told.unwrap_or_else(|| learned.mul_f64(1.0 + jitter.clamp(0.0, 1.0) / 4.0));
        self.streak = self.streak.saturating_add(1);
        self.until = Some(now + pause);
    }

    /// It answered something else than 429, which ends a silence if it was the probe: an answer to a request from before the
    /// silence says nothing.
    pub(super) fn answered(&mut self, probe: bool) {
        if probe && self.until.is_some() {
            *self = Self::default();
        }
    }

    /// The probe was given up; the next request is one.
    pub(super) fn abandon(&mut self, now: Instant) {
        self.until = self.until.map(|_| now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[tokio::test(start_paused = true)]
    async fn t40_silence_for_the_time_told_then_one_probe() {
        let (now, mut hold) = (Instant::now(), Holdback::default());
        hold.throttled(now, Some(seconds(7)), false, 0.0);
        assert_eq!(hold.admit(now + seconds(3)), Verdict::Not(now + seconds(7)));
        hold.answered(false);
        assert_eq!(hold.admit(now + seconds(7)), Verdict::Probe, "an answer from before ends nothing");
        assert!(matches!(hold.admit(now + seconds(7)), Verdict::Not(_)));
        hold.abandon(now + seconds(8));
        assert_eq!(hold.admit(now + seconds(8)), Verdict::Probe);
        hold.answered(true);
        assert_eq!(hold.admit(now + seconds(8)), Verdict::Go);
    }

    #[tokio::test(start_paused = true)]
    async fn t40_a_learned_silence_grows() {
        let (mut now, mut hold) = (Instant::now(), Holdback::default());
        let mut probe = false;
        for expected in [1, 2, 4, 8, 16, 32, 60, 60] {
            hold.throttled(now, None, probe, 0.0);
            // The rest of the burst.
            for _ in 0..20 {
                hold.throttled(now, None, false, 0.0);
            }
            assert_eq!(hold.peek(now), Verdict::Not(now + seconds(expected)));
            now += seconds(expected);
            probe = hold.admit(now) == Verdict::Probe;
            assert!(probe);
        }
    }

    proptest! {
        /// Nothing is sent before the time told; one thing at that time; it is never stuck.
        #[test]
        fn nothing_is_sent_before_its_time(steps in proptest::collection::vec((0u64..20, proptest::option::of(1u64..30), any::<bool>()), 1..100)) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let mut now = runtime.block_on(async { Instant::now() });
            let mut hold = Holdback::default();
            let mut silent_until = now;
            for (wait, told, refused) in steps {
                now += seconds(wait);
                let verdict = hold.admit(now);
                if matches!(verdict, Verdict::Not(_)) {
                    prop_assert!(now < silent_until);
                    continue;
                }
                prop_assert!(now >= silent_until);
                let probe = verdict == Verdict::Probe;
                if refused {
                    hold.throttled(now, told.map(seconds), probe, 0.0);
                    silent_until = now + told.map_or(seconds(1), seconds);
                    prop_assert!(matches!(hold.peek(now), Verdict::Not(_)));
                } else {
                    hold.answered(probe);
                    prop_assert_eq!(hold.peek(now), Verdict::Go);
                }
                // A learned silence is at most a minute and a quarter.
                silent_until = silent_until.max(now);
                if let Some(until) = hold.until { silent_until = until; prop_assert!(until <= now + seconds(75)); }
            }
        }
    }
}
