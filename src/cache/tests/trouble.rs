//! A disk that fails in the middle of things, and files that somebody else has changed.

use std::future::poll_fn;
use std::time::{Duration, SystemTime};

use super::*;
use crate::cache::read::Reader;
use crate::oci::Platforms;

const EIO: i32 = 5;

/// A cache without its maintenance, of which a test runs the parts it is about.
fn idle(dir: &std::path::Path) -> Arc<Cache> {
    let config = config::Cache {
        dir: dir.into(),
        max_size: Amount::Bytes(1 << 30),
        min_free: Amount::Bytes(0),
        ..config::Cache::default()
    };
    Cache::open(&config, Arc::new(Metrics::new())).unwrap()
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..3000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("waited in vain for {what}");
}

fn path(dir: &std::path::Path, digest: &Digest) -> std::path::PathBuf {
    dir.join("blobs/sha256").join(digest.hex())
}

/// A tree that cannot be read makes nobody wait: what is in it is served, the rest passes through, and it is tried again.
#[tokio::test]
async fn a_scan_that_fails_is_repeated() {
    let dir = tempfile::tempdir().unwrap();
    let (digest, content) = large(1);
    let cache = idle(dir.path());
    cache.scanned.send_replace(Scan::Complete);
    cache.put(digest, content.clone()).await.unwrap();
    drop(cache);

    // Whichever of its calls fails.
    let cache = idle(dir.path());
    cache.store.faults().arm(u32::MAX, EIO, false);
    scan::scan(&cache.store, &cache.index).unwrap();
    let calls = cache.store.faults().disarm();
    assert!(calls > 4, "{calls}");
    drop(cache);
    for call in 0..calls {
        let cache = idle(dir.path());
        cache.store.faults().arm(call, EIO, false);
        let maintenance = tokio::spawn(cache.clone().maintain());
        let told = cache.until_scanned().await.unwrap_err();
        assert!(matches!(told, NoRoom::Disk(_)), "call {call}");
        assert!(told.to_string().contains(dir.path().to_str().unwrap()), "call {call}: {told} names no file");
        assert!(matches!(cache.reserve(1).await, Err(NoRoom::Disk(_))), "call {call}");
        assert_eq!(bytes(&cache.get(&digest).await.unwrap()), content, "what is here is served");
        until("the next scan", || cache.is_scanned()).await;
        assert_eq!(cache.disk_totals(), (SMALL + 1, 1));
        cache.reserve(1).await.unwrap();
        maintenance.abort();
        let _ = maintenance.await;
    }
}

/// A pinned image whose tag or manifest cannot be read at the start, for a moment, is protected before anything can be
/// evicted; and whatever else cannot be read, the start comes to its end and serves.
#[tokio::test]
async fn i8_a_pin_that_cannot_be_read_at_first() {
    let dir = tempfile::tempdir().unwrap();
    let scope = Scope { upstream: "docker.io".parse().unwrap(), repository: "library/alpine".parse().unwrap() };
    let (layer, layer_bytes) = large(1);
    let config = Bytes::from_static(b"{}");
    let part = |digest: &Digest, size: u64, kind: &str| {
        format!(r#"{{"mediaType":"application/vnd.oci.image.{kind}","digest":"{digest}","size":{size}}}"#)
    };
    let text = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{},"layers":[{}]}}"#,
        part(&Digest::of(Algorithm::Sha256, &config), 2, "config.v1+json"),
        part(&layer, SMALL + 1, "layer.v1.tar")
    );
    let manifest = Digest::of(Algorithm::Sha256, text.as_bytes());
    let tag: crate::oci::Tag = "3.20".parse().unwrap();
    {
        let cache = idle(dir.path());
        cache.scanned.send_replace(Scan::Complete);
        for (digest, bytes) in [(layer, layer_bytes), (manifest, text.into()), (Digest::of(Algorithm::Sha256, &config), config)] {
            cache.put(digest, bytes).await.unwrap();
        }
        let record = TagRecord { digest: manifest, checked_at: Moment(5), imported: false };
        cache.set_tag(&scope, &tag, record).await.unwrap();
        cache.set_manifest_record(&scope, &manifest, &ManifestRecord { media_type: MediaType::OCI_MANIFEST }).await;
        cache.pin(vec![scope.image(tag.clone())], &Platforms::default(), Timestamp(0)).unwrap();
    }
    // How many calls each part of a start makes.
    let cache = idle(dir.path());
    let faults = cache.store.faults().clone();
    let calls = |work: &dyn Fn()| {
        faults.arm(u32::MAX, EIO, false);
        work();
        faults.disarm()
    };
    let scan = calls(&|| {
        scan::scan(&cache.store, &cache.index).unwrap();
    });
    let pins = calls(&|| cache.survey_pins().unwrap());
    let survey = calls(&|| cache.survey());
    assert!(pins >= 2 && survey >= 4, "{pins} {survey}");
    drop(cache);
    for call in scan..scan + pins + survey {
        let cache = idle(dir.path());
        cache.store.faults().arm(call, EIO, false);
        let maintenance = tokio::spawn(cache.clone().maintain());
        if call < scan + pins {
            assert!(matches!(cache.until_scanned().await, Err(NoRoom::Disk(_))), "call {call}: nothing is added yet");
            assert!(cache.reserve(1).await.is_err());
        }
        until("the scan", || cache.is_scanned()).await;
        assert!(cache.index.is_protected(&manifest) && cache.index.is_protected(&layer), "call {call}");
        assert!(cache.known(&layer).unwrap().pinned);
        until("the survey", || cache.is_surveyed()).await;
        assert!(cache.get(&layer).await.is_some() && cache.get(&manifest).await.is_some());
        assert_eq!(cache.disk_totals().1, 3);
        maintenance.abort();
        let _ = maintenance.await;
        // The lock goes with it.
        drop(cache);
    }
}

