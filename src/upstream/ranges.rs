//! Whether an upstream serves parts of a blob, learned from what it does. Pure.

use std::time::Duration;

use tokio::time::Instant;

/// For how long an upstream that does not serve parts, or does not want several at once, gets one request a blob.
const SPARED: Duration = Duration::from_secs(3600);

/// See the module. Until when there are none, where parts were not served, or refused.
#[derive(Debug, Default)]
pub(super) struct Ranges(Option<Instant>);

impl Ranges {
    /// Whether parts may be asked for.
    pub(super) fn allowed(&self, now: Instant) -> bool {
        self.0.is_none_or(|until| now >= until)
    }

    /// A part was not served as such, or the upstream wants fewer requests at once; whether that is news.
    pub(super) fn refused(&mut self, now: Instant) -> bool {
        let news = self.allowed(now);
        if news {
            self.0 = Some(now + SPARED);
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
        assert!(ranges.allowed(start));
        assert!(ranges.refused(start) && !ranges.refused(start), "told once");
        assert!(!ranges.allowed(start));
        assert!(ranges.allowed(start + SPARED));
    }
}
