use super::*;

mod clock;
mod crowd;
mod damaged;
mod model;
mod prune;
mod purge;
mod trouble;
mod upkeep;

use crate::clock::{Moment, Timestamp};
use crate::config::Amount;
use crate::oci::Algorithm;
use crate::oci::Scope;
use records::{ManifestRecord, TagRecord};

fn open(dir: &std::path::Path, max_size: u64) -> Arc<Cache> {
    let config = config::Cache {
        dir: dir.into(),
        max_size: Amount::Bytes(max_size),
        min_free: Amount::Bytes(0),
        memory: 1 << 20,
        eviction: config::Eviction::Lru,
        ..config::Cache::default()
    };
    let cache = Cache::open(&config, Arc::new(Metrics::new())).unwrap();
    tokio::spawn(cache.clone().maintain());
    cache
}

/// An object too large for the memory tier.
fn large(n: u8) -> (Digest, Bytes) {
    let bytes = Bytes::from(vec![n; SMALL as usize + 1]);
    (Digest::of(Algorithm::Sha256, &bytes), bytes)
}

fn bytes(hit: &Hit) -> Bytes {
    match &hit.content {
        Content::Memory(bytes) => bytes.clone(),
        Content::File(file) => read::whole(file.file(), hit.size).unwrap(),
    }
}

#[tokio::test]
async fn both_tiers_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (big, big_bytes) = large(1);
    let small_bytes = Bytes::from_static(b"{}");
    let small = Digest::of(Algorithm::Sha512, &small_bytes);
    {
        let cache = open(dir.path(), 1 << 30);
        cache.put(big, big_bytes.clone()).await.unwrap();
        cache.put(small, small_bytes.clone()).await.unwrap();
        assert_eq!(cache.get(&small).await.unwrap().tier, Tier::Memory);
        // Releases the folder's lock once the maintenance task is gone with the runtime; here: by leaking nothing.
        assert_eq!(cache.index.totals(), (SMALL + 1 + 2, 2));
    }
    let again = tempfile::tempdir().unwrap();
    for name in ["blobs", "repos", "ingest"] {
        copy_tree(&dir.path().join(name), &again.path().join(name));
    }
    std::fs::copy(dir.path().join("VERSION"), again.path().join("VERSION")).unwrap();
    let cache = open(again.path(), 1 << 30);
    let hit = cache.get(&big).await.unwrap();
    assert_eq!((hit.tier, bytes(&hit)), (Tier::Disk, big_bytes));
    let hit = cache.get(&small).await.unwrap();
    assert_eq!((hit.tier, bytes(&hit)), (Tier::Disk, small_bytes));
    assert_eq!(cache.get(&small).await.unwrap().tier, Tier::Memory);
    cache.until_scanned().await.unwrap();
    assert_eq!(cache.index.totals(), (SMALL + 1 + 2, 2));
}

fn copy_tree(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[tokio::test]
async fn i8_the_oldest_make_room_and_the_tree_agrees() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path(), 3 * (SMALL + 1));
    let objects: Vec<_> = (0..4).map(large).collect();
    for (digest, bytes) in &objects[..3] {
        cache.put(*digest, bytes.clone()).await.unwrap();
    }
    cache.get(&objects[0].0).await.unwrap();
    cache.put(objects[3].0, objects[3].1.clone()).await.unwrap();
    cache.memory.forget(&objects[1].0);
    let mut held = Vec::new();
    for (digest, _) in &objects {
        held.push(cache.get(digest).await.is_some());
    }
    assert_eq!(held, [true, false, true, true]);
    assert_eq!(std::fs::read_dir(dir.path().join("blobs/sha256")).unwrap().count(), 3);
    let refused = cache.reserve(4 * SMALL).await.unwrap_err();
    assert!(matches!(refused, NoRoom::Full { .. }), "{refused}");
}

