//! kill -9, again and again: no file under `blobs/` is ever other than its name says, and what was half done goes on.

use std::time::Duration;

use super::REPOSITORY;
use crate::support::client;
use crate::support::image::{Blob, Image, random};
use crate::support::join_all;
use crate::support::mirror::Process;
use crate::support::upstream::{Act, Upstream, blob_path, manifest_path};

const LIMIT: u64 = 24 << 20;

/// I1, I8.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_in_a_loop_leaves_nothing_wrong() {
    let up = Upstream::start().await;
    let blobs: Vec<Blob> = (0..16).map(|seed| Blob::random(seed, 1 << 20)).collect();
    blobs.iter().for_each(|blob| up.push_blob(REPOSITORY, blob));
    let image = Image::small(99);
    up.push_image(REPOSITORY, "latest", &image);
    up.on("/v2/*/blobs/*").always(Act::honest().drip(128 << 10, Duration::from_millis(2)));
    let mut mirror = Process::with(&up, |settings| {
        settings.set("cache", "max_size", "24MiB");
    })
    .await;
    for round in 0..8_u64 {
        let address = mirror.address();
        let pulls = blobs.iter().map(|blob| {
            let path = blob_path(REPOSITORY, blob);
            tokio::spawn(async move {
                if let Ok(download) = client::try_open(address, &path, &[]).await {
                    download.rest().await;
                }
            })
        });
        let pulls: Vec<_> = pulls.collect();
        // At another moment each time: before, amid and after the fills.
        let pause = u64::from(random(round, 1)[0]) * 2;
        tokio::time::sleep(Duration::from_millis(pause)).await;
        let killed = mirror.kill().await;
        pulls.iter().for_each(tokio::task::JoinHandle::abort);
        killed.files().blobs();
        assert!(killed.files().size() <= LIMIT, "{} bytes after round {round}", killed.files().size());
        mirror = killed.start().await;
    }
    up.on("/v2/*/blobs/*").clear();
    let address = mirror.address();
    join_all(blobs.iter().map(|blob| async move {
        client::get(address, &blob_path(REPOSITORY, blob), &[]).await.assert_is(blob);
    }))
    .await;
    let manifest = client::get(address, &manifest_path(REPOSITORY, "latest"), &[]).await;
    assert_eq!(manifest.body, image.manifest.bytes);
    assert!(mirror.files().blobs().len() >= blobs.len());
}

/// A fill that was killed half way does not begin again from nothing, once enough of it was on the disk.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_fill_is_resumed() {
    const LARGE: usize = 64 << 20;
    let up = Upstream::start().await;
    let blob = Blob::random(1, LARGE);
    up.push_blob(REPOSITORY, &blob);
    let path = blob_path(REPOSITORY, &blob);
    let gate = up.gate(&path);
    gate.pass(LARGE as u64 / 2);
    let mirror = Process::with(&up, |_| {}).await;
    let mut download = client::open(mirror.address(), &path, &[]).await;
    assert!(download.read(LARGE / 2).await == blob.bytes[..LARGE / 2]);
    let killed = mirror.kill().await;
    assert!(!killed.files().has(&blob));
    gate.open();
    let mirror = killed.start().await;
    client::get(mirror.address(), &path, &[]).await.assert_is(&blob);
    let last = up.requests().pop().unwrap();
    assert!(last.from() > 0, "it began again from nothing");
    mirror.files().get(&blob).await;
    mirror.files().blobs();
}

/// A published file and a remembered tag outlive a kill at once after the answer.
#[tokio::test]
async fn what_was_published_outlives_a_kill() {
    let up = Upstream::start().await;
    let image = Image::small(1);
    up.push_image(REPOSITORY, "latest", &image);
    let mirror = Process::with(&up, |settings| {
        settings.set("freshness", "fresh_for", "1h");
    })
    .await;
    let manifest = client::get(mirror.address(), &manifest_path(REPOSITORY, "latest"), &[]).await;
    assert_eq!(manifest.body, image.manifest.bytes);
    for blob in image.blobs() {
        client::get(mirror.address(), &blob_path(REPOSITORY, blob), &[]).await.assert_is(blob);
        mirror.files().get(blob).await;
    }
    mirror.files().get(&image.manifest).await;
    let killed = mirror.kill().await;
    up.down().await;
    let mirror = killed.start().await;
    let manifest = client::get(mirror.address(), &manifest_path(REPOSITORY, "latest"), &[]).await;
    assert_eq!((manifest.status(), &*manifest.body), (200, &*image.manifest.bytes));
    for blob in image.blobs() {
        client::get(mirror.address(), &blob_path(REPOSITORY, blob), &[]).await.assert_is(blob);
    }
}
