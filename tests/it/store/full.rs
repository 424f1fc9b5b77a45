//! A disk that is full, or fills up.

use std::fs::{self, File};
use std::path::Path;

use super::REPOSITORY;
use super::disk::Disk;
use crate::support::client;
use crate::support::image::{Blob, Builder, Image};
use crate::support::mirror::Mirror;
use crate::support::until;
use crate::support::upstream::{Act, Upstream, blob_path, manifest_path};

const MIB: u64 = 1 << 20;

/// Everything of an image, each part asked for until it comes; never a wrong body on the way.
async fn pull(mirror: &Mirror, image: &Image) {
    let paths = image.blobs().map(|blob| (blob_path(REPOSITORY, blob), blob));
    for (path, blob) in std::iter::once((manifest_path(REPOSITORY, "latest"), &image.manifest)).chain(paths) {
        let mut whole = false;
        for _ in 0..6 {
            let answer = mirror.get(&path).await;
            answer.assert_not_wrong(blob);
            whole = answer.status() == 200 && !answer.end.is_broken();
            if whole {
                answer.assert_is(blob);
                break;
            }
        }
        assert!(whole, "{path} never came");
    }
}

/// ENOSPC at every step: however much is free, in whatever call it ends, clients get the image, no wrong file gets a
/// name, and all is as usual once there is room.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i1_i4_a_disk_that_fills_up_at_any_step() {
    // Nothing at all; a record; a config; the small layer; half of the large one; nearly all.
    for (seed, free) in (1..).zip([0, 4096, 8192, 16_384, 65_536, 200_000, MIB, 2 * MIB, 3 * MIB]) {
        for act in [Act::honest(), Act::honest().chunked()] {
            let Some(disk) = Disk::new("a disk that fills up at any step", 12) else { return };
            let up = Upstream::start().await;
            let image = Builder::new(seed).layer(3 << 20).layer(100_000).build();
            up.push_image(REPOSITORY, "latest", &image);
            up.on("/v2/*/blobs/*").always(act);
            let mirror = disk.mirror(&up, "0B").await;
            disk.fill_up(free);
            pull(&mirror, &image).await;
            disk.published();
            assert_eq!(mirror.admin("/healthz").await.status(), 200);
            disk.make_free();
            for blob in image.blobs() {
                mirror.pull_blob(REPOSITORY, blob).await;
                until("the blob to be kept", || disk.has(blob)).await;
            }
            disk.published();
        }
    }
}

/// What is cached makes room when others have taken what was free.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_cached_makes_room_on_a_full_disk() {
    let Some(disk) = Disk::new("what is cached makes room", 12) else { return };
    let up = Upstream::start().await;
    let blobs: Vec<Blob> = (0..4).map(|seed| Blob::random(seed, 2 << 20)).collect();
    blobs.iter().for_each(|blob| up.push_blob(REPOSITORY, blob));
    let mirror = disk.mirror(&up, "0B").await;
    for blob in &blobs[..3] {
        mirror.pull_blob(REPOSITORY, blob).await;
        until("the blob to be kept", || disk.has(blob)).await;
    }
    disk.fill_up(0);
    let mut whole = false;
    for _ in 0..10 {
        let answer = mirror.get(&blob_path(REPOSITORY, &blobs[3])).await;
        answer.assert_not_wrong(&blobs[3]);
        whole = answer.status() == 200 && !answer.end.is_broken() && disk.has(&blobs[3]);
        if whole {
            break;
        }
    }
    assert!(whole, "evicting made no room");
    assert_eq!(disk.published().len(), 3, "one made room for one");
}

/// I8: for want of free space only that goes whose space is free then, and no more of it than is needed: not what is being
/// read, nor what an export has linked; and what was served a moment ago is closed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i8_a_small_want_of_space_costs_little() {
    let Some(disk) = Disk::new("a small want of space", 100) else { return };
    let up = Upstream::start().await;
    let blobs: Vec<Blob> = (0..4).map(|seed| Blob::random(seed, 8 << 20)).collect();
    let tiny: Vec<Blob> = (10..14).map(|seed| Blob::random(seed, 1000)).collect();
    blobs.iter().chain(&tiny).for_each(|blob| up.push_blob(REPOSITORY, blob));
    let mirror = disk.mirror(&up, "40MiB").await;
    for blob in &blobs {
        mirror.pull_blob(REPOSITORY, blob).await;
        until("the blob to be kept", || disk.has(blob)).await;
    }
    let left = || blobs.iter().filter(|blob| disk.has(blob)).count();

    // All four were served just now.
    disk.fill_up(40 * MIB - 65_536);
    mirror.pull_blob(REPOSITORY, &tiny[0]).await;
    assert_eq!(left(), 3);

    // Three readers that take nothing.
    let mut readers = Vec::new();
    for blob in blobs.iter().filter(|blob| disk.has(blob)) {
        readers.push(mirror.open(&blob_path(REPOSITORY, blob)).await);
    }
    disk.fill_up(40 * MIB - 65_536);
    mirror.pull_blob(REPOSITORY, &tiny[1]).await;
    assert_eq!(left(), 3, "what is being read frees nothing");
    let mut reader = readers.remove(0);
    reader.read(1000).await;
    assert!(!reader.rest().await.end.is_broken());
    // The mirror lets its file go a moment after the last byte.
    for _ in 0..100 {
        mirror.pull_blob(REPOSITORY, &tiny[1]).await;
        if left() < 3 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(left(), 2, "the one that nobody reads");
    for reader in readers {
        assert!(!reader.rest().await.end.is_broken());
    }

    // Each has another name.
    let export = disk.folder.path().join("export");
    fs::create_dir(&export).unwrap();
    for name in fs::read_dir(disk.cache().join("blobs/sha256")).unwrap().map(|entry| entry.unwrap().file_name()) {
        fs::hard_link(disk.cache().join("blobs/sha256").join(&name), export.join(&name)).unwrap();
    }
    disk.fill_up(40 * MIB - 65_536);
    mirror.pull_blob(REPOSITORY, &tiny[2]).await;
    assert_eq!(left(), 2, "what is linked frees nothing");
    let one = blobs.iter().find(|blob| disk.has(blob)).unwrap();
    fs::remove_file(export.join(one.digest.hex())).unwrap();
    mirror.pull_blob(REPOSITORY, &tiny[3]).await;
    assert_eq!(left(), 1);
    assert!(!disk.has(one));
    disk.published();
}

