//! The tree on the disk: what gets a name, what keeps it, how much there may be.

use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::{REPOSITORY, SIZE};
use crate::support::client;
use crate::support::image::Blob;
use crate::support::mirror::Mirror;
use crate::support::upstream::{Upstream, blob_path};
use crate::support::{join_all, until};

/// I1: no name before everything is there, and then the right one.
#[tokio::test]
async fn i1_a_file_under_blobs_is_whole() {
    let up = Upstream::start().await;
    let blob = Blob::random(1, SIZE);
    up.push_blob(REPOSITORY, &blob);
    let gate = up.gate(&blob_path(REPOSITORY, &blob));
    let mirror = Mirror::of(&up).await;
    let mut download = mirror.open(&blob_path(REPOSITORY, &blob)).await;
    for position in [1, SIZE as u64 / 2, SIZE as u64 - 1] {
        gate.pass(position);
        until("the upstream to send", || up.sent("*") == position).await;
        assert!(!mirror.files().has(&blob), "{position} of {SIZE} bytes");
    }
    download.read(10).await;
    assert_eq!(mirror.files().ingests(), 1);
    gate.open();
    assert!(!download.rest().await.end.is_broken());
    mirror.files().get(&blob).await;
    assert_eq!(mirror.files().blobs(), [blob.digest]);
    until("nothing to be left in ingest/", || mirror.files().ingests() == 0).await;
}

/// I2: what is evicted under a reader's hands is read to its end all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i2_eviction_takes_nothing_from_a_reader() {
    // More than the sockets hold, so that the reader depends on the file.
    let (large, size) = (Blob::random(1, 32 << 20), 32 << 20);
    let others: Vec<Blob> = (2..10).map(|seed| Blob::random(seed, 8 << 20)).collect();
    let up = Upstream::start().await;
    others.iter().chain([&large]).for_each(|blob| up.push_blob(REPOSITORY, blob));
    let mirror = Mirror::with(&up, |settings| {
        settings.set("cache", "max_size", "48MiB").set("cache", "memory", "4MiB");
    })
    .await;
    mirror.pull_blob(REPOSITORY, &large).await;
    mirror.files().get(&large).await;
    let mut reader = mirror.open(&blob_path(REPOSITORY, &large)).await;
    assert!(reader.read(1000).await == large.bytes[..1000]);
    for blob in &others {
        mirror.pull_blob(REPOSITORY, blob).await;
    }
    until("the large blob to be evicted", || !mirror.files().has(&large)).await;
    let rest = reader.rest().await;
    assert!(!rest.end.is_broken() && rest.body.len() == size - 1000 && rest.body == large.bytes[1000..]);
    assert!(mirror.metric("roadstead_evictions_total", &[]).await >= 1.0);
    mirror.pull_blob(REPOSITORY, &large).await;
    assert_eq!(up.count(&blob_path(REPOSITORY, &large)), 2, "it is fetched again");
}

/// I8: the limit holds while many fills run, after them, and after a restart with a lower one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i8_the_limit_holds() {
    const LIMIT: u64 = 10 << 20;
    let up = Upstream::start().await;
    let blobs: Vec<Blob> = (0..12).map(|seed| Blob::random(seed, 2 << 20)).collect();
    blobs.iter().for_each(|blob| up.push_blob(REPOSITORY, blob));
    let gate = up.gate("/v2/*/blobs/*");
    gate.pass(1 << 20);
    let mirror = Mirror::with(&up, |settings| {
        settings.set("cache", "max_size", "10MiB").set("cache", "memory", "1MiB");
    })
    .await;
    let (files, mirror_address) = (mirror.files(), mirror.address());
    // Twelve at once want 24 MiB; those that find no room stream through, or are told to come back.
    let open = |blob: &Blob| {
        let path = blob_path(REPOSITORY, blob);
        async move { client::try_open(mirror_address, &path, &[]).await }
    };
    let downloads = join_all(blobs.iter().map(open)).await;
    assert!(files.size() <= LIMIT, "{} bytes during the fills", files.size());
    gate.open();
    for (download, blob) in downloads.into_iter().zip(&blobs) {
        let answer = download.expect("an answer").rest().await;
        answer.assert_not_wrong(blob);
        assert!(files.size() <= LIMIT, "{} bytes", files.size());
    }
    for blob in blobs.iter().chain(&blobs) {
        mirror.pull_blob(REPOSITORY, blob).await;
        assert!(files.size() <= LIMIT, "{} bytes", files.size());
    }
    assert!(!files.blobs().is_empty());
    let mirror = mirror.restart().await;
    assert!(files.size() <= LIMIT);
    let mirror = mirror
        .restart_with(|settings| {
            settings.set("cache", "max_size", "5MiB");
        })
        .await;
    until("the lower limit to be kept", || files.size() <= 5 << 20).await;
    mirror.pull_blob(REPOSITORY, &blobs[0]).await;
    assert!(files.size() <= 5 << 20);
}

/// I8: what is larger than the whole cache passes through and is not kept.
#[tokio::test]
async fn a_blob_larger_than_the_cache_passes_through() {
    let up = Upstream::start().await;
    let blob = Blob::random(1, 12 << 20);
    up.push_blob(REPOSITORY, &blob);
    let mirror = Mirror::with(&up, |settings| {
        settings.set("cache", "max_size", "4MiB").set("cache", "memory", "1MiB");
    })
    .await;
    mirror.pull_blob(REPOSITORY, &blob).await;
    assert!(!mirror.files().has(&blob));
    assert!(mirror.files().size() <= 4 << 20);
}

/// I11: a disk that does not answer holds up the request that waits for it, and nothing else. The file is a FIFO here:
/// opening it blocks until somebody opens the other end. The mirror has one thread for everything that must not block.
#[test]
fn i11_nothing_blocks_the_reactor() {
    let (ready, mirror) = std::sync::mpsc::channel();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let blob = Blob::random(1, SIZE);
    let pushed = blob.clone();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let up = Upstream::start().await;
            up.push_blob(REPOSITORY, &pushed);
            let mirror = Mirror::with(&up, |settings| {
                settings.set("cache", "memory", "1MiB");
            })
            .await;
            mirror.pull_blob(REPOSITORY, &pushed).await;
            mirror.files().get(&pushed).await;
            // A restart forgets the files that are open.
            let mirror = mirror.restart().await;
            ready.send((mirror.address(), mirror.files().path(&pushed.digest))).unwrap();
            let _ = stopped.await;
        });
        runtime.shutdown_background();
    });
    let (address, path) = mirror.recv().unwrap();
    std::fs::remove_file(&path).unwrap();
    mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut waiting = client::Connection::open(address).await;
        waiting.send("GET", &blob_path(REPOSITORY, &blob), &[]).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        for _ in 0..20 {
            assert_eq!(client::get(address, "/v2/", &[]).await.status(), 200);
        }
    });
    // The other end: whoever waits for it goes on.
    let _end = std::fs::OpenOptions::new().read(true).write(true).open(&path);
    stop.send(()).unwrap();
    thread.join().unwrap();
}
