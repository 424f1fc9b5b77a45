//! What a pull path is, as far as it can be seen without an upstream.

use std::collections::BTreeMap;

use http::HeaderMap;

use super::*;
use crate::config::Config;
use crate::oci::{Algorithm, Reference};
use crate::policy::{Caller, Peer, Policy};

/// The future of an answer is moved several times before it is polled, whatever it becomes: what only a miss needs is boxed.
#[tokio::test]
async fn the_future_of_an_answer_is_small() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = Config::default();
    config.cache.dir = folder.path().to_owned();
    let metrics = Arc::new(Metrics::new());
    let cache = Cache::open(&config.cache, metrics.clone()).unwrap();
    let fills = Fills::new(cache.clone(), config.fill.clone(), metrics.clone());
    let pull = Pull::new(BTreeMap::new(), cache, fills, metrics);
    let headers = HeaderMap::new();
    let caller = Caller { peer: &Peer::new(None), headers: &headers };
    let (upstream, repository) = ("docker.io".parse().unwrap(), "library/alpine".parse().unwrap());
    let policy = Policy::new(&config, Arc::new(Metrics::new())).unwrap();
    let mut session = policy.look();
    let identity = session.identify(&caller, Some(&upstream)).await.unwrap();
    let permit = session.admit(&identity, &upstream, &repository).unwrap();
    let request = Request { head: false, headers: &headers, path: "/", namespace: None, needs_length: false, permit };
    let wanted = Wanted::Manifest(Reference::Digest(Digest::of(Algorithm::Sha256, b"")));
    let size = size_of_val(&pull.answer(&request, &wanted));
    assert!(size <= 2048, "{size} bytes");
}
