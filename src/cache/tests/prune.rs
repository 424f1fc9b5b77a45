//! Records of what is gone do not stay for ever.

use std::path::Path;
use std::time::Duration;

use super::upkeep::{config, publish, scope, start};
use super::*;
use crate::oci::{Platforms, Tag};

async fn tag(cache: &Arc<Cache>, repository: &str, tag: &str, digest: Digest, imported: bool) {
    let record = TagRecord { digest, checked_at: cache.clock().now(), imported };
    cache.set_tag(&scope(repository), &tag.parse().unwrap(), record).await.unwrap();
}

async fn names(cache: &Arc<Cache>, repository: &str) -> Vec<String> {
    let tags = cache.tags(&scope(repository)).await;
    for tag in &tags {
        assert!(cache.catalog.resolve(&scope(repository), &tag.clone().into()).is_some(), "{tag} is in the catalog, too");
    }
    tags.iter().map(Tag::to_string).collect()
}

fn files(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| if path.is_dir() { 1 + files(&path) } else { 1 }).sum()
}

/// Of many tags whose images were evicted nothing stays, on disk or in memory; what is pinned or was imported does.
#[tokio::test]
async fn tags_go_when_their_manifests_have_gone() {
    let dir = tempfile::tempdir().unwrap();
    let cache = start(&config(dir.path(), 12_000, Vec::new()));
    let (kept, carried) = (publish(&cache, "team/kept", 250).await.0, publish(&cache, "team/kept", 251).await.0);
    tag(&cache, "team/kept", "pinned", kept, false).await;
    tag(&cache, "team/kept", "imported", carried, true).await;
    cache.pin(vec![scope("team/kept").image("pinned".parse::<Tag>().unwrap())], &Platforms::default(), Timestamp(0)).unwrap();
    for n in 0..100 {
        let repository = format!("ci/job{}", n % 20);
        let (manifest, _) = publish(&cache, &repository, n).await;
        tag(&cache, &repository, &format!("sha-{n}"), manifest, false).await;
    }
    cache.keep_house().await;
    let here = |record: &TagRecord| cache.known(&record.digest).is_some_and(|known| known.present);
    let left = cache.catalog.tags(None, 1000);
    let useless: Vec<_> = left.iter().filter(|tagged| !here(&tagged.record)).map(|tagged| tagged.tag.to_string()).collect();
    assert_eq!(useless, ["imported"]);
    // Each has its tag, its manifest's record and three folders at most.
    assert!(left.len() < 20 && files(&dir.path().join("repos")) < 10 + 5 * left.len(), "{} of {left:?}", files(dir.path()));
    assert_eq!(names(&cache, "team/kept").await, ["imported", "pinned"]);

    // As an operator asks for it: what is told is what is done.
    let manifests: Vec<Digest> = left.iter().map(|tagged| tagged.record.digest).filter(|digest| *digest != kept).collect();
    for manifest in &manifests {
        cache.index.expel(manifest).into_iter().for_each(|victim| drop(cache.unlink(victim)));
        cache.memory.forget(manifest);
    }
    let told = cache.collect(0, true).await.unwrap();
    assert_eq!(told.records as usize, 2 * (left.len() - 2), "{left:?}");
    assert_eq!(cache.collect(0, false).await.unwrap().records, told.records);
    assert_eq!(cache.collect(0, false).await.unwrap().records, 0);
    assert_eq!(std::fs::read_dir(dir.path().join("repos/docker.io")).unwrap().count(), 1, "team alone");
    assert_eq!(cache.catalog.totals().tags, 2);
}

