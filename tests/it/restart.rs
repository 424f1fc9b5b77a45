//! What outlives the process: the cache, half a fill, the limit. What does not: anything wrong.

mod disk;
mod kill;
mod leftover;

use crate::support::image::{Blob, Image};
use crate::support::mirror::Mirror;
use crate::support::upstream::{Act, Upstream, blob_path, manifest_path};

const REPOSITORY: &str = "library/alpine";
const SIZE: usize = 4 << 20;

/// After a restart everything is served with no upstream there.
#[tokio::test]
async fn the_cache_outlives_the_process_and_the_upstream() {
    let up = Upstream::start().await;
    let image = Image::small(1);
    up.push_image(REPOSITORY, "latest", &image);
    let mirror = Mirror::with(&up, |settings| {
        settings.set("freshness", "fresh_for", "1h");
    })
    .await;
    mirror.pull(REPOSITORY, "latest", &image).await;
    let asked = up.count("*");
    up.down().await;
    let mirror = mirror.restart().await;
    assert_eq!(mirror.admin("/healthz").await.status(), 200);
    assert_eq!(mirror.admin("/readyz").await.status(), 200, "ready without an upstream");
    mirror.pull(REPOSITORY, "latest", &image).await;
    let by_digest = mirror.get(&manifest_path(REPOSITORY, image.manifest.digest)).await;
    assert_eq!(by_digest.header("content-type"), Some(&*image.manifest.media_type), "the type is remembered too");
    let mirror = mirror
        .restart_with(|settings| {
            settings.set("freshness", "fresh_for", "0s");
        })
        .await;
    let stale = mirror.get(&manifest_path(REPOSITORY, "latest")).await;
    assert_eq!((stale.status(), &*stale.body), (200, &*image.manifest.bytes), "stale, but here");
    assert!(stale.header("warning").is_some());
    let unknown = mirror.get(&manifest_path(REPOSITORY, "other")).await;
    assert_eq!(unknown.status(), 503);
    assert_eq!(up.count("*"), asked);
    for blob in image.blobs().chain([&image.manifest]) {
        mirror.files().get(blob).await;
    }
}

/// A fill goes on where an orderly stop left it.
#[tokio::test]
async fn a_fill_is_resumed_after_a_restart() {
    let up = Upstream::start().await;
    let blob = Blob::random(1, SIZE);
    up.push_blob(REPOSITORY, &blob);
    let path = blob_path(REPOSITORY, &blob);
    let gate = up.gate(&path);
    gate.pass(SIZE as u64 / 2);
    let mirror = Mirror::of(&up).await;
    let mut download = mirror.open(&path).await;
    assert!(download.read(SIZE / 2).await == blob.bytes[..SIZE / 2]);
    let mirror = mirror.restart().await;
    let rest = download.rest().await;
    assert!(rest.end.is_broken(), "the stop cut it off: {:?}", rest.end);
    assert!(!mirror.files().has(&blob));
    gate.open();
    mirror.pull_blob(REPOSITORY, &blob).await;
    let last = up.requests().pop().unwrap();
    assert!(last.from() > 0 && last.from() <= SIZE as u64 / 2, "resumed at {}", last.from());
    mirror.files().get(&blob).await;
    mirror.files().get(&blob).await;
    mirror.files().blobs();
}

/// What was damaged in `ingest/` while nobody ran is noticed: the right bytes come in the end, and no wrong ones.
#[tokio::test]
async fn a_damaged_half_is_not_believed() {
    let up = Upstream::start().await;
    let blob = Blob::random(1, SIZE);
    up.push_blob(REPOSITORY, &blob);
    let path = blob_path(REPOSITORY, &blob);
    up.on(&path).then(Act::honest().stall_after(SIZE as u64 / 2));
    let mirror = Mirror::of(&up).await;
    let mut download = mirror.open(&path).await;
    download.read(SIZE / 2).await;
    let files = mirror.files();
    let mirror = mirror.restart().await;
    for entry in std::fs::read_dir(files.root().join("ingest")).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        if let Some(byte) = bytes.get_mut(1000) {
            *byte ^= 1;
        }
        std::fs::write(&path, bytes).unwrap();
    }
    crate::support::within("the right bytes", async {
        loop {
            let answer = mirror.get(&path).await;
            answer.assert_not_wrong(&blob);
            if answer.status() == 200 && !answer.end.is_broken() {
                break;
            }
        }
    })
    .await;
    mirror.files().get(&blob).await;
    mirror.files().blobs();
}

/// Things in the folder that are not the mirror's do not stop it, are not served and are no content.
#[tokio::test]
async fn strange_files_do_no_harm() {
    let up = Upstream::start().await;
    let image = Image::small(1);
    up.push_image(REPOSITORY, "latest", &image);
    let mirror = Mirror::of(&up).await;
    mirror.pull(REPOSITORY, "latest", &image).await;
    let files = mirror.files();
    let strange = Blob::random(9, 100);
    let folder = files.root().join("blobs/sha256");
    std::fs::write(folder.join("notes.txt"), "mine").unwrap();
    std::fs::create_dir(folder.join("lost+found")).unwrap();
    std::fs::create_dir_all(files.path(&strange.digest)).unwrap();
    std::fs::write(files.root().join("ingest/garbage"), vec![0; 4096]).unwrap();
    std::fs::write(files.root().join("ingest/sha256-0123"), vec![0; 4096]).unwrap();
    let mirror = mirror.restart().await;
    mirror.pull(REPOSITORY, "latest", &image).await;
    let answer = mirror.get(&blob_path(REPOSITORY, &strange)).await;
    assert_eq!(answer.status(), 404, "a folder is no blob: {answer:?}");
    assert_eq!(mirror.get("/v2/library/alpine/blobs/notes.txt").await.status(), 400);
    assert!(files.root().join("blobs/sha256/notes.txt").exists(), "what is not ours stays");
}

/// `cache.offline`: what is here is served, nobody is asked for the rest.
#[tokio::test]
async fn offline_nobody_is_asked() {
    let up = Upstream::start().await;
    let image = Image::small(1);
    up.push_image(REPOSITORY, "latest", &image);
    let mirror = Mirror::with(&up, |settings| {
        settings.set("freshness", "fresh_for", "0s");
    })
    .await;
    mirror.pull(REPOSITORY, "latest", &image).await;
    let mirror = mirror
        .restart_with(|settings| {
            settings.set("cache", "offline", true);
        })
        .await;
    let asked = up.count("*");
    mirror.pull(REPOSITORY, "latest", &image).await;
    let missing = [manifest_path(REPOSITORY, "other"), blob_path(REPOSITORY, &Blob::random(3, 3))];
    for path in &missing {
        let answer = mirror.get(path).await;
        assert!([404, 503].contains(&answer.status()), "{path}: {}", answer.status());
        answer.error_code();
    }
    mirror.metric_becomes("roadstead_requests_total", &[("result", "offline")], 2.0).await;
    assert_eq!(up.count("*"), asked);
}