#[tokio::test]
async fn a_damaged_small_file_is_not_served() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path(), 1 << 30);
    let digest = Digest::of(Algorithm::Sha256, b"manifest");
    cache.put(digest, Bytes::from_static(b"manifest")).await.unwrap();
    cache.memory.forget(&digest);
    std::fs::write(dir.path().join("blobs/sha256").join(digest.hex()), b"MANIFEST").unwrap();
    assert!(cache.get(&digest).await.is_none());
    assert_eq!(cache.index.totals().1, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_checks_of_a_tag_the_one_that_asked_last_counts() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path(), 1 << 30);
    let scope = Scope { upstream: "docker.io".parse().unwrap(), repository: "library/alpine".parse().unwrap() };
    let record = |asked: u64| TagRecord {
        digest: Digest::of(Algorithm::Sha256, &asked.to_le_bytes()),
        checked_at: Moment(asked),
        imported: false,
    };
    for round in 0..20 {
        let tag: crate::oci::Tag = format!("v{round}").parse().unwrap();
        let mut checks = tokio::task::JoinSet::new();
        // 37 has no common factor with 40: every one of 0 to 39, in no order.
        for asked in (0..40).map(|number| number * 37 % 40) {
            let (cache, scope, tag, record) = (cache.clone(), scope.clone(), tag.clone(), record(asked));
            checks.spawn(async move { cache.confirm_tag(&scope, &tag, record, Moment(100)).await });
        }
        checks.join_all().await;
        assert_eq!(cache.tag(&scope, &tag).await.as_deref(), Some(&record(39)));
        cache.records.reread();
        assert_eq!(cache.tag(&scope, &tag).await.as_deref(), Some(&record(39)), "in the file, too");
    }
    // Who is told that there is no such tag, while others are told what it is: the file follows memory all the same.
    for round in 0..100 {
        let tag: crate::oci::Tag = format!("gone{round}").parse().unwrap();
        let mut checks = tokio::task::JoinSet::new();
        for asked in 0..8 {
            let (cache, scope, tag, record) = (cache.clone(), scope.clone(), tag.clone(), record(asked));
            checks.spawn(async move {
                match asked % 2 {
                    0 => cache.confirm_tag(&scope, &tag, record, Moment(100)).await,
                    _ => cache.remove_tag(&scope, &tag).await,
                }
            });
        }
        checks.join_all().await;
        let known = cache.tag(&scope, &tag).await;
        cache.records.reread();
        assert_eq!(cache.tag(&scope, &tag).await, known, "in the file, too");
    }
    // A record that is not in memory counts, and one of a wrong clock does not.
    let tag = "v0".parse().unwrap();
    cache.records.reread();
    cache.confirm_tag(&scope, &tag, record(38), Moment(100)).await;
    assert_eq!(cache.tag(&scope, &tag).await.as_deref(), Some(&record(39)));
    cache.confirm_tag(&scope, &tag, record(37), Moment(38)).await;
    assert_eq!(cache.tag(&scope, &tag).await.as_deref(), Some(&record(37)));
}

#[tokio::test]
async fn records_are_hints() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path(), 1 << 30);
    let scope = Scope { upstream: "docker.io".parse().unwrap(), repository: "library/alpine".parse().unwrap() };
    let (tag, other) = ("3.20".parse().unwrap(), "Latest".parse().unwrap());
    assert_eq!(cache.tag(&scope, &tag).await, None);
    let record = TagRecord { digest: Digest::of(Algorithm::Sha256, b""), checked_at: Moment(5), imported: false };
    cache.set_tag(&scope, &tag, record.clone()).await.unwrap();
    cache.set_tag(&scope, &other, record.clone()).await.unwrap();
    assert_eq!(cache.tag(&scope, &tag).await.as_deref(), Some(&record));
    assert_eq!(cache.tags(&scope).await, ["3.20".parse().unwrap(), other]);

    // What another process would read.
    cache.records.reread();
    assert_eq!(cache.tag(&scope, &tag).await.as_deref(), Some(&record));
    cache.records.reread();
    std::fs::write(cache.records.tag_path(&scope, &tag), [0; 64]).unwrap();
    assert_eq!(cache.tag(&scope, &tag).await, None, "a record of zeros is no record");
    cache.remove_tag(&scope, &tag).await;
    assert_eq!(cache.tag(&scope, &tag).await, None);

    let manifest = ManifestRecord { media_type: MediaType::OCI_MANIFEST };
    cache.set_manifest_record(&scope, &record.digest, &manifest).await;
    assert_eq!(cache.manifest_record(&scope, &record.digest).await, Some(manifest));
}
