//! What manifests name is kept in memory: so that is bounded, whoever wrote them.

use super::upkeep::{config, scope, start};
use super::*;
use crate::clock::Timestamp;
use crate::oci::Platforms;

/// Publishes a manifest that names `count` layers which are not here, as a pull does.
async fn publish(cache: &Arc<Cache>, seed: u32, count: usize) -> Digest {
    let layer = |n: usize| format!(r#"{{"digest":"sha256:{seed:08x}{n:056x}","size":1}}"#);
    let layers: Vec<String> = (1..count).map(layer).collect();
    let kind = MediaType::OCI_MANIFEST;
    let text = format!(r#"{{"schemaVersion":2,"mediaType":"{kind}","config":{},"layers":[{}]}}"#, layer(0), layers.join(","));
    let manifest = Digest::of(Algorithm::Sha256, text.as_bytes());
    cache.note_parts(&manifest, &Manifest::parse(text.as_bytes(), None).unwrap());
    cache.put(manifest, text.into()).await.unwrap();
    cache.set_manifest_record(&scope("team/app"), &manifest, &ManifestRecord { media_type: kind }).await;
    manifest
}

fn is_here(cache: &Cache, digest: &Digest) -> bool {
    cache.known(digest).is_some_and(|known| known.present)
}

fn evictions(cache: &Cache) -> u64 {
    cache.metrics.evictions_total.with_label_values(&["space"]).get()
}

#[tokio::test]
async fn i7_of_manifests_that_name_too_much_the_largest_go_first_and_what_is_pinned_or_held_stays() {
    let dir = tempfile::tempdir().unwrap();
    let cache = start(&config(dir.path(), 1 << 30, Vec::new()));
    cache.catalog.limit_parts(2100);
    let hold = cache.hold();
    let ordinary = [publish(&cache, 1, 10).await, publish(&cache, 2, 10).await, publish(&cache, 3, 10).await];
    let (pinned, held) = (publish(&cache, 4, 600).await, publish(&cache, 5, 600).await);
    cache.pin(vec![scope("team/app").image(pinned)], &Platforms::default(), Timestamp(0)).unwrap();
    hold.add(&held);
    let old = publish(&cache, 6, 600).await;
    cache.thin_out();
    assert_eq!((cache.catalog.totals().parts, evictions(&cache)), (1830, 0), "as much as may be named");

    let new = publish(&cache, 7, 600).await;
    cache.thin_out();
    assert_eq!((cache.catalog.totals().parts, evictions(&cache)), (1830, 1));
    let all = [ordinary[0], ordinary[1], ordinary[2], pinned, held, old, new];
    assert_eq!(all.map(|digest| is_here(&cache, &digest)), [true, true, true, true, true, false, true]);
    assert!(!cache.records.manifest_path(&scope("team/app"), &old).exists());
    let parts_of_old = format!("sha256:00000006{:056x}", 1).parse().unwrap();
    assert!(cache.known(&parts_of_old).is_none(), "nothing is left of it in memory");

    // Where nothing else may go, more is kept; and the ordinary ones go before what is pinned.
    cache.catalog.limit_parts(1000);
    cache.thin_out();
    assert_eq!(all.map(|digest| is_here(&cache, &digest)), [false, false, false, true, true, false, false]);
    drop(hold);
    cache.thin_out();
    assert_eq!((is_here(&cache, &pinned), is_here(&cache, &held)), (true, false));
    // Gone is gone: what is pulled again is known again.
    assert_eq!(publish(&cache, 7, 600).await, new);
    assert_eq!(cache.catalog.parts(&new).unwrap().len(), 600);
    cache.prune_records().await;
    assert!(cache.catalog.is_manifest(&new) && cache.catalog.has_manifest(&scope("team/app"), &new));
}

/// Whoever notes the manifest that is too much need do nothing else.
#[tokio::test]
async fn i7_manifests_that_name_too_much_go_by_themselves_and_a_start_keeps_to_it() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path(), 1 << 30, Vec::new());
    let cache = Cache::open(&config, Arc::new(Metrics::new())).unwrap();
    cache.catalog.limit_parts(2000);
    let maintenance = tokio::spawn(cache.clone().maintain());
    cache.until_surveyed().await;
    for seed in 0..10 {
        publish(&cache, seed, 500).await;
    }
    let thin = async {
        while cache.catalog.is_crowded() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), thin).await.unwrap();
    assert!(evictions(&cache) >= 6);
    maintenance.abort();
    let _ = maintenance.await;
    drop(cache);

    let cache = Cache::open(&config, Arc::new(Metrics::new())).unwrap();
    cache.catalog.limit_parts(1000);
    scan::scan(&cache.store, &cache.index).unwrap();
    cache.survey();
    assert!(cache.catalog.totals().parts <= 1000);
}
