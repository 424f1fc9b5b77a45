//! Room on disk: what is set aside for a fill, what goes for it, and how a file gets in.
//!
//! The account is the index's; here its victims are unlinked and its promises kept (I8). Where the account has reached
//! its limit, any victim helps. Where the file system is short of space, a victim helps only if its space is free once it
//! is unlinked: what somebody reads, or what has another name, stays. What fills leave is the business of
//! [`super::leftover`]. Called by the fills, by `transfer`, and by [`super::survey`] every minute.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::confined::Came;
use super::index::{Claim, Class, Limits, Place, Reservation, Victim};
use super::store::{Space, Verified, stamp};
use super::{Cache, NoRoom, OfQuota, SMALL, read};
use crate::metrics::Removal;
use crate::oci::{Digest, Scope, UpstreamName};

/// Victims in a row that would have freed nothing, after which there is no room.
const USELESS: u32 = 64;

/// Victims of one claim that could not be unlinked, after which it fails.
const STUCK: u32 = 16;

/// How often, and at what interval, space that is on its way is looked for.
const LOOKS: u32 = 25;
const LOOK_AFTER: Duration = Duration::from_millis(10);

impl Cache {
    /// Sets `bytes` of disk aside, evicting what was not used for longest (I8). Waits until the index is complete.
    pub async fn reserve(self: &Arc<Self>, bytes: u64) -> Result<Reservation, NoRoom> {
        self.reserve_for(bytes, 0).await
    }

    /// As [`Cache::reserve`], within the quota of `class`.
    pub async fn reserve_for(self: &Arc<Self>, bytes: u64, class: Class) -> Result<Reservation, NoRoom> {
        self.until_scanned().await?;
        self.blocking(move |cache| cache.make_room(bytes, class)).await?
    }

    /// Blocks; see [`Cache::reserve_for`], which also waits until the index is complete.
    pub fn make_room(&self, bytes: u64, class: Class) -> Result<Reservation, NoRoom> {
        for _ in 0..LOOKS {
            if let Some(reservation) = self.room(bytes, class, &mut |_| {})? {
                return Ok(reservation);
            }
            std::thread::sleep(LOOK_AFTER);
        }
        Err(self.full(bytes, class, self.store.space()?))
    }

    /// Blocks. As [`Cache::make_room`], and tells what it evicts. `None`: the space is on its way, as far as is known.
    pub(super) fn room(&self, bytes: u64, class: Class, gone: &mut dyn FnMut(&Victim)) -> Result<Option<Reservation>, NoRoom> {
        let (mut useless, mut stuck) = (0, 0);
        loop {
            let space = self.store.space()?;
            let claim = self.index.claim(bytes, class, space, self.owed.now(space.free, Instant::now()));
            let evicted = match claim {
                Claim::Granted(reservation) => return Ok(Some(reservation)),
                Claim::Evict(victim) => self.try_evict(victim, &mut stuck)?.then_some(victim),
                Claim::Free(victim) if useless < USELESS => self.evict_if_free(victim, &mut stuck)?,
                Claim::Free(victim) => {
                    self.index.stayed(victim);
                    return Err(self.full(bytes, class, space));
                }
                Claim::Wait => {
                    std::thread::sleep(Duration::from_millis(1));
                    continue;
                }
                Claim::OnItsWay => return Ok(None),
                Claim::Impossible => return Err(self.full(bytes, class, space)),
            };
            match &evicted {
                Some(victim) => {
                    gone(victim);
                    useless = 0;
                }
                None => useless += 1,
            }
        }
    }

    /// As [`Cache::evict`]. A victim that cannot be unlinked stays until its turn comes again, and others go in its
    /// place; an error only after [`STUCK`] of them.
    fn try_evict(&self, victim: Victim, stuck: &mut u32) -> io::Result<bool> {
        self.evict(victim).or_else(|error| {
            let path = self.store.path(victim.place, &victim.digest);
            tracing::error!(path = %path.display(), %error, "a file of the cache cannot be removed to make room");
            *stuck += 1;
            if *stuck < STUCK { Ok(false) } else { Err(error) }
        })
    }

