//! Files that are known to be bad and cannot be set apart, files that nobody knows, and names that change hands meanwhile.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::*;
use crate::cache::index::Place;
use crate::cache::store::FileId;
use crate::cache::verify::Verdict;

const EROFS: i32 = 30;
const EACCES: i32 = 13;
const EMFILE: i32 = 24;

/// A cache that has read its tree, without its maintenance.
fn idle(dir: &Path) -> Arc<Cache> {
    let config = config::Cache {
        dir: dir.into(),
        max_size: Amount::Bytes(1 << 30),
        min_free: Amount::Bytes(0),
        ..config::Cache::default()
    };
    let cache = Cache::open(&config, Arc::new(Metrics::new())).unwrap();
    scan::scan(&cache.store, &cache.index).unwrap();
    cache.scanned.send_replace(Scan::Complete);
    cache
}

fn path(dir: &Path, digest: &Digest) -> PathBuf {
    dir.join("blobs/sha256").join(digest.hex())
}

/// A bit that flips: neither length nor time tells.
fn flip(path: &Path) {
    let modified = fs::metadata(path).unwrap().modified().unwrap();
    let mut wrong = fs::read(path).unwrap();
    wrong[1000] ^= 1;
    fs::write(path, wrong).unwrap();
    fs::File::open(path).unwrap().set_modified(modified).unwrap();
}

/// A file that was found damaged, on a disk that lets it be neither moved nor removed: it is an object no more, for anybody,
/// and still counts. It goes when the disk is better, or the right bytes take its name.
#[tokio::test]
async fn i1_i5_what_cannot_be_set_apart_is_served_to_nobody() {
    for published in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let cache = idle(dir.path());
        let (digest, content) = large(1);
        cache.put(digest, content.clone()).await.unwrap();
        cache.memory.forget(&digest);
        let path = path(dir.path(), &digest);
        flip(&path);
        // Opened and read; then the file system has become read-only.
        cache.store.faults().arm(2, EROFS, true);
        assert_eq!(cache.check(&digest), Verdict::Damaged);
        cache.store.faults().disarm();
        assert!(path.exists());
        let nobody = async || {
            assert!(cache.get(&digest).await.is_none());
            assert!(cache.open_sound(&digest).is_none(), "nor is it a fill's to find");
            assert_eq!(cache.keeps(&digest), None, "nor an import's");
            assert!(!cache.known(&digest).is_some_and(|known| known.present));
            assert_eq!(cache.disk_totals(), (SMALL + 1, 0), "it counts");
        };
        nobody().await;
        cache.store.faults().arm(0, EROFS, true);
        cache.retry_condemned();
        cache.store.faults().disarm();
        nobody().await;
        assert_eq!(cache.metrics.cache_damaged_total.get(), 1);
        if published {
            cache.put(digest, content.clone()).await.unwrap();
            assert_eq!(cache.disk_totals(), (SMALL + 1, 1));
        } else {
            cache.keep_house().await;
            nobody().await;
            assert!(!path.exists());
            assert_eq!(fs::read_dir(dir.path().join("quarantine")).unwrap().count(), 1);
            cache.put(digest, content.clone()).await.unwrap();
        }
        cache.memory.forget(&digest);
        assert_eq!(bytes(&cache.get(&digest).await.unwrap()), content);
        assert!(!cache.index.is_condemned(&digest));
    }
}

/// A file that somebody has put there while the mirror runs: it is hashed before anybody gets it, once, and is an object from
/// then on; a wrong one is set apart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i1_what_the_index_does_not_know_is_hashed_first() {
    let dir = tempfile::tempdir().unwrap();
    let cache = idle(dir.path());
    let small = Bytes::from_static(b"{}");
    for (n, content) in [large(1).1, large(2).1, small].into_iter().enumerate() {
        let digest = Digest::of(Algorithm::Sha256, &content);
        fs::write(path(dir.path(), &digest), &content).unwrap();
        assert!(cache.open_sound(&digest).is_none(), "its name is not enough");
        match n {
            0 => assert_eq!(cache.keeps(&digest), Some(content.len() as u64)),
            _ => {
                let many: Vec<_> = (0..8).map(|_| (cache.clone(), digest)).collect();
                let many = many.into_iter().map(|(cache, digest)| tokio::spawn(async move { cache.get(&digest).await }));
                for hit in many.collect::<Vec<_>>() {
                    assert_eq!(bytes(&hit.await.unwrap().unwrap()), content);
                }
            }
        }
        assert!(cache.known(&digest).is_some_and(|known| known.present && known.size == content.len() as u64));
        assert!(cache.open_sound(&digest).is_some());
    }
    assert_eq!(cache.disk_totals(), (2 * (SMALL + 1) + 2, 3));
    for (n, asks) in ["get", "keeps"].into_iter().enumerate() {
        let (digest, content) = large(10 + n as u8);
        let path = path(dir.path(), &digest);
        fs::write(&path, content).unwrap();
        flip(&path);
        match asks {
            "get" => assert!(cache.get(&digest).await.is_none()),
            _ => assert_eq!(cache.keeps(&digest), None),
        }
        assert!(!path.exists() && !cache.index.contains(&digest));
    }
    assert_eq!(cache.metrics.cache_damaged_total.get(), 2);
    assert_eq!(fs::read_dir(dir.path().join("quarantine")).unwrap().count(), 2);
}

