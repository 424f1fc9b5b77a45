//! The use case: one pull, from a permitted request to the answer's head and body.
//!
//! Resolves a tag ([`resolve`]), looks into the cache, joins or begins what is missing ([`manifest`], [`blob`]), and
//! responds ([`respond`], [`body`]). Owns what is known for a moment only: flights, absences, sizes. Knows nothing of
//! sockets; called by `server` with a [`Permit`], which is the only way in.

mod blob;
pub mod body;
mod cache_status;
mod error;
mod fetch;
mod flight;
mod listing;
mod manifest;
mod negative;
mod plan;
mod refetch;
mod relay;
mod resolve;
pub mod respond;
mod visibility;
pub mod wanted;
mod what;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::HeaderMap;
use moka::sync::Cache as Memory;

use crate::cache::Cache;
use crate::clock::Clock;
use crate::config::{self, Freshness};
use crate::fill::Fills;
use crate::metrics::Metrics;
use crate::oci::{Digest, Scope, Tag, UpstreamName, Wanted};
use crate::policy::Permit;
use crate::upstream::Upstream;
use flight::Flights;
use listing::{ReferrersKey, TagsKey};
use negative::Negative;
use resolve::Confirmed;
use visibility::{Key, Visibility};
use wanted::WantedList;

pub use error::PullError;
pub use plan::{Course, Forecast};
pub use respond::Answer;

/// Flights that bring something to all who wait for it, or why a pull fails.
type PullFlights<K, V> = Arc<Flights<K, Result<V, PullError>>>;

/// Blob sizes that manifests told.
const SIZES: u64 = 100_000;

/// An upstream and what the operator wants of it.
#[derive(Debug)]
pub struct Site {
    /// The registry.
    pub upstream: Arc<Upstream>,
    /// How long its tags are believed.
    pub freshness: Freshness,
    /// Who may see what is cached of it.
    pub visibility: config::Visibility,
    /// How long its word on a caller is believed.
    pub verdict_for: Duration,
}

/// The upstreams of a mirror.
pub type Sites = BTreeMap<UpstreamName, Arc<Site>>;

/// Everything a pull needs. One a mirror, shared by `Arc`.
#[derive(Debug)]
pub struct Pull {
    sites: ArcSwap<Sites>,
    cache: Arc<Cache>,
    fills: Arc<Fills>,
    metrics: Arc<Metrics>,
    clock: Clock,
    revalidations: PullFlights<(Scope, Tag, Option<Key>), Confirmed>,
    manifests: Arc<Flights<Digest, manifest::Flown>>,
    probes: PullFlights<(Scope, Digest, Option<Key>), Option<u64>>,
    tag_lists: PullFlights<TagsKey, listing::Page>,
    referrers: PullFlights<ReferrersKey, listing::Page>,
    negative: Negative,
    /// Who may see what.
    visibility: Visibility,
    /// What manifests say of their blobs, for upstreams that send them without a length.
    /// Of one repository each: a manifest that lies spoils nobody else's blobs.
    sizes: Memory<(Scope, Digest), u64>,
    /// What clients asked for in vain.
    wanted: WantedList,
}

/// One request for content, parsed and permitted.
#[derive(Debug)]
pub struct Request<'a> {
    /// HEAD rather than GET.
    pub head: bool,
    /// The client's headers; only the conditional ones and Range are looked at.
    pub headers: &'a HeaderMap,
    /// The path as the client wrote it, for links to further pages.
    pub path: &'a str,
    /// The `ns` parameter, to be confirmed.
    pub namespace: Option<&'a str>,
    /// The client speaks HTTP/1.0: only by a length can it tell a whole body from one that broke off (I4).
    pub needs_length: bool,
    /// Who may pull what.
    pub permit: Permit,
}

impl Pull {
    /// A pull path over `cache` and `fills`. `wanted`: what clients asked for in vain so far.
    pub fn new(sites: Sites, cache: Arc<Cache>, fills: Arc<Fills>, metrics: Arc<Metrics>, wanted: WantedList) -> Arc<Self> {
        Arc::new(Self {
            sites: ArcSwap::from_pointee(sites),
            clock: cache.clock().clone(),
            cache,
            fills,
            metrics,
            revalidations: Flights::new(),
            manifests: Flights::new(),
            probes: Flights::new(),
            tag_lists: Flights::new(),
            referrers: Flights::new(),
            negative: Negative::new(),
            visibility: Visibility::new(),
            sizes: Memory::new(SIZES),
            wanted,
        })
    }

    /// Answers a request. Never fails: an error is an answer, too. Cancel-safe: what it has begun for others goes on.
    pub async fn answer(self: &Arc<Self>, request: &Request<'_>, wanted: &Wanted) -> Answer {
        let kind = wanted.kind();
        let asker = match self.asker_for(request, wanted).await {
            Ok(asker) => asker,
            Err(error) => return request.failure(kind, error),
        };
        let answer = match wanted {
            Wanted::Manifest(reference) => self.manifest(request, &asker, reference).await,
            Wanted::Blob(digest) => self.blob(request, &asker, digest).await,
            // Boxed, so that the future of a cached answer, which is moved about, does not carry theirs.
            Wanted::Tags(page) => Box::pin(self.tags(request, &asker, page)).await,
            Wanted::Referrers(digest, query) => Box::pin(self.referrers(request, &asker, digest, query)).await,
        };
        answer.unwrap_or_else(|error| {
            if error.is_denied() {
                self.forget_verdict(&asker);
            }
            if let Wanted::Manifest(reference) = wanted
                && error.is_unanswered()
            {
                self.wanted.note(request.permit.scope(), reference);
            }
            request.failure(kind, error)
        })
    }

    /// Blocks. Writes down what clients asked for in vain, for `roadstead wanted`.
    pub fn save_wanted(&self) {
        self.wanted.save(self.cache.store());
    }

    /// Takes other upstreams from the next request on. What has begun with those of before ends with them. `anew`: some are
    /// asked elsewhere or otherwise; so who comes now waits for no answer of theirs, downloads apart, and what they said that
    /// they have not is not believed any more.
    pub fn replace_sites(&self, sites: Sites, anew: bool) {
        self.sites.store(Arc::new(sites));
        if !anew {
            return;
        }
        self.revalidations.renew();
        self.manifests.renew();
        self.probes.renew();
        self.tag_lists.renew();
        self.referrers.renew();
        self.negative.forget();
        self.visibility.forget();
    }

    /// What a permit is for is there, unless it was taken out of the configuration a moment ago.
    fn site(&self, scope: &Scope) -> Result<Arc<Site>, PullError> {
        self.site_of(&scope.upstream).ok_or_else(|| PullError::Removed(scope.clone()))
    }

    fn site_of(&self, upstream: &UpstreamName) -> Option<Arc<Site>> {
        self.sites.load().get(upstream).cloned()
    }
}

#[cfg(test)]
mod tests;