    fn full(&self, wanted: u64, class: Class, space: Space) -> NoRoom {
        let Limits { max_size, min_free } = self.index.limits();
        let pattern = usize::from(class).checked_sub(1).and_then(|at| self.quotas.get(at));
        let quota = pattern.zip(self.index.quota_of(class).max_size).map(|(globs, limit)| (globs.patterns().join(" "), limit));
        NoRoom::Full { wanted, max_size, kept: self.index.unmovable(), min_free, free: space.free, quota: OfQuota(quota) }
    }

    /// Evicts a victim for the sake of the file system's free space, if its space is free then. `None`: somebody reads it, or
    /// it has another name, as what an export has linked; it stays.
    fn evict_if_free(&self, victim: Victim, stuck: &mut u32) -> io::Result<Option<Victim>> {
        if victim.place == Place::Blobs {
            self.memory.forget_file(&victim.digest);
            let links = self.store.links(&victim.digest);
            if !matches!(links, Ok(0 | 1)) || self.memory.is_read(&victim.digest) {
                self.index.stayed(victim);
                return links.map(|_| None);
            }
        }
        let before = match self.store.space() {
            Ok(space) => space.free,
            Err(error) => {
                self.index.stayed(victim);
                return Err(error);
            }
        };
        let evicted = self.try_evict(victim, stuck)?;
        if evicted {
            self.owed.unlinked(victim.size, before, self.store.space()?.free, Instant::now());
        }
        Ok(evicted.then_some(victim))
    }

    pub(super) fn evict(&self, victim: Victim) -> io::Result<bool> {
        let unlinked = self.unlink(victim)?;
        if unlinked {
            self.count_eviction(&victim, Removal::Space);
        }
        Ok(unlinked)
    }

    /// Unlinks a victim. `false`: something else has its name since it was chosen, or a fill goes on with it; that stays.
    pub(super) fn unlink(&self, victim: Victim) -> io::Result<bool> {
        let _name = self.names.hold(&victim.digest);
        if !self.index.is_leaving(&victim) {
            return Ok(false);
        }
        let removed = match victim.place {
            Place::Ingest => self.store.remove_ingest(&victim.digest),
            Place::Quarantine => self.store.remove_quarantined(&victim.digest),
            Place::Blobs => self.store.remove(&victim.digest),
        };
        if let Err(error) = removed {
            self.index.stuck(victim);
            return Err(error);
        }
        if victim.place == Place::Blobs {
            // Last, so that it is not kept open by somebody who opened it a moment ago.
            self.memory.forget_file(&victim.digest);
        }
        self.index.left(victim);
        Ok(true)
    }

    pub(super) fn count_eviction(&self, victim: &Victim, why: Removal) {
        let reason = why.label();
        self.metrics.evictions_total.with_label_values(&[reason]).inc();
        self.metrics.evicted_bytes_total.inc_by(victim.size);
        tracing::debug!(digest = %victim.digest, size_bytes = victim.size, place = ?victim.place, reason, "evicted");
    }

    /// Blocks. Looks whether the file system still has `min_free`; other writers may have taken it since a fill
    /// reserved its room. Evicts until it has, or until what was evicted for it will have given it back. Evicts nothing
    /// where that would not be enough.
    pub fn keep_free(&self) -> Result<(), NoRoom> {
        if self.store.space()?.free >= self.index.limits().min_free {
            return Ok(());
        }
        self.room(0, 0, &mut |_| {}).map(drop)
    }

    /// Blocks. Evicts what is beyond a limit: the whole cache's, and each quota's. They may be lower than they were in the last
    /// process's time, and content counts for its quota only when it is known whose it is. Tells what it evicts. The first
    /// error; the other limits are kept all the same.
    pub(super) fn keep_limits(&self, gone: &mut dyn FnMut(&Victim)) -> Result<(), NoRoom> {
        // What a claim sets aside is nothing here.
        let classes = 0..=self.quotas.len();
        classes.map(|class| self.room(0, class as Class, gone).map(drop)).fold(Ok(()), Result::and)
    }

    /// Which quota content of a repository counts for.
    pub fn class(&self, scope: &Scope) -> Class {
        if self.quotas.is_empty() {
            return 0;
        }
        let name = scope.to_string();
        // The configuration has at most 254.
        self.quotas.iter().position(|quota| quota.is_match(&name)).map_or(0, |at| (at + 1) as Class)
    }

