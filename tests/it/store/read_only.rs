//! A disk that cannot be written to any more.

use std::fs;
use std::os::unix::fs::FileExt as _;

use super::REPOSITORY;
use super::disk::Disk;
use crate::support::client;
use crate::support::image::{Blob, Builder};
use crate::support::mirror::Mirror;
use crate::support::until;
use crate::support::upstream::{Upstream, blob_path};

/// A disk that becomes read-only under a running mirror, as ext4's does after an error: what is cached is served, the rest
/// passes through, nothing that has to last is promised. All is as usual once it can be written again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_becomes_read_only() {
    let Some(disk) = Disk::new("a disk that becomes read-only", 64) else { return };
    let up = Upstream::start().await;
    let (old, new) = (Builder::new(1).layer(1 << 20).layer(2000).build(), Builder::new(2).layer(1 << 20).layer(2000).build());
    up.push_image(REPOSITORY, "latest", &old);
    up.push_image(REPOSITORY, "new", &new);
    let mirror = disk.mirror(&up, "0B").await;
    mirror.pull(REPOSITORY, "latest", &old).await;
    for blob in old.blobs() {
        until("the blob to be kept", || disk.has(blob)).await;
    }
    let post = |mirror: &Mirror, path: &str| {
        let (address, path) = (mirror.admin_address(), format!("/api/v1/{path}"));
        async move { client::request(address, "POST", &path, &[]).await }
    };
    let held = disk.published().len();
    // What has just been published is still open for writing, which would keep the disk as it is.
    let mirror = mirror.restart().await;
    until("the disk to be read-only", || disk.remount("ro")).await;
    for _ in 0..2 {
        mirror.pull(REPOSITORY, "latest", &old).await;
        mirror.pull(REPOSITORY, "new", &new).await;
    }
    for blob in old.blobs() {
        assert_eq!(up.count(&blob_path(REPOSITORY, blob)), 1, "served from the disk");
    }
    assert_eq!(post(&mirror, "pin?ref=alpine").await.status(), 500);
    let purged = post(&mirror, "purge?ref=alpine:latest").await;
    assert_eq!((purged.status(), purged.json()["objects"].as_u64()), (500, Some(0)), "{}", purged.text());
    assert!(purged.json()["error"].as_str().unwrap().contains("alpine:latest: Read-only file system"), "{}", purged.text());
    mirror.pull(REPOSITORY, "latest", &old).await;
    assert_eq!(mirror.admin("/api/v1/images?ref=alpine:latest").await.json()["images"][0]["cached"], true);
    assert_eq!(disk.published().len(), held);
    assert_eq!(mirror.admin("/healthz").await.status(), 200);
    assert!(disk.remount("rw"));
    mirror.pull(REPOSITORY, "new", &new).await;
    for blob in new.blobs() {
        until("the blob to be kept", || disk.has(blob)).await;
    }
    assert_eq!(post(&mirror, "pin?ref=alpine:new").await.status(), 200);
    // The account is the disk.
    let mirror = mirror.restart().await;
    mirror.pull(REPOSITORY, "new", &new).await;
    disk.published();
}

/// A damaged file that can be neither moved nor removed, since the disk has become read-only: nobody gets it, by a range or as
/// a whole, as a hit or as a fill. Once the disk can be written again, it goes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i1_i5_a_damaged_file_on_a_read_only_disk() {
    let Some(disk) = Disk::new("a damaged file on a read-only disk", 64) else { return };
    let up = Upstream::start().await;
    let blob = Blob::random(1, 1 << 20);
    up.push_blob(REPOSITORY, &blob);
    let mirror = disk.mirror(&up, "0B").await;
    mirror.pull_blob(REPOSITORY, &blob).await;
    until("the blob to be kept", || disk.has(&blob)).await;
    let mirror = mirror.restart().await;
    // What the start finds is what it knows.
    mirror.metric_becomes("roadstead_cache_bytes", &[("tier", "disk")], blob.size() as f64).await;
    let path = disk.cache().join("blobs/sha256").join(blob.digest.hex());
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&[!blob.bytes[700_000]], 700_000).unwrap();
    drop(file);
    until("the disk to be read-only", || disk.remount("ro")).await;
    for _ in 0..3 {
        mirror.pull_blob(REPOSITORY, &blob).await;
        let part = mirror.get_with(&blob_path(REPOSITORY, &blob), &[("range", "bytes=700000-700009")]).await;
        assert!(part.body == blob.bytes[700_000..700_010]);
    }
    assert!(fs::read(&path).unwrap() != blob.bytes, "it is still there");
    assert_eq!(mirror.metric("roadstead_cache_damaged_total", &[]).await, 1.0);
    assert_eq!(mirror.metric("roadstead_cache_bytes", &[("tier", "disk")]).await, blob.size() as f64, "and counts");
    assert!(disk.remount("rw"));
    mirror.pull_blob(REPOSITORY, &blob).await;
    until("the right one to have its name", || fs::read(&path).is_ok_and(|bytes| bytes == blob.bytes)).await;
    disk.published();
}

/// A mirror is not started on a cache that it cannot write to, and says which.
#[tokio::test]
async fn no_start_on_a_read_only_disk() {
    let Some(disk) = Disk::new("no start on a read-only disk", 8) else { return };
    let up = Upstream::start().await;
    let mirror = disk.mirror(&up, "0B").await;
    drop(mirror.stop().await);
    until("the disk to be read-only", || disk.remount("ro")).await;
    let told = disk.refusal().await;
    assert!(told.contains(disk.cache().to_str().unwrap()) && told.contains("Read-only"), "{told}");
}