/// A leftover that was chosen to make room, and is asked for before it is unlinked, is the fill's.
#[tokio::test]
async fn i8_a_leftover_is_not_unlinked_under_the_fill_that_resumes_it() {
    let dir = tempfile::tempdir().unwrap();
    let cache = idle(dir.path());
    let (digest, content) = large(1);
    let (mut ingest, nothing) = cache.resume(&digest, 0).unwrap();
    ingest.append(&[content.slice(..1000)]).unwrap();
    cache.leave(&digest, Some(ingest), nothing);
    assert_eq!(cache.disk_totals().0, 1000);

    let victim = cache.index.spare().unwrap();
    assert_eq!((victim.place, cache.disk_totals().0), (Place::Ingest, 1000));
    let (mut ingest, mut reservation) = cache.resume(&digest, 0).unwrap();
    assert_eq!((ingest.len(), reservation.bytes()), (1000, 1000));
    assert!(!cache.evict(victim).unwrap());
    reservation.absorb(cache.make_room(content.len() as u64 - 1000, 0).unwrap());
    ingest.append(&[content.slice(1000..)]).unwrap();
    cache.publish(ingest.verify().unwrap(), reservation).unwrap();
    assert_eq!(cache.disk_totals(), (content.len() as u64, 1));

    // The other way round: what is unlinked already is begun anew.
    let (other, content) = large(2);
    let (mut ingest, nothing) = cache.resume(&other, 0).unwrap();
    ingest.append(&[content.slice(..1000)]).unwrap();
    cache.leave(&other, Some(ingest), nothing);
    let victim = cache.index.spare().unwrap();
    assert!(cache.evict(victim).unwrap());
    let (ingest, reservation) = cache.resume(&other, 0).unwrap();
    assert_eq!((ingest.len(), reservation.bytes()), (0, 0));
}

/// An object that was chosen to go, and is published anew before it is unlinked, stays.
#[tokio::test]
async fn what_is_published_anew_is_not_evicted_for_what_it_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let cache = idle(dir.path());
    let (digest, content) = large(1);
    cache.put(digest, content.clone()).await.unwrap();
    let victim = cache.index.expel(&digest).unwrap();
    cache.put(digest, content.clone()).await.unwrap();
    assert!(!cache.evict(victim).unwrap());
    assert_eq!(cache.disk_totals(), (SMALL + 1, 1));
    assert_eq!(bytes(&cache.get(&digest).await.unwrap()), content);
    assert_eq!(cache.metrics.evicted_bytes_total.get(), 0);

    // Who had found no file does not take the new one out of the index.
    let victim = cache.index.expel(&digest).unwrap();
    assert!(cache.evict(victim).unwrap());
    assert!(cache.store.open_file(&digest).unwrap().is_none());
    cache.put(digest, content).await.unwrap();
    cache.forget_absent(&digest);
    assert!(cache.index.contains(&digest));
}

/// Two have hashed one bad file: the slower one does not set apart the good one that has taken its name.
#[tokio::test]
async fn a_verdict_is_about_the_file_that_was_hashed() {
    let dir = tempfile::tempdir().unwrap();
    let cache = idle(dir.path());
    let (digest, content) = large(1);
    cache.put(digest, content.clone()).await.unwrap();
    flip(&path(dir.path(), &digest));
    let (slow, meta) = cache.store.open_file(&digest).unwrap().unwrap();
    assert_eq!(cache.check(&digest), Verdict::Damaged);
    cache.put(digest, content.clone()).await.unwrap();
    assert_eq!(cache.check_file(&digest, &slow, &meta), Verdict::Damaged);
    cache.quarantine(&digest, FileId::of(&meta), meta.len());
    assert_eq!(cache.metrics.cache_damaged_total.get(), 1);
    assert!(cache.index.contains(&digest));
    cache.memory.forget(&digest);
    assert_eq!(bytes(&cache.get(&digest).await.unwrap()), content);
}

