//! Lists of what refers to a manifest, as upstreams last gave them: the whole one in a file, the latest of those that a filter
//! has narrowed together in a second one.
//!
//! Nothing else bounds what these files take, and clients choose the filters, upstreams the lists. So a subject has these
//! two files and no more, each with at most [`LARGEST`] bytes of lists, only where its repository has the subject, with which they go. What is
//! larger, or about something that is not here, is in memory alone, whose size is bounded as a whole.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use moka::sync::Cache as Memory;
use serde::{Deserialize, Serialize};

use crate::cache::Cache;
use crate::clock::{Moment, Timestamp};
use crate::oci::{Algorithm, Digest, Scope};

/// Bytes of lists kept in memory.
const IN_MEMORY: u64 = 4 << 20;

/// Bytes of lists in one file. Real ones have a few thousand.
const LARGEST: usize = 256 << 10;

/// Narrowed lists of one subject that are written down: clients ask for one or two types, and always for the same ones.
const NARROWED: usize = 8;

/// The last answer to a referrers request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReferrersRecord<T = Moment> {
    /// The body, an OCI image index as text; as received unless it was synthesised.
    pub body: String,
    /// The `OCI-Filters-Applied` header.
    pub filters_applied: Option<String>,
    /// When the upstream said so.
    pub checked_at: T,
}

impl<T> ReferrersRecord<T> {
    fn timed<U>(self, time: impl FnOnce(T) -> U) -> ReferrersRecord<U> {
        let Self { body, filters_applied, checked_at } = self;
        ReferrersRecord { body, filters_applied, checked_at: time(checked_at) }
    }
}

impl ReferrersRecord {
    /// Whether the list has no entry.
    pub fn is_empty(&self) -> bool {
        !self.body.contains("\"digest\"")
    }
}

/// A list, by what it was narrowed to: the hash of that, since a client may write any text of any length.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Narrowed {
    filter: Digest,
    list: ReferrersRecord<Timestamp>,
}

/// The file of a subject's narrowed lists, the latest last.
#[derive(Debug, Default, Serialize, Deserialize)]
struct NarrowedLists {
    lists: Vec<Narrowed>,
}

impl NarrowedLists {
    /// Takes in the latest, for which the oldest ones go.
    fn push(&mut self, latest: Narrowed) {
        self.lists.retain(|known| known.filter != latest.filter);
        self.lists.push(latest);
        let (mut count, mut bytes) = (0, 0);
        let fits = |known: &&Narrowed| {
            (count, bytes) = (count + 1, bytes + known.list.body.len());
            count <= NARROWED && bytes <= LARGEST
        };
        let kept = self.lists.iter().rev().take_while(fits).count();
        self.lists.drain(..self.lists.len() - kept);
    }
}

/// A list in memory: the file of the whole one, and what it was narrowed to.
type Key = (PathBuf, Option<Digest>);

/// The lists in memory.
#[derive(Debug)]
pub(super) struct Lists(Memory<Key, Arc<ReferrersRecord>>);

impl Default for Lists {
    fn default() -> Self {
        let weigh = |(path, _): &Key, list: &Arc<ReferrersRecord>| {
            let fixed = size_of::<Key>() + size_of::<ReferrersRecord>();
            u32::try_from(path.as_os_str().len() + fixed + list.body.len()).unwrap_or(u32::MAX)
        };
        Self(Memory::builder().max_capacity(IN_MEMORY).weigher(weigh).build())
    }
}

impl Lists {
    #[cfg(test)]
    pub(super) fn forget(&self) {
        self.0.invalidate_all();
    }
}

