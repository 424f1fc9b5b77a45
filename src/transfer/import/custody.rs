//! Whose the content of a bundle is: said before the content can be found, by anybody and under whatever repository.
//!
//! Manifests come after the blobs that they need, so a bundle's index has to do at first: where all its images are one
//! upstream's, or everybody's, nothing more need be known. Else, and where an archive does not begin with an index,
//! everything new is nobody's until all images have been looked through, and stays so if it never comes to that. Then what
//! an image of a public upstream needs is everybody's, also where it was a private one's: layers are shared, and a site that
//! can ask nobody has no other word than the bundle's. That it is true is for who exports it ([`super::super::export`]), and
//! for the key that bundles are signed with. The rest is the private upstream's, or
//! all of theirs whose images need it. Where an upstream becomes private while the bundle is read, what its index told does
//! not hold any more, and what follows is nobody's until then. Blocks.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::sync::Arc;

use super::archive::{Bundle, full};
use super::{ImportError, Options, named};
use crate::cache::Cache;
use crate::cache::index::Reservation;
use crate::cache::store::Verified;
use crate::oci::{Digest, UpstreamName};

/// What everything in a bundle is, as far as its index tells, and as long as no other upstreams are private than these.
#[derive(Clone, Debug)]
pub(super) struct Custody {
    whose: Whose,
    private: Arc<BTreeSet<UpstreamName>>,
}

#[derive(Clone, Debug)]
enum Whose {
    /// There is no image of a private upstream in it.
    Everybodys,
    /// Its images are all this upstream's, which is private.
    Of(UpstreamName),
    /// It is not known yet.
    Nobodys,
}

impl Custody {
    /// What holds for content that comes after what is known of `bundle`.
    pub fn of(cache: &Cache, bundle: &Bundle, options: &Options) -> Result<Self, ImportError> {
        let private = cache.confined.private();
        let names = match &bundle.index {
            Some(_) => Some(named::upstreams(bundle, options)?),
            None => None,
        };
        let is_guarded = names.as_ref().map_or(!private.is_empty(), |names| !names.is_disjoint(&private));
        let only = names.filter(|names| names.len() == 1).and_then(|mut names| names.pop_first());
        let whose = match (is_guarded, only) {
            (false, _) => Whose::Everybodys,
            (true, Some(name)) => Whose::Of(name),
            (true, None) => Whose::Nobodys,
        };
        Ok(Self { whose, private })
    }

    /// Gives verified content its name (I1), once it is written down whose it is.
    pub fn publish(&self, cache: &Cache, verified: Verified, reservation: Reservation) -> Result<(), ImportError> {
        let _steady = cache.confined.steady();
        let whose = if cache.confined.private() == self.private { &self.whose } else { &Whose::Nobodys };
        let confined = match whose {
            Whose::Everybodys => Ok(()),
            Whose::Of(upstream) => cache.confine_brought(verified.digest(), Some(upstream)),
            Whose::Nobodys => cache.confine_brought(verified.digest(), None),
        };
        if let Err(error) = confined {
            verified.discard();
            return Err(full(error));
        }
        cache.publish(verified, reservation).map_err(full)
    }
}

/// Everything that the images of a bundle need, and the private upstreams whose it is; `None`: it is everybody's.
#[derive(Debug, Default)]
pub(super) struct Kept(HashMap<Digest, Option<Vec<UpstreamName>>>);

impl Kept {
    /// An image needs this. `private`: its upstream, if it is not everybody's.
    pub fn insert(&mut self, digest: Digest, private: Option<&UpstreamName>) {
        let holders = self.0.entry(digest).or_insert_with(|| Some(Vec::new()));
        match (private, &mut *holders) {
            (Some(upstream), Some(known)) if !known.contains(upstream) => known.push(upstream.clone()),
            (Some(_), _) => {}
            (None, _) => *holders = None,
        }
    }

    /// Whether an image needs it.
    pub fn contains(&self, digest: &Digest) -> bool {
        self.0.contains_key(digest)
    }

    /// A private upstream whose it is, until [`Kept::settle`] says all of them; `None`: it is everybody's.
    pub fn holder(&self, digest: &Digest) -> Option<&UpstreamName> {
        self.0.get(digest)?.as_ref()?.first()
    }

    /// Says whose all of it is.
    pub fn settle(&self, cache: &Cache) -> io::Result<()> {
        if !cache.confined.is_active() {
            return Ok(());
        }
        self.0.iter().try_for_each(|(digest, holders)| cache.settle(digest, holders.as_deref()))
    }
}
