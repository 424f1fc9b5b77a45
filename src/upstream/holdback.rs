//! Silence after a 429, as a pure state machine: for the time that the upstream told, else for one that is learned.
//!
//! Meanwhile nothing is sent; afterwards one request, as a probe. Its success ends the silence, another 429 begins a
//! longer one. One for each kind of request of an account ([`super::accounts`]): a registry that counts pulls goes on to
//! answer HEADs.
//!
//! A brief silence is another thing: some registries say 429 in normal operation and want a few milliseconds of peace
//! (GHCR: `retry-after: 880.092µs`). Whoever comes meanwhile waits, and afterwards all may ask. If several 429s in a row
//! are of that kind, the silence is not brief any more.

use std::time::Duration;

use tokio::time::Instant;

use super::breaker::Verdict;

/// The first silence where the upstream does not say how long, and the longest. Each further 429 doubles it.
const LEARNED: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// How long a probe without an answer puts the next one off.
const PROBE: Duration = Duration::from_secs(5);

/// A silence is brief, and waited out within the request, if it is no longer than the first of these. It is never shorter
/// than the second, and so many in a row are believed to be brief.
pub(super) const BRIEF: Duration = Duration::from_secs(2);
pub(super) const LEAST: Duration = Duration::from_millis(50);
pub(super) const BRIEFS: u32 = 3;

/// After its end a silence that nobody has probed is forgotten.
const FORGET: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub(super) struct Holdback {
    until: Option<Instant>,
    /// It ends by itself, without a probe.
    brief: bool,
    /// 429s in a row, those of one burst counted once.
    streak: u32,
}

impl Holdback {
    /// What [`Self::admit`] would say, without taking the probe.
    pub(super) fn peek(&self, now: Instant) -> Verdict {
        match self.until {
            Some(until) if now < until => Verdict::Not(until),
            Some(_) if !self.brief => Verdict::Probe,
            _ => Verdict::Go,
        }
    }

    /// Whether the silence is a brief one.
    pub(super) fn is_brief(&self) -> bool {
        self.brief
    }

    /// Whether nothing of it matters any more.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.until.is_none_or(|until| now >= until + FORGET)
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
        if !probe && self.peek(now) != Verdict::Go {
            // It is of the same burst, and was on its way already; but it may say a longer time.
            if let Some(until) = told.map(|told| now + told).filter(|until| Some(*until) > self.until) {
                self.brief &= told <= Some(BRIEF);
                self.until = Some(until);
            }
            return;
        }
        self.brief = self.streak < BRIEFS && told.is_some_and(|told| told <= BRIEF);
        let learned = |streak: u32| {
            LEARNED.0.saturating_mul(1 << streak.min(16)).min(LEARNED.1).mul_f64(1.0 + jitter.clamp(0.0, 1.0) / 4.0)
        };
        let pause = match told {
            None => learned(self.streak),
            Some(told) if self.brief => told.max(LEAST),
            // It has said so several times, and it was not true.
            Some(told) if told <= BRIEF => told.max(learned(self.streak.saturating_sub(BRIEFS))),
            Some(told) => told,
        };
        self.streak = self.streak.saturating_add(1);
        self.until = Some(now + pause);
    }

    /// It answered something else than 429. That ends a silence if the request was the probe: an answer to a request from
    /// before the silence says nothing. Of a brief one that is over, it ends the count.
    pub(super) fn answered(&mut self, now: Instant, probe: bool) {
        if self.until.is_some_and(|until| probe || (self.brief && now >= until)) {
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
        hold.answered(now, false);
        assert_eq!(hold.admit(now + seconds(7)), Verdict::Probe, "an answer from before ends nothing");
        assert!(matches!(hold.admit(now + seconds(7)), Verdict::Not(_)));
        hold.abandon(now + seconds(8));
        assert_eq!(hold.admit(now + seconds(8)), Verdict::Probe);
        hold.answered(now, true);
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

    #[tokio::test(start_paused = true)]
    async fn t40_a_moment_is_over_for_everybody_and_three_are_no_moment() {
        let (mut now, mut hold) = (Instant::now(), Holdback::default());
        let moment = Some(Duration::from_nanos(880_092));
        for _ in 0..BRIEFS {
            hold.throttled(now, moment, false, 0.0);
            hold.throttled(now, moment, false, 0.0);
            assert_eq!((hold.peek(now), hold.is_brief()), (Verdict::Not(now + LEAST), true));
            now += LEAST;
            assert_eq!([hold.admit(now), hold.admit(now)], [Verdict::Go; 2]);
        }
        hold.throttled(now, moment, false, 0.0);
        assert_eq!((hold.peek(now), hold.is_brief()), (Verdict::Not(now + seconds(1)), false));
        assert_eq!(hold.admit(now + seconds(1)), Verdict::Probe);
        hold.answered(now + seconds(1), true);

        // A good answer between makes the next one the first again; a 429 that knows better makes a moment longer.
        for _ in 0..2 * BRIEFS {
            hold.throttled(now, moment, false, 0.0);
            now += LEAST;
            hold.answered(now, false);
        }
        hold.throttled(now, moment, false, 0.0);
        hold.throttled(now, Some(seconds(9)), false, 0.0);
        assert_eq!((hold.peek(now), hold.is_brief()), (Verdict::Not(now + seconds(9)), false));
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
                    hold.answered(now, probe);
                    prop_assert_eq!(hold.peek(now), Verdict::Go);
                }
                // A learned silence is at most a minute and a quarter.
                silent_until = silent_until.max(now);
                if let Some(until) = hold.until { silent_until = until; prop_assert!(until <= now + seconds(75)); }
            }
        }
    }
}