impl Cache {
    /// The last referrers answer for a digest; `filter` is what was asked for, `None` for all.
    pub async fn referrers_record(
        self: &Arc<Self>,
        scope: &Scope,
        digest: &Digest,
        filter: Option<&str>,
    ) -> Option<ReferrersRecord> {
        let (whole, narrowed) = self.list_paths(scope, digest);
        let filter = filter.map(hashed);
        if let Some(list) = self.records.lists.0.get(&(whole.clone(), filter)) {
            return Some((*list).clone());
        }
        let found: ReferrersRecord<Timestamp> = match filter {
            None => self.read_record(whole).await?,
            Some(filter) => {
                let known: NarrowedLists = self.read_record(narrowed).await?;
                known.lists.into_iter().find(|known| known.filter == filter)?.list
            }
        };
        Some(found.timed(|date| self.clock().moment(date)))
    }

    /// Remembers a referrers answer; writes it down if it is worth its place on the disk. A narrowed list without an entry is
    /// not: there can be any number of those, and nobody needs one without the upstream.
    pub async fn set_referrers_record(
        self: &Arc<Self>,
        scope: &Scope,
        digest: &Digest,
        filter: Option<&str>,
        record: ReferrersRecord,
    ) {
        let (whole, narrowed) = self.list_paths(scope, digest);
        let (record, filter) = (Arc::new(record), filter.map(hashed));
        self.records.lists.0.insert((whole.clone(), filter), record.clone());
        let is_worth = record.body.len() <= LARGEST && (filter.is_none() || !record.is_empty());
        if !is_worth || !self.has_subject(scope, digest).await {
            return;
        }
        let list = (*record).clone().timed(|moment| self.clock().date(moment));
        // Of two answers at one time, one may be lost.
        match filter {
            None => drop(self.write_record(whole, &list, false).await),
            Some(filter) => {
                let mut known: NarrowedLists = self.read_record(narrowed.clone()).await.unwrap_or_default();
                known.push(Narrowed { filter, list });
                let _ = self.write_record(narrowed, &known, false).await;
            }
        }
    }

    /// As [`Cache::set_referrers_record`], of a whole list, for what nobody may ever say again: after an error the next
    /// process does not know it. However large: an operator brought it.
    pub async fn keep_referrers_record(
        self: &Arc<Self>,
        scope: &Scope,
        digest: &Digest,
        record: &ReferrersRecord,
    ) -> io::Result<()> {
        let (whole, _) = self.list_paths(scope, digest);
        self.records.lists.0.insert((whole.clone(), None), Arc::new(record.clone()));
        self.write_record(whole, &record.clone().timed(|moment| self.clock().date(moment)), true).await
    }

    /// The file of the whole list, and that of the narrowed ones.
    fn list_paths(&self, scope: &Scope, digest: &Digest) -> (PathBuf, PathBuf) {
        let path = |suffix| self.records.digest_path(scope, "_referrers", digest, suffix);
        (path(""), path("-narrowed"))
    }
}

fn hashed(filter: &str) -> Digest {
    Digest::of(Algorithm::Sha256, filter.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(filter: usize, bytes: usize) -> Narrowed {
        let list = ReferrersRecord { body: "x".repeat(bytes), filters_applied: None, checked_at: Timestamp(0) };
        Narrowed { filter: hashed(&filter.to_string()), list }
    }

    #[test]
    fn of_narrowed_lists_the_latest_are_kept_as_far_as_number_and_size_let_them() {
        let mut known = NarrowedLists::default();
        let filters = |known: &NarrowedLists| known.lists.iter().map(|known| known.filter).collect::<Vec<_>>();
        let of = |filters: &[usize]| filters.iter().map(|filter| hashed(&filter.to_string())).collect::<Vec<_>>();
        (0..20).for_each(|filter| known.push(list(filter, 10)));
        assert_eq!(filters(&known), of(&[12, 13, 14, 15, 16, 17, 18, 19]));
        known.push(list(13, 10));
        assert_eq!(filters(&known), of(&[12, 14, 15, 16, 17, 18, 19, 13]));
        known.push(list(20, LARGEST - 20));
        assert_eq!(filters(&known), of(&[19, 13, 20]));
        known.push(list(21, LARGEST));
        assert_eq!(filters(&known), of(&[21]));
    }
}