    /// As [`Cache::publish`], of what came through `upstream`, whosever that is by now.
    pub fn publish_from(
        &self,
        upstream: &UpstreamName,
        came: Came,
        verified: Verified,
        reservation: Reservation,
    ) -> io::Result<()> {
        let digest = *verified.digest();
        match self.confine_for_good(&digest, upstream, came) {
            Ok(_steady) => self.publish(verified, reservation),
            Err(error) => {
                self.discard(&digest, Some(verified.given_up()), reservation);
                Err(error)
            }
        }
    }

    /// Blocks. Gives a verified file its name (I1) and takes it into the account and, if small, into memory. After an error it
    /// is gone, or counted.
    pub fn publish(&self, verified: Verified, reservation: Reservation) -> io::Result<()> {
        let (digest, size) = (*verified.digest(), verified.size());
        let _name = self.names.hold(&digest);
        if let Err(error) = self.store.publish(&verified) {
            self.discard(&digest, Some(verified.given_up()), reservation);
            return Err(error);
        }
        // A wrong stamp makes the next reader hash the file.
        let stamp = verified.file().metadata().map_or(0, |meta| stamp(&meta));
        if reservation.published(digest, size, stamp) {
            tracing::warn!(%digest, size_bytes = size, "a damaged file that could not be set apart is replaced by the right one");
        }
        if self.index.has_leftover(&digest) {
            // No fill will go on with it.
            let leftover = self.index.take_leftover(&digest, 0);
            self.discard(&digest, None, leftover);
        }
        self.doubts.sound(&digest);
        if size > SMALL {
            self.memory.insert_file(digest, Arc::new(verified.file().clone().into()), size);
        } else if let Ok(bytes) = read::whole(verified.file(), size) {
            // Not its file: a small object that is read again is hashed again.
            self.memory.insert(digest, bytes);
        }
        Ok(())
    }

    /// Stores content that is whole in memory and has been found to match `digest`: manifests. Where the disk tier
    /// cannot take it, it is kept in memory alone.
    pub async fn put(self: &Arc<Self>, digest: Digest, bytes: Bytes) -> Result<(), NoRoom> {
        let reservation = self.reserve(bytes.len() as u64).await;
        self.blocking(move |cache| cache.store_whole(digest, bytes, reservation)).await?
    }

    /// As [`Cache::put`], of what came through `upstream`, whosever that is by now. Where that cannot be written down it is not
    /// kept at all.
    pub async fn put_from(self: &Arc<Self>, upstream: UpstreamName, digest: Digest, bytes: Bytes) -> Result<(), NoRoom> {
        self.put_for(upstream, 0, digest, bytes).await
    }

    /// As [`Cache::put_from`], of what came from a repository: within its quota.
    pub async fn put_of(self: &Arc<Self>, scope: &Scope, digest: Digest, bytes: Bytes) -> Result<(), NoRoom> {
        self.put_for(scope.upstream.clone(), self.class(scope), digest, bytes).await
    }

    async fn put_for(self: &Arc<Self>, upstream: UpstreamName, class: Class, digest: Digest, bytes: Bytes) -> Result<(), NoRoom> {
        let reservation = self.reserve_for(bytes.len() as u64, class).await;
        let stored = self.blocking(move |cache| {
            let _steady = cache.confine_for_good(&digest, &upstream, Came::Sent)?;
            cache.store_whole(digest, bytes, reservation)
        });
        stored.await?
    }

    fn store_whole(&self, digest: Digest, bytes: Bytes, reservation: Result<Reservation, NoRoom>) -> Result<(), NoRoom> {
        self.memory.insert(digest, bytes.clone());
        let reservation = reservation?;
        let mut ingest = self.store.ingest_whole(&digest)?;
        if let Err(error) = ingest.append(&[bytes]) {
            self.discard(&digest, Some(ingest), reservation);
            return Err(error.into());
        }
        let verified = ingest.verify().map_err(io::Error::other)?;
        Ok(self.publish(verified, reservation)?)
    }
}
