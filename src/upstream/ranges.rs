//! Whether an upstream serves parts of a blob, learned from what it does. Pure.

use std::time::Duration;

use tokio::time::Instant;

/// For how long an upstream that does not serve parts, or does not want several at once, gets one request a blob.
const SPARED: Duration = Duration::from_secs(3600);

/// What is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Known {
    /// No part has been asked for.
    #[default]
    Nothing,
    /// A part was served.
    Served,
    /// Parts were not served, or refused, so that there are none until then.
    Not(Instant),
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Ranges(Known);

impl Ranges {
    /// Whether parts may be asked for at all.
    pub(super) fn allowed(&self, now: Instant) -> bool {
        !matches!(self.0, Known::Not(until) if now < until)
    }

    /// Whether the very first request of a blob may be one for a part.
    pub(super) fn proven(&self) -> bool {
        self.0 == Known::Served
    }

    /// A part came as it was asked for.
    pub(super) fn served(&mut self, now: Instant) {
        // What was on its way when another part was refused says nothing new.
        if self.allowed(now) {
            self.0 = Known::Served;
        }
    }

    /// A part was not served as such, or the upstream wants fewer requests at once; whether that is news.
    pub(super) fn refused(&mut self, now: Instant) -> bool {
        let news = self.allowed(now);
        if news {
            self.0 = Known::Not(now + SPARED);
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_refused_is_tried_again_after_an_hour() {
        let (mut ranges, start) = (Ranges::default(), Instant::now());
        assert_eq!((ranges.allowed(start), ranges.proven()), (true, false));
        ranges.served(start);
        assert!(ranges.proven());
        assert!(ranges.refused(start) && !ranges.refused(start), "told once");
        ranges.served(start);
        assert_eq!((ranges.allowed(start), ranges.proven()), (false, false));
        let later = start + SPARED;
        assert_eq!((ranges.allowed(later), ranges.proven()), (true, false));
        ranges.served(later);
        assert!(ranges.proven());
    }
}
