//! What is asked for in vain: remembered for a moment. What is not there, so that look-ups of absent signatures do not drown
//! the upstream; and manifests that are there and that the mirror does not take, so that no pull is spent on them each time
//! that their tag is asked for.
//!
//! And the order in which everything that is not here is asked for: not while the mirror is offline, not if the upstream
//! said a moment ago that it has no such thing; and when it says so, that is remembered ([`Pull::unless_absent`]).
//!
//! A word is worth as much as whoever was asked: once other upstreams are asked than before, what was said is forgotten, and
//! what is said late, by one who was asked before that, is not believed. So whoever asks takes an [`Epoch`] before that.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use moka::sync::Cache;
use tokio::time::Instant;

use super::error::Said;
use super::visibility::{Asker, Key};
use super::what::What;
use super::{Pull, PullError};
use crate::oci::{Digest, Scope};

/// Absences remembered at one time.
const REMEMBERED: u64 = 100_000;

/// Refused manifests remembered at one time.
const REFUSED: u64 = 10_000;

/// For how long a manifest is believed to be one that the mirror does not take. Its bytes stay what they are; the type that
/// its registry gives it may be mended.
const REFUSED_FOR: Duration = Duration::from_secs(600);

/// The time between two changes of who is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Epoch(u64);

/// That something is absent or refused, by the word of an epoch.
#[derive(Clone, Copy, Debug)]
struct Word {
    said: Instant,
    /// For how long it is believed: any time, also one that would lead beyond what a clock can show.
    believed_for: Duration,
    epoch: Epoch,
}

/// Why a manifest is refused, by the word of which epoch.
#[derive(Clone, Debug)]
struct Refusal {
    word: Word,
    error: PullError,
}

/// The absent and the refused things of all repositories. What an upstream says to one login is nobody else's business, and may be
/// untrue for them.
#[derive(Debug)]
pub struct Negative {
    said: Cache<(Scope, What, Option<Key>), Word>,
    refused: Cache<(Scope, Digest, Option<Key>), Refusal>,
    epoch: AtomicU64,
}

impl Negative {
    /// Nothing is absent.
    pub fn new() -> Self {
        Self { said: Cache::new(REMEMBERED), refused: Cache::new(REFUSED), epoch: AtomicU64::new(0) }
    }

    /// Others are asked from now on: nobody has said anything, and who was asked before has nothing to say. Before anything else
    /// that was said is forgotten.
    pub fn forget(&self) {
        self.epoch.fetch_add(1, Ordering::SeqCst);
        self.said.invalidate_all();
        self.refused.invalidate_all();
    }

    /// To be taken before an upstream is chosen and asked.
    pub fn epoch(&self) -> Epoch {
        Epoch(self.epoch.load(Ordering::SeqCst))
    }

    /// Whether the upstream said so recently enough.
    fn is_remembered(&self, scope: &Scope, asker: &Asker, what: &What) -> bool {
        let word = self.said.get(&(scope.clone(), what.clone(), asker.key()));
        word.is_some_and(|word| self.holds(word))
    }

    fn holds(&self, word: Word) -> bool {
        word.epoch == self.epoch() && word.said.elapsed() < word.believed_for
    }

    /// The upstream says that it has no `what`; believed for `negative`. It was asked in `epoch`.
    fn remember(&self, scope: &Scope, asker: &Asker, what: &What, negative: Duration, epoch: Epoch) {
        if !negative.is_zero() {
            let word = Word { said: Instant::now(), believed_for: negative, epoch };
            self.said.insert((scope.clone(), what.clone(), asker.key()), word);
        }
    }
}

impl Default for Negative {
    fn default() -> Self {
        Self::new()
    }
}

impl Pull {
    /// Asks for something that is not here, unless that is in vain, and remembers if it was. As cancel-safe as `asking`.
    pub(super) async fn unless_absent<T>(
        &self,
        scope: &Scope,
        asker: &Asker,
        what: &What,
        asking: impl Future<Output = Result<T, PullError>>,
    ) -> Result<T, PullError> {
        self.may_ask(scope, asker, what)?;
        let epoch = self.negative.epoch();
        asking.await.map_err(|error| self.absent(scope, asker, what, error, epoch))
    }

    /// Asks for a manifest, unless the mirror has refused it a moment ago, and remembers if it does. As cancel-safe as `asking`.
    pub(super) async fn unless_refused<T>(
        &self,
        scope: &Scope,
        asker: &Asker,
        digest: &Digest,
        asking: impl Future<Output = Result<T, PullError>>,
    ) -> Result<T, PullError> {
        let (key, epoch) = ((scope.clone(), *digest, asker.key()), self.negative.epoch());
        if let Some(Refusal { error, .. }) = self.negative.refused.get(&key).filter(|known| self.negative.holds(known.word)) {
            return Err(error);
        }
        asking.await.inspect_err(|error| {
            if error.is_refused() {
                let word = Word { said: Instant::now(), believed_for: REFUSED_FOR, epoch };
                self.negative.refused.insert(key, Refusal { word, error: error.clone() });
            }
        })
    }

    /// Fails if the mirror is offline, or the upstream said a moment ago that there is no such thing.
    pub(super) fn may_ask(&self, scope: &Scope, asker: &Asker, what: &What) -> Result<(), PullError> {
        if self.site(scope)?.upstream.is_offline() {
            return Err(PullError::Offline { scope: scope.clone(), what: what.clone() });
        }
        self.not_remembered(scope, asker, what)
    }

    /// Fails if the upstream said a moment ago that there is no such thing.
    pub(super) fn not_remembered(&self, scope: &Scope, asker: &Asker, what: &What) -> Result<(), PullError> {
        match self.negative.is_remembered(scope, asker, what) {
            true => Err(PullError::NotFound { scope: scope.clone(), what: what.clone(), said: Said::Before }),
            false => Ok(()),
        }
    }

    /// The upstream's "not found", remembered for who asked; any other error as it is, and so is a "not found" that was
    /// remembered where it was said. It was asked in `epoch`.
    pub(super) fn absent(&self, scope: &Scope, asker: &Asker, what: &What, error: PullError, epoch: Epoch) -> PullError {
        let site = match self.site(scope) {
            Ok(site) if error.is_not_found() && !matches!(error, PullError::NotFound { .. }) => site,
            _ => return error,
        };
        let negative = match what {
            What::Tag(tag) => site.freshness.terms(scope.repository.as_str(), tag.as_str()).negative,
            _ => site.freshness.negative,
        };
        self.negative.remember(scope, asker, what, error.believe(negative), epoch);
        PullError::NotFound { scope: scope.clone(), what: what.clone(), said: Said::Now }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_not_found_may_be_remembered_for_longer_than_a_clock_goes() {
        let negative = Negative::new();
        let scope: Scope = "docker.io/library/alpine".parse().unwrap();
        let what = |tag: &str| What::Tag(tag.parse().unwrap());
        let remember = |tag: &str, time| negative.remember(&scope, &Asker::Mirror, &what(tag), time, negative.epoch());
        remember("ever", Duration::MAX);
        remember("long", Duration::from_secs(u64::MAX));
        remember("brief", Duration::from_secs(10));
        let is_remembered = |tag: &str| negative.is_remembered(&scope, &Asker::Mirror, &what(tag));
        tokio::time::advance(Duration::from_secs(9)).await;
        assert!(is_remembered("ever") && is_remembered("long") && is_remembered("brief"));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(is_remembered("ever") && is_remembered("long") && !is_remembered("brief"));
    }
}