/// What an earlier process has left goes, too; a manifest that is on its way is not gone, and one in memory alone is served by
/// its tag although nothing is written down of that.
#[tokio::test(start_paused = true)]
async fn tags_wait_for_manifests_that_may_be_on_their_way() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path(), 1 << 20, Vec::new());
    let cache = start(&config);
    let digest = |n: u8| Digest::of(Algorithm::Sha256, &[n]);
    tag(&cache, "team/old", "left", digest(1), false).await;
    drop(cache);
    let cache = start(&config);
    cache.memory.insert(digest(2), Bytes::from_static(&[2]));
    tag(&cache, "team/new", "memory", digest(2), false).await;
    tag(&cache, "team/new", "coming", digest(3), false).await;
    let here = async || {
        cache.keep_house().await;
        (names(&cache, "team/old").await, names(&cache, "team/new").await)
    };
    assert_eq!(here().await, (vec!["left".into()], vec!["coming".into(), "memory".into()]));
    cache.put(digest(3), Bytes::from_static(&[3])).await.unwrap();
    for _ in 0..2 {
        tokio::time::advance(Duration::from_secs(121)).await;
        assert_eq!(here().await, (vec![], vec!["coming".into()]));
    }
    let known = cache.tag(&scope("team/new"), &"memory".parse().unwrap()).await.unwrap();
    assert!(cache.get(&known.digest).await.is_some());
    tag(&cache, "team/new", "memory", digest(2), false).await;
    assert_eq!(here().await.1, ["coming", "memory"]);
    tokio::time::advance(Duration::from_secs(121)).await;
    assert_eq!(here().await.1, ["coming"]);
}

/// A tag that is confirmed while what it stood for is pruned has what was confirmed, in memory and on disk.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tag_that_is_confirmed_meanwhile_stays() {
    let dir = tempfile::tempdir().unwrap();
    let cache = start(&config(dir.path(), 1 << 30, Vec::new()));
    for round in 0..100 {
        let (manifest, _) = publish(&cache, "team/app", 1).await;
        tag(&cache, "team/app", "latest", manifest, false).await;
        cache.index.expel(&manifest).into_iter().for_each(|victim| drop(cache.unlink(victim)));
        cache.memory.forget(&manifest);
        let (pruning, confirming) = (cache.clone(), cache.clone());
        let pruning = tokio::spawn(async move { pruning.prune_records().await });
        let confirming = tokio::spawn(async move {
            let (manifest, _) = publish(&confirming, "team/app", 1 + round % 2).await;
            let record = TagRecord { digest: manifest, checked_at: confirming.clock().now(), imported: false };
            let now = confirming.clock().now();
            confirming.confirm_tag(&scope("team/app"), &"latest".parse().unwrap(), record.clone(), now).await;
            record
        });
        pruning.await.unwrap();
        let record = confirming.await.unwrap();
        for _ in 0..2 {
            let known = cache.tag(&scope("team/app"), &"latest".parse().unwrap()).await;
            assert_eq!(known.as_deref(), Some(&record), "round {round}");
            cache.records.reread();
        }
        assert_eq!(names(&cache, "team/app").await, ["latest"]);
    }
    // After the look, and before its turn.
    let (manifest, _) = publish(&cache, "team/app", 3).await;
    tag(&cache, "team/app", "latest", manifest, false).await;
    cache.prune_tag(&scope("team/app"), &"latest".parse().unwrap()).await;
    assert_eq!(names(&cache, "team/app").await, ["latest"]);
}

/// A folder that goes because it is empty takes no record with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_is_written_while_its_folder_goes_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let cache = start(&config(dir.path(), 1 << 30, Vec::new()));
    let (name, record) = (scope("team/app"), ManifestRecord { media_type: MediaType::OCI_MANIFEST });
    let removing = cache.clone();
    let folders = std::thread::spawn(move || {
        for _ in 0..1000 {
            removing.records.remove_empty(&scope("team/app"));
            std::thread::sleep(Duration::from_micros(100));
        }
    });
    let digest = Digest::of(Algorithm::Sha256, b"");
    while !folders.is_finished() {
        cache.keep_manifest_record(&name, &digest, &record).await.unwrap();
        let path = cache.records.manifest_path(&name, &digest);
        std::fs::remove_file(path).unwrap();
    }
}
