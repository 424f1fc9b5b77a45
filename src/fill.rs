//! Fills: the downloads that bring blobs into the cache, each one shared by everybody who asks for its digest.
//!
//! A fill is begun or joined in the [`table`] (I3), runs in a task of its own ([`run`], I6) and is followed by
//! [`reader`]s through one cell, [`progress`]. A large blob comes in [`parts`], which are one fill all the same. A reader
//! can neither stop nor slow the task: where it waits only decides which part comes next. Nothing here knows of HTTP requests.
//! Called by `pull`; uses `cache` to reserve and publish, `upstream` to download.

mod abandon;
pub mod extents;
mod part;
mod parts;
mod plan;
pub mod progress;
mod rate;
pub mod reader;
mod run;
pub mod table;
mod whole;
mod writer;

use std::any::Any;
use std::io;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::cache::pages::OpenFile;
use crate::cache::store::Mismatch;
use crate::cache::{NoRoom, Panicked};
use crate::oci::{Digest, Repository};
use crate::upstream::{Class, Giver, Upstream, UpstreamError};
use progress::Progress;

pub use reader::FillReader;
pub use table::{Fills, Join};

/// Where a blob can be had.
#[derive(Clone, Debug)]
pub struct Source {
    /// The registry.
    pub upstream: Arc<Upstream>,
    /// A repository that holds it.
    pub repository: Repository,
    /// Its size in bytes, where a manifest told it.
    pub size: Option<u64>,
}

impl Source {
    /// Whether it is the same repository of the same upstream, asked by the same login.
    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.upstream, &other.upstream) && self.repository == other.repository
    }
}

/// One download. Shared by its task and its readers.
#[derive(Debug)]
pub struct Fill {
    digest: Digest,
    /// As named by whoever began it.
    source: Source,
    progress: Progress<FillError>,
    /// Set before the progress says that it streams.
    file: OnceLock<Arc<OpenFile>>,
    /// The addresses that have sent bytes of it.
    givers: Mutex<Vec<Giver>>,
    /// Turns true when its task has ended: what came is in the cache by then, or will never be.
    over: watch::Sender<bool>,
    /// Dropped when it ends, for whoever began it.
    kept: Mutex<Option<Box<dyn Any + Send>>>,
}

impl Fill {
    /// Whether its upstream has sent anything of it, and so has said that it has it.
    fn is_given(&self) -> bool {
        !self.givers.lock().is_empty()
    }

    fn add_giver(&self, giver: Giver) {
        let mut givers = self.givers.lock();
        if !givers.contains(&giver) {
            givers.push(giver);
        }
    }

    /// The bytes are wrong: the next fill shall ask others for them first, where there are others.
    fn was_misled(&self) {
        self.givers.lock().iter().for_each(Giver::misled);
    }

    /// The bytes are right, all of them.
    fn was_not_misled(&self) {
        self.givers.lock().iter().for_each(Giver::was_right);
    }
}

/// Why a fill ended without its blob. Cloned to all its readers.
#[derive(Clone, Debug, thiserror::Error)]
pub enum FillError {
    /// The upstream failed, and resuming did not help.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// The upstream sent other bytes than were asked for.
    #[error("upstream {upstream} sent the wrong content for {}/{}: {mismatch}", .upstream, .repository)]
    Mismatch {
        /// Which upstream.
        upstream: crate::oci::UpstreamName,
        /// From which repository.
        repository: Repository,
        /// What was wanted and what came.
        mismatch: Box<Mismatch>,
    },
    /// The whole is wrong, and began with what an earlier fill had left: that is blamed, not the upstream. It is removed,
    /// so that whoever asks again begins anew.
    #[error("the content is wrong; it began with what an earlier download had left, which is discarded now: {0}")]
    Leftover(Box<Mismatch>),
    /// The upstream sent more or fewer bytes than it, or the manifest, had said.
    #[error("upstream {upstream} sent {got} bytes of {digest}, {expected} were announced")]
    Length {
        /// Which upstream.
        upstream: crate::oci::UpstreamName,
        /// Of which blob.
        digest: Digest,
        /// Bytes announced.
        expected: u64,
        /// Bytes that came.
        got: u64,
    },
    /// The disk tier cannot take the blob: it can only be passed through.
    #[error(transparent)]
    NoRoom(NoRoom),
    /// Nobody read it any more, and `fill.abandoned` says to stop then.
    #[error("the download was stopped because nobody read it any more")]
    Abandoned,
    /// The mirror is stopping.
    #[error("the mirror is shutting down")]
    Stopping,
    /// A task of it panicked. Logged where it happened.
    #[error("the mirror failed at this download")]
    Internal,
}

impl From<io::Error> for FillError {
    fn from(error: io::Error) -> Self {
        NoRoom::from(error).into()
    }
}

impl From<NoRoom> for FillError {
    fn from(error: NoRoom) -> Self {
        match error {
            NoRoom::Panicked(panicked) => panicked.into(),
            NoRoom::Full { .. } | NoRoom::Disk(_) => Self::NoRoom(error),
        }
    }
}

impl From<Panicked> for FillError {
    fn from(_: Panicked) -> Self {
        Self::Internal
    }
}

impl FillError {
    /// The label of `roadstead_fill_failures_total`.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Upstream(error) => match error.class() {
                Class::NotFound => "not_found",
                Class::Offline => "offline",
                Class::Denied => "denied",
                Class::RateLimited { .. } => "rate_limited",
                Class::Unavailable => "unavailable",
                Class::Broken => "broken",
                Class::Invalid | Class::Refused => "invalid",
            },
            Self::Mismatch { .. } => "digest",
            Self::Leftover(_) => "leftover",
            Self::Length { .. } => "length",
            Self::NoRoom(_) => "no_room",
            Self::Abandoned => "abandoned",
            Self::Stopping => "stopping",
            Self::Internal => "internal",
        }
    }

    /// Whether something is wrong with the upstream, on the way, or here. It is no fault that the upstream has no such
    /// blob, or that nobody wants it any more, or an operator does not.
    pub fn is_fault(&self) -> bool {
        match self {
            Self::Upstream(error) => !matches!(error.class(), Class::NotFound | Class::Offline),
            Self::Mismatch { .. } | Self::Length { .. } | Self::NoRoom(_) | Self::Leftover(_) | Self::Internal => true,
            Self::Abandoned | Self::Stopping => false,
        }
    }

    /// Whether what is here already may be no part of the blob: the upstream has no more bytes than that, or does not
    /// understand a question for more.
    fn is_misfit(&self) -> bool {
        match self {
            Self::Length { .. } => true,
            Self::Upstream(error) => error.class() == Class::Invalid,
            _ => false,
        }
    }

    /// Whether another repository or upstream may have the blob all the same.
    fn blames_source(&self) -> bool {
        match self {
            Self::Upstream(_) | Self::Mismatch { .. } | Self::Length { .. } => true,
            Self::NoRoom(_) | Self::Leftover(_) | Self::Abandoned | Self::Stopping | Self::Internal => false,
        }
    }
}

#[cfg(test)]
mod tests;
