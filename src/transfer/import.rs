//! From a bundle into a cache.
//!
//! One pass over the archive: each blob is hashed while it is written, and published once its digest has matched
//! (I1) and it is written down whose it is ([`custody`]); manifests wait in an unlinked file until everything they need is
//! there. Then those are stored, children before parents, and when all of it is there the tags are set. A bundle that turns
//! out to be bad leaves nothing behind: what was published for it is taken back, but for what others rely on by then. Memory holds a digest per blob, never content. Blocks, but for
//! [`import`], which hops to the blocking pool.

mod archive;
mod custody;
mod docker;
mod images;
mod named;
mod staged;
mod turn;
mod walk;
mod writers;

use std::io;
use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;

use super::sign::{SignError, Verifier};
use super::tar::{Input, TarError};
use crate::cache::{Cache, NoRoom};
use crate::oci::{Digest, ImageRef, Platforms, UpstreamName};
pub use turn::{Imports, Turn};

/// What may be imported.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Only bundles signed with this key.
    pub verifier: Option<Verifier>,
    /// Platforms that every image must have.
    pub platforms: Platforms,
    /// The name of an image that has none, or only a tag.
    pub name: Option<ImageRef>,
    /// Upstreams whose images can be served; `None`: any.
    pub upstreams: Option<Vec<UpstreamName>>,
}

/// Why nothing was imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The archive is damaged, truncated or hostile.
    #[error(transparent)]
    Tar(#[from] TarError),
    /// It is not signed, or wrongly.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// It does not fit, with what it builds on and what is pinned; or the disk failed.
    #[error("{}", told(.0))]
    NoRoom(#[from] NoRoom),
    /// The archive holds something that no bundle holds, or lacks something.
    #[error("{0}")]
    Bad(String),
    /// The cache's disk, or the way to the bundle, failed.
    #[error("cannot import: {0}")]
    Io(#[from] io::Error),
    /// Before its first tag was set.
    #[error("the mirror stops; none of the bundle's images is here: import it again, which goes on from there")]
    Stopping,
    /// Everything was taken in, and the cache's disk failed when the tags were written down.
    #[error(
        "everything in it was taken in, but the cache's disk failed where names are written down: {source}. These are \
         forgotten when the mirror ends, {names}; import it again"
    )]
    Unwritten {
        /// Images and lists of referrers.
        names: String,
        /// Of the first one.
        source: io::Error,
    },
}

/// What there is no room for, and what to do.
fn told(error: &NoRoom) -> String {
    match error {
        NoRoom::Full { wanted, kept, .. } => format!(
            "it does not fit into the cache, and nothing of it is kept: {error}. What it brings, what its images have here, what \
             is pinned and what is being downloaded takes at least {} bytes: set cache.max_size to more than that, and see that the disk has it",
            wanted + kept
        ),
        NoRoom::Disk(_) | NoRoom::Panicked(_) => error.to_string(),
    }
}

impl ImportError {
    /// Whether the bundle is at fault. If not, what has been published stays, and the next attempt goes on from there.
    fn blames_bundle(&self) -> bool {
        match self {
            // A connection that breaks and a file that ends look the same to the reader of a tar.
            Self::Tar(TarError::Io(error)) => {
                error.kind() == io::ErrorKind::InvalidData || error.kind() == io::ErrorKind::UnexpectedEof
            }
            Self::Io(_) | Self::NoRoom(NoRoom::Disk(_) | NoRoom::Panicked(_)) | Self::Stopping | Self::Unwritten { .. } => false,
            _ => true,
        }
    }
}

/// What was imported.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The images, by full name.
    pub images: Vec<Imported>,
    /// Blobs and manifests that are new in the cache.
    pub new_blobs: usize,
    /// Their bytes.
    pub new_bytes: u64,
    /// Blobs that were in the cache already.
    pub known_blobs: usize,
    /// Lists of referrers (signatures, attestations) that were taken in.
    pub referrers: usize,
    /// How long it took, in milliseconds.
    pub milliseconds: u64,
}

/// One image of a [`Report`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Imported {
    /// Its full name.
    pub image: String,
    /// What it is now.
    pub digest: Digest,
    /// The platforms that are here, as far as it says.
    pub platforms: String,
    /// It was this already.
    pub unchanged: bool,
}

/// Imports one bundle: all of it, or nothing. Not cancel-safe: dropped half-way, it leaves some of the tags set. Who may go
/// before its end awaits it in a task of its own, and whoever stops waits for its `turn`.
pub async fn import(cache: Arc<Cache>, input: Box<dyn Input>, options: Options, turn: &Turn) -> Result<Report, ImportError> {
    cache.until_scanned().await?;
    let (started, private) = (Instant::now(), cache.confined.private());
    let this = cache.clone();
    let taken = spawn_blocking(move || {
        let (staged, taken) = archive::take_in(&this, input, &options);
        let plan = taken.and_then(|bundle| images::plan(&this, &staged, &bundle, &options));
        (Arc::new(staged), plan)
    });
    let (staged, plan) = taken.await.map_err(io::Error::other)?;
    let outcome = match plan {
        Ok(plan) => {
            let plan = Arc::new(plan);
            images::publish(&cache, &staged, plan.clone(), &private, turn).await.map(|report| (report, plan))
        }
        Err(error) => Err(error),
    };
    let published = staged.published();
    match outcome {
        Ok((mut report, plan)) => {
            // What no image needs has no business in the cache.
            let stray: Vec<Digest> = published.into_iter().filter(|digest| !plan.kept.contains(digest)).collect();
            take_back(&cache, stray).await;
            report.milliseconds = started.elapsed().as_millis() as u64;
            cache.flush().await;
            Ok(report)
        }
        Err(error) => {
            if error.blames_bundle() {
                take_back(&cache, published).await;
            }
            Err(error)
        }
    }
}

/// Takes back what has no business in the cache, unless others rely on it. Before the catalog is complete that is not known;
/// where that takes too long, eviction has to do.
async fn take_back(cache: &Arc<Cache>, digests: Vec<Digest>) {
    if digests.is_empty() || cache.surveyed_soon().await.is_err() {
        return;
    }
    let this = cache.clone();
    let _ = spawn_blocking(move || this.take_back(&digests)).await;
}

#[cfg(test)]
mod tests;