/// Names that could not be made durable are tried again by the next flush.
#[tokio::test]
async fn a_folder_that_cannot_be_synced_is_synced_later() {
    let dir = tempfile::tempdir().unwrap();
    // Nobody else syncs it, or meets the fault.
    let cache = idle(dir.path());
    cache.scanned.send_replace(Scan::Complete);
    let (digest, content) = large(1);
    cache.put(digest, content).await.unwrap();
    let store = &cache.store;
    for call in 0..2 {
        store.faults().arm(call, EIO, false);
        assert!(store.sync_names().is_err());
    }
    store.faults().arm(u32::MAX, EIO, false);
    store.sync_names().unwrap();
    assert_eq!(store.faults().disarm(), 2, "both folders are synced");
    store.faults().arm(u32::MAX, EIO, false);
    store.sync_names().unwrap();
    assert_eq!(store.faults().disarm(), 0, "nothing has changed since");
    assert!(cache.get(&digest).await.is_some());
}

/// A record that cannot be read is as good as none, and is there again when the disk is.
#[tokio::test]
async fn a_record_that_cannot_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let cache = idle(dir.path());
    cache.scanned.send_replace(Scan::Complete);
    let scope = Scope { upstream: "docker.io".parse().unwrap(), repository: "library/alpine".parse().unwrap() };
    let tag = "3.20".parse().unwrap();
    let record = TagRecord { digest: Digest::of(Algorithm::Sha256, b""), checked_at: Moment(5), imported: false };
    cache.set_tag(&scope, &tag, record.clone()).await.unwrap();
    cache.records.reread();
    cache.store.faults().arm(0, EIO, false);
    assert_eq!(cache.tag(&scope, &tag).await, None);
    // Nor can it be written: it is kept in memory.
    let newer = TagRecord { checked_at: Moment(6), ..record.clone() };
    cache.store.faults().arm(0, EIO, true);
    cache.set_tag(&scope, &tag, newer.clone()).await.unwrap_err();
    cache.store.faults().disarm();
    assert_eq!(cache.tag(&scope, &tag).await.as_deref(), Some(&newer));
    cache.records.reread();
    assert_eq!(cache.tag(&scope, &tag).await.as_deref(), Some(&record));
}

/// EIO in the midst of a read: that reader fails, and nobody is given the file until it has been looked at. A sound
/// file is served again then; a wrong one never is.
#[tokio::test]
async fn what_cannot_be_read_is_looked_at_before_it_is_served_again() {
    for damaged in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let cache = idle(dir.path());
        cache.scanned.send_replace(Scan::Complete);
        let (digest, content) = large(7);
        cache.put(digest, content.clone()).await.unwrap();
        // A put keeps small content in memory; this one is as a fill publishes it.
        cache.memory.forget(&digest);
        let Some(Hit { content: Content::File(file), size, .. }) = cache.get(&digest).await else { panic!("no file") };
        let mut reader = Reader::new(file).with_alarm(cache.alarm(&digest));
        let first = poll_fn(|cx| reader.poll_read(cx, 0, size)).await.unwrap();
        assert!(!first.is_empty());
        if damaged {
            let mut wrong = content.to_vec();
            wrong[1000] ^= 1;
            std::fs::write(path(dir.path(), &digest), wrong).unwrap();
        }
        cache.store.faults().arm(0, EIO, false);
        let broken = poll_fn(|cx| reader.poll_read(cx, first.len() as u64, size)).await;
        assert_eq!(broken.unwrap_err().raw_os_error(), Some(EIO));
        cache.store.faults().disarm();

        // Whoever asks now waits: nobody has looked yet.
        let mut asked = std::pin::pin!(cache.get(&digest));
        assert!(tokio::time::timeout(Duration::from_millis(50), &mut asked).await.is_err());
        let watching = tokio::spawn(cache.clone().watch());
        let found = asked.await;
        assert_eq!(found.as_ref().map(bytes), (!damaged).then_some(content));
        assert_eq!(cache.get(&digest).await.is_some(), !damaged);
        assert_eq!(cache.open_sound(&digest).is_some(), !damaged, "nor is it a fill's to find");
        watching.abort();
    }
}

