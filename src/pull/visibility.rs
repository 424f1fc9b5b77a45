//! Who may see what the mirror has of an upstream that is not everybody's, and which repository holds what.
//!
//! Two questions, asked before anything cached is looked at or a running download is joined. May this caller read the
//! repository ([`verdicts`], for `visibility = "caller"`)? The upstream is asked by a question that the request implies,
//! signed in with the caller's own login, and its answer is kept for a while. And does the repository hold this digest
//! ([`holding`])? A digest alone opens nothing.
//!
//! An [`Asker`] goes with everything that is done for a caller, and is part of every key under which something is shared
//! or remembered that another caller may not know. Never keeps a login beyond the work that is done with it. Public
//! upstreams cost one look at a flag. Called by all of `pull`.

mod asker;
mod holding;
mod login;
mod patience;
mod verdicts;

#[cfg(test)]
mod tests;

use moka::sync::Cache as Memory;

use super::PullFlights;
use super::flight::Flights;
use super::what::What;
use crate::config;
use crate::oci::{Digest, Reference, Scope};
use asker::Secrecy;
pub(super) use asker::{Asker, Key};
use patience::Patience;
use verdicts::Verdict;

/// Verdicts remembered.
const VERDICTS: u64 = 100_000;

/// How many digests are remembered of which an upstream said that a repository has them.
const WORDS: u64 = 100_000;

/// Everything known of who may see what.
#[derive(Debug)]
pub(super) struct Visibility {
    secrecy: Secrecy,
    verdicts: Memory<Key, Verdict>,
    checks: PullFlights<Key, ()>,
    /// The upstream's word that a repository holds this manifest, or this blob. One is no word on the other: a blob can be made to
    /// look like a manifest, and then names what it likes.
    words: Memory<(Scope, What), ()>,
    /// What the catalog said of what a repository holds: looking through a large one takes a while.
    held: Memory<(Scope, What), ()>,
    questions: PullFlights<(Scope, What, Option<Key>), ()>,
    patience: Patience,
}

impl Visibility {
    /// Nothing is known. Called within the runtime on which the upstreams will be asked.
    pub fn new() -> Self {
        Self {
            secrecy: Secrecy::default(),
            verdicts: Memory::new(VERDICTS),
            checks: Flights::new(),
            words: Memory::new(WORDS),
            held: Memory::new(WORDS),
            questions: Flights::new(),
            patience: Patience::default(),
        }
    }

    /// Nobody has said anything.
    pub fn forget(&self) {
        self.verdicts.invalidate_all();
        self.words.invalidate_all();
        self.checks.renew();
        self.questions.renew();
    }

    /// The upstream said, whoever had asked, that a repository holds this manifest or blob.
    pub fn heard(&self, scope: &Scope, what: What) {
        self.words.insert((scope.clone(), what), ());
    }
}

/// Whether content of an upstream is for everybody who may pull from it.
pub(super) fn is_open(visibility: config::Visibility) -> bool {
    visibility == config::Visibility::Public
}

/// What the upstream is asked for, to learn whether a caller may have it.
#[derive(Clone, Debug)]
pub(super) enum Evidence {
    /// A manifest, by HEAD.
    Manifest(Reference),
    /// A blob, by the first byte of it: some registries refuse HEAD.
    Blob(Digest),
}

impl Evidence {
    /// The same, as errors and the memory of absences have it.
    fn what(&self) -> What {
        match self {
            Self::Manifest(Reference::Tag(tag)) => What::Tag(tag.clone()),
            Self::Manifest(Reference::Digest(digest)) => What::Manifest(*digest),
            Self::Blob(digest) => What::Blob(*digest),
        }
    }

    /// What it is evidence of, if the upstream names this digest.
    fn of(&self, digest: Digest) -> What {
        match self {
            Self::Manifest(_) => What::Manifest(digest),
            Self::Blob(_) => What::Blob(digest),
        }
    }
}