/// A mirror starts and serves on a disk that is full to the last byte, and refuses to pin rather than lose the pins.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_on_a_full_disk() {
    let Some(disk) = Disk::new("a start on a full disk", 12) else { return };
    let up = Upstream::start().await;
    let image = Image::small(1);
    up.push_image(REPOSITORY, "latest", &image);
    let mirror = disk.mirror(&up, "0B").await;
    mirror.pull(REPOSITORY, "latest", &image).await;
    let pin = |mirror: &Mirror, name: &str| {
        let address = mirror.admin_address();
        let path = format!("/api/v1/pin?ref={name}");
        async move { client::request(address, "POST", &path, &[]).await.status() }
    };
    assert_eq!(pin(&mirror, "alpine:latest").await, 200);
    let pins = fs::read(disk.cache().join("pins.json")).unwrap();
    disk.fill_up(0);
    let mirror = mirror.restart().await;
    up.down().await;
    mirror.pull(REPOSITORY, "latest", &image).await;
    assert_eq!(pin(&mirror, "alpine:other").await, 500);
    assert_eq!(fs::read(disk.cache().join("pins.json")).unwrap(), pins);
    let listed = mirror.admin("/api/v1/pins").await.json();
    assert_eq!(listed["pins"].as_array().unwrap().len(), 1, "{listed}");
    disk.make_free();
    assert_eq!(pin(&mirror, "alpine:other").await, 200);
    disk.published();
}

/// I8: another writer takes the room in the middle of a fill. The fill looks on its way, and older content goes, so that
/// `min_free` stays free; where nothing is left to go, it gives up, and the next client's bytes pass through.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i8_min_free_is_kept_during_a_fill() {
    for hopeless in [false, true] {
        let Some(disk) = Disk::new("min_free is kept during a fill", 160) else { return };
        let up = Upstream::start().await;
        let old: Vec<Blob> = (0..2).map(|seed| Blob::random(seed, 8 << 20)).collect();
        let blob = Blob::random(9, 72 << 20);
        old.iter().chain([&blob]).for_each(|blob| up.push_blob(REPOSITORY, blob));
        let mirror = disk.mirror(&up, "24MiB").await;
        for blob in &old {
            mirror.pull_blob(REPOSITORY, blob).await;
            until("the blob to be kept", || disk.has(blob)).await;
        }
        let mirror = mirror.restart().await;
        let path = blob_path(REPOSITORY, &blob);
        let gate = up.gate(&path);
        gate.pass(MIB);
        let mut download = mirror.open(&path).await;
        assert!(download.read(1000).await == blob.bytes[..1000]);
        assert_eq!(old.iter().filter(|blob| disk.has(blob)).count(), 2);
        // 160 − 16 − 72 = 72 are free now. With one of the old blobs gone, 18 + 8 stay; with both, 0 + 16.
        disk.fill_up(if hopeless { 0 } else { 18 * MIB });
        gate.open();
        let rest = download.rest().await;
        if hopeless {
            assert!(rest.end.is_broken() && rest.body == blob.bytes[1000..1000 + rest.body.len()]);
            disk.make_free();
            disk.fill_up(4 * MIB);
            let again = mirror.get(&path).await;
            again.assert_is(&blob);
            assert!(!disk.has(&blob));
        } else {
            assert!(!rest.end.is_broken() && rest.body == blob.bytes[1000..]);
            until("the blob to be kept", || disk.has(&blob)).await;
            assert!(disk.free() >= 24 * MIB, "{} bytes are free", disk.free());
            assert_eq!(old.iter().filter(|blob| disk.has(blob)).count(), 1);
        }
        disk.published();
    }
}

/// An empty folder on a full disk is told at the start, by its name.
#[tokio::test]
async fn no_cache_can_be_made_on_a_full_disk() {
    let Some(disk) = Disk::new("no cache can be made on a full disk", 1) else { return };
    disk.fill_up(0);
    let told = disk.refusal().await;
    assert!(told.contains(disk.cache().to_str().unwrap()), "{told}");
    assert!(!Path::new(&disk.cache()).join("VERSION").exists());
    drop(File::open(disk.folder.path()));
}