/// A large file that somebody has written to, or has cut off, is not served as it is; one that was only touched, is.
#[tokio::test]
async fn a_large_file_that_somebody_has_changed() {
    let dir = tempfile::tempdir().unwrap();
    // Calls are counted: of the maintenance, only what is meant here runs.
    let cache = idle(dir.path());
    cache.scanned.send_replace(Scan::Complete);
    tokio::spawn(cache.clone().watch());
    tokio::spawn(cache.clone().follow_readers());
    let yesterday = SystemTime::now() - Duration::from_secs(86_400);
    for (n, change) in ["touched", "flipped", "cut"].into_iter().enumerate() {
        let (digest, content) = large(n as u8);
        cache.put(digest, content.clone()).await.unwrap();
        let path = path(dir.path(), &digest);
        // The mirror's own writing down of uses is no change.
        cache.get(&digest).await.unwrap();
        cache.flush().await;
        cache.memory.forget(&digest);
        cache.store.faults().arm(u32::MAX, EIO, false);
        assert!(cache.get(&digest).await.is_some());
        assert_eq!(cache.store.faults().disarm(), 1, "opened, and not hashed again");

        let mut changed = content.to_vec();
        match change {
            "touched" => {}
            "flipped" => changed[SMALL as usize] ^= 1,
            _ => changed.truncate(1000),
        }
        std::fs::write(&path, changed).unwrap();
        std::fs::File::open(&path).unwrap().set_modified(yesterday).unwrap();
        // The use from before the change is written down after it, and hides nothing.
        cache.flush().await;
        // Open files are looked at once a second.
        let deadline = SystemTime::now() + Duration::from_secs(20);
        while change != "touched" && cache.get(&digest).await.is_some() {
            assert!(SystemTime::now() < deadline, "a file that was {change} is still served");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        cache.memory.forget_file(&digest);
        assert_eq!(cache.get(&digest).await.as_ref().map(bytes), (change == "touched").then_some(content), "{change}");
        assert_eq!(cache.known(&digest).is_some_and(|known| known.present), change == "touched");
    }
    assert_eq!(std::fs::read_dir(dir.path().join("quarantine")).unwrap().count(), 2);
}

/// Want of descriptors or memory, a permission, a signal: whoever looks at a file then learns nothing of it, so it stays. A
/// medium that does not read it is another thing. Whichever call it is that fails.
#[tokio::test]
async fn what_could_not_be_looked_at_is_not_set_apart() {
    const INNOCENT: [rustix::io::Errno; 6] = {
        use rustix::io::Errno;
        [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::ACCESS, Errno::INTR, Errno::STALE]
    };
    let dir = tempfile::tempdir().unwrap();
    let cache = idle(dir.path());
    cache.scanned.send_replace(Scan::Complete);
    let (big, content) = large(1);
    let small = Digest::of(Algorithm::Sha256, b"small");
    cache.put(big, content.clone()).await.unwrap();
    cache.put(small, Bytes::from_static(b"small")).await.unwrap();
    let damaged = || cache.metrics.cache_damaged_total.get();
    let verification = Arc::new(Verification::default());
    for errno in INNOCENT.map(rustix::io::Errno::raw_os_error) {
        for digest in [&big, &small] {
            for call in 0..2 {
                cache.memory.forget(digest);
                cache.store.faults().arm(call, errno, false);
                let _ = cache.get(digest).await;
                cache.store.faults().disarm();
                assert!(path(dir.path(), digest).exists(), "{errno} at call {call} of a look-up");
            }
            cache.store.faults().arm(0, errno, false);
            assert_eq!(cache.check(digest), verify::Verdict::Unknown);
            cache.store.faults().disarm();
        }
        // Whose time is not what is known: it is looked at, by another name.
        std::fs::File::open(path(dir.path(), &big)).unwrap().set_modified(SystemTime::now()).unwrap();
        cache.memory.forget(&big);
        cache.store.faults().arm(1, errno, false);
        assert!(cache.get(&big).await.is_none(), "not served unseen");
        cache.store.faults().disarm();
        assert_eq!(cache.get(&big).await.as_ref().map(bytes), Some(content.clone()), "and served when it could be");
        // One of the two.
        cache.store.faults().arm(0, errno, false);
        assert!(cache.verify(verification.begin().unwrap(), 0).await);
        cache.store.faults().disarm();
        let progress = verification.progress();
        assert_eq!((progress.objects, progress.damaged, progress.unread), (1, 0, 1));
    }
    assert_eq!((damaged(), cache.disk_totals().1), (0, 2));

    for digest in [&big, &small] {
        cache.store.faults().arm(0, EIO, false);
        assert_eq!(cache.check(digest), verify::Verdict::Damaged);
        cache.store.faults().disarm();
    }
    assert_eq!((damaged(), cache.disk_totals().1), (2, 0));
}
