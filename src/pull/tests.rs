//! What a pull path is, as far as it can be seen without an upstream.

use std::collections::BTreeMap;

use http::HeaderMap;

use super::*;
use crate::config::Config;
use crate::oci::{Algorithm, Reference};
use crate::policy::{Caller, Peer, Policy};

/// A mirror without an upstream.
fn pull(config: &Config) -> Arc<Pull> {
    let metrics = Arc::new(Metrics::new());
    let cache = Cache::open(&config.cache, metrics.clone()).unwrap();
    let fills = Fills::new(cache.clone(), config.fill.clone(), metrics.clone());
    let wanted = WantedList::load(cache.store(), cache.clock());
    Pull::new(BTreeMap::new(), cache, fills, metrics, wanted)
}

/// A layer that is asked for as a manifest, over and over, is read once. Not where a record gives it a type, by which it is one.
#[tokio::test]
async fn what_is_no_manifest_is_looked_into_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = Config::default();
    config.cache.dir = folder.path().to_owned();
    config.cache.min_free = config::Amount::Bytes(0);
    let pull = pull(&config);
    tokio::spawn(pull.cache.clone().maintain());
    let bytes = format!(r#"{{"name":"{}"}}"#, "x".repeat(1 << 20));
    let digest = Digest::of(Algorithm::Sha256, bytes.as_bytes());
    pull.cache.put(digest, bytes.into()).await.unwrap();
    let scope = |text: &str| Scope { upstream: "docker.io".parse().unwrap(), repository: text.parse().unwrap() };
    assert!(pull.held(&scope("library/a"), &digest).await.is_none() && pull.cache.is_no_manifest(&digest));
    assert!(pull.held(&scope("library/a"), &digest).await.is_none());
    let media_type = "application/vnd.example+json".parse().unwrap();
    pull.cache.set_manifest_record(&scope("library/b"), &digest, &crate::cache::records::ManifestRecord { media_type }).await;
    assert!(pull.held(&scope("library/b"), &digest).await.is_some());
}

/// The future of an answer is moved several times before it is polled, whatever it becomes: what only a miss needs is boxed.
#[tokio::test]
async fn the_future_of_an_answer_is_small() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = Config::default();
    config.cache.dir = folder.path().to_owned();
    let pull = pull(&config);
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