/// Whoever changes a name waits for whoever does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publication_waits_for_what_is_being_set_apart() {
    let dir = tempfile::tempdir().unwrap();
    let cache = idle(dir.path());
    let (digest, content) = large(1);
    let held = cache.names.hold(&digest);
    let putting = tokio::spawn({
        let (cache, content) = (cache.clone(), content.clone());
        async move { cache.put(digest, content).await }
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!putting.is_finished() && !path(dir.path(), &digest).exists());
    drop(held);
    putting.await.unwrap().unwrap();
    assert!(path(dir.path(), &digest).exists());
}

/// A leftover stays in the account for as long as it is on the disk, whatever its opening, settling and removing come to.
#[tokio::test]
async fn i8_a_leftover_counts_whatever_fails() {
    let dir = tempfile::tempdir().unwrap();
    let (digest, content) = large(1);
    let file = dir.path().join("ingest").join(format!("sha256-{}", digest.hex()));
    let begun = || {
        let cache = idle(dir.path());
        let (mut ingest, _nothing) = cache.resume(&digest, 0).unwrap();
        ingest.append(&[content.slice(..1000)]).unwrap();
        drop(ingest);
        drop(_nothing);
        cache.recount(&digest);
        assert_eq!(cache.disk_totals().0, 1000, "one that a panic left");
        cache
    };
    let cache = begun();
    // For want of something: it stays as it is.
    cache.store.faults().arm(0, EMFILE, false);
    assert!(cache.resume(&digest, 0).is_err());
    assert_eq!((cache.disk_totals().0, cache.index.spares().0.len()), (1000, 1));
    // For what it is: it goes, and the fill begins anew.
    cache.store.faults().arm(0, EACCES, false);
    let (ingest, reservation) = cache.resume(&digest, 0).unwrap();
    assert!(ingest.is_empty() && ingest.is_resumable());
    cache.leave(&digest, Some(ingest), reservation);
    assert!(!file.exists());
    assert_eq!(cache.disk_totals().0, 0);
    drop(cache);

    // Nothing of it can be changed any more.
    let cache = begun();
    let (ingest, mut reservation) = cache.resume(&digest, 0).unwrap();
    reservation.absorb(cache.make_room(5000, 0).unwrap());
    ingest.allocate(6000).unwrap();
    cache.store.faults().arm(0, EROFS, true);
    cache.leave(&digest, Some(ingest), reservation);
    assert_eq!(cache.disk_totals().0, 6000, "with the blocks behind its end");
    let mut reservation = cache.index.take_leftover(&digest, 0);
    let room = reservation.split(100);
    cache.discard(&digest, None, reservation);
    assert!(file.exists());
    assert_eq!(cache.disk_totals().0, 6000);
    // What cannot be removed does not keep the rest from making room.
    assert!(cache.evict(cache.index.spare().unwrap()).is_err());
    assert!(cache.index.spare().is_none());
    cache.store.faults().disarm();
    drop(room);
    assert_eq!(cache.collect(0, false).await.unwrap().leftovers, 1);
    assert!(!file.exists());
    assert_eq!(cache.disk_totals().0, 0);
}

/// A file that cannot be unlinked: others go instead. Where that is so of all of them there is an end.
#[tokio::test]
async fn a_victim_that_cannot_go_costs_nobody_his_place() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(dir.path(), 3 * (SMALL + 1));
    let stick = |n: u8| {
        let path = path(dir.path(), &large(n).0);
        fs::remove_file(&path).unwrap();
        // A folder is not unlinked, also by root.
        fs::create_dir(path).unwrap();
    };
    for n in 0..3 {
        cache.put(large(n).0, large(n).1).await.unwrap();
    }
    stick(0);
    cache.put(large(3).0, large(3).1).await.unwrap();
    assert!(cache.has(&large(0).0).is_some() && cache.has(&large(1).0).is_none(), "the next one went");
    stick(2);
    stick(3);
    let error = cache.reserve(SMALL + 1).await.unwrap_err();
    assert!(matches!(error, NoRoom::Disk(_)), "{error}");
}

/// What somebody has removed takes no room once everything has been looked at, also where nobody asks for it: here it is
/// served from memory.
#[tokio::test]
async fn i8_a_file_that_is_gone_leaves_the_account() {
    let dir = tempfile::tempdir().unwrap();
    let cache = idle(dir.path());
    let small = Digest::of(Algorithm::Sha256, b"small");
    let (big, content) = large(1);
    cache.put(small, Bytes::from_static(b"small")).await.unwrap();
    cache.put(big, content).await.unwrap();
    assert!(cache.get(&small).await.is_some());
    for digest in [&small, &big] {
        fs::remove_file(path(dir.path(), digest)).unwrap();
    }
    assert_eq!(cache.disk_totals(), (SMALL + 6, 2));
    let verification = Arc::new(Verification::default());
    assert!(cache.verify(verification.begin().unwrap(), 0).await);
    assert_eq!((cache.disk_totals(), verification.progress().damaged), ((0, 0), 0));
}
