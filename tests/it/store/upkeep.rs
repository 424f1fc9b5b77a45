//! What the mirror does for its content by itself, and what operators ask of it, over the wire.

use super::REPOSITORY;
use crate::support::client::{self, Response};
use crate::support::image::{Blob, Builder, Image, Index};
use crate::support::mirror::Mirror;
use crate::support::until;
use crate::support::upstream::{Act, Upstream, blob_path, manifest_path};

async fn post(mirror: &Mirror, path: &str) -> Response {
    let answer = client::request(mirror.admin_address(), "POST", &format!("/api/v1/{path}"), &[]).await;
    assert_eq!(answer.status(), 200, "{path}: {}", answer.text());
    answer
}

/// Waits until something of the cache's own account is so.
async fn account(mirror: &Mirror, what: &str, is_so: impl Fn(&serde_json::Value) -> bool) {
    crate::support::within(what, async {
        while !is_so(&mirror.admin("/api/v1/cache").await.json()) {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    })
    .await;
}

/// A bit that has flipped in a large blob, with nothing else to be seen of it: the background pass finds it, sets the
/// file apart and has it fetched again, before anybody asks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_background_pass_finds_a_flipped_bit() {
    let up = Upstream::start().await;
    let image = Builder::new(1).layer(1 << 20).layer(2000).build();
    up.push_image(REPOSITORY, "latest", &image);
    let mirror = Mirror::with(&up, |settings| {
        settings.set("cache", "verify_every", "0s").set("cache", "memory", "1MiB");
    })
    .await;
    mirror.pull(REPOSITORY, "latest", &image).await;
    let (files, blob) = (mirror.files(), &image.layers[0]);
    files.get(blob).await;
    let path = files.path(&blob.digest);
    let modified = std::fs::metadata(&path).unwrap().modified().unwrap();
    let mut wrong = blob.bytes.to_vec();
    wrong[700_000] ^= 0x10;
    std::fs::write(&path, &wrong).unwrap();
    std::fs::File::open(&path).unwrap().set_modified(modified).unwrap();
    let mirror = mirror
        .restart_with(|settings| {
            settings.set("cache", "verify_every", "1s").set("cache", "verify_rate", "0B");
        })
        .await;
    let aside = files.root().join("quarantine").join(format!("sha256-{}", blob.digest.hex()));
    until("the file to be set apart", || aside.exists()).await;
    assert!(std::fs::read(&aside).unwrap() == wrong);
    until("it to be fetched again", || std::fs::read(&path).is_ok_and(|bytes| bytes == blob.bytes)).await;
    assert_eq!(up.count(&blob_path(REPOSITORY, blob)), 2);
    mirror.pull_blob(REPOSITORY, blob).await;
    assert_eq!(mirror.metric("roadstead_cache_damaged_total", &[]).await, 1.0);
    until("the pass to be written down", || {
        std::fs::read_to_string(files.root().join("verified")).is_ok_and(|text| text.contains("\"next\":0,"))
    })
    .await;
    let told = mirror.admin("/api/v1/gc").await.json();
    assert_eq!((&told["quarantined"], &told["spare_bytes"]), (&1.into(), &(1 << 20).into()));
}

/// While a damaged blob is fetched again, somebody asks for it by a repository that has it not: that download is joined, and its
/// end is not the end of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_damaged_is_fetched_from_who_has_it() {
    let up = Upstream::start().await;
    let image = Builder::new(1).layer(1 << 20).build();
    up.push_image(REPOSITORY, "latest", &image);
    let mirror = Mirror::of(&up).await;
    mirror.pull(REPOSITORY, "latest", &image).await;
    let (files, blob) = (mirror.files(), &image.layers[0]);
    files.get(blob).await;
    account(&mirror, "the catalog", |account| account["complete"] == true).await;
    let path = files.path(&blob.digest);
    post(&mirror, &format!("purge?ref={}", blob.digest)).await;
    let elsewhere = blob_path("library/other", blob);
    let gate = up.gate_head(&format!("GET {elsewhere}"));
    let address = mirror.address();
    let asking = tokio::spawn(async move { client::get(address, &elsewhere, &[]).await.status() });
    gate.arrived(1).await;
    std::fs::write(&path, vec![0; 1 << 20]).unwrap();
    assert_eq!(mirror.head(&blob_path(REPOSITORY, blob)).await.status(), 200);
    mirror.metric_becomes("roadstead_cache_damaged_total", &[], 1.0).await;
    gate.open();
    assert_eq!(asking.await.unwrap(), 404);
    until("it to be fetched again", || std::fs::read(&path).is_ok_and(|bytes| bytes == blob.bytes)).await;
}

/// What an upstream answers with the right length and the wrong bytes is no end of it: another repository has the blob, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_damaged_and_comes_wrong_again_is_asked_for_elsewhere() {
    let up = Upstream::start().await;
    let mirror = Mirror::of(&up).await;
    // The same layer in two manifests.
    let images = [Builder::new(1).layer(1 << 20).build(), Builder::new(1).layer(1 << 20).oci().build()];
    for (image, repository) in images.iter().zip([REPOSITORY, "library/other"]) {
        up.push_image(repository, "latest", image);
        mirror.pull(repository, "latest", image).await;
    }
    let (files, blob) = (mirror.files(), &images[0].layers[0]);
    files.get(blob).await;
    account(&mirror, "the catalog", |account| account["complete"] == true).await;
    let path = files.path(&blob.digest);
    post(&mirror, &format!("purge?ref={}", blob.digest)).await;
    let asked = up.count("GET */blobs/*");
    // Whichever is asked first.
    up.on(&format!("GET /v2/*/blobs/{}", blob.digest)).then(Act::honest().corrupt());
    std::fs::write(&path, vec![0; 1 << 20]).unwrap();
    // Finds the damage, and asks the upstream for no blob.
    assert_eq!(mirror.get(&manifest_path(REPOSITORY, blob.digest)).await.status(), 404);
    until("it to be fetched again", || std::fs::read(&path).is_ok_and(|bytes| bytes == blob.bytes)).await;
    assert_eq!(up.count("GET */blobs/*") - asked, 2);
    assert_eq!(mirror.metric("roadstead_cache_damaged_total", &[]).await, 1.0);
}

/// A mirror that has just started on a folder with one large blob, in which a bit has flipped: neither its length nor its
/// time tells.
async fn flipped(up: &Upstream, blob: &Blob, verify_every: &'static str) -> Mirror {
    up.push_blob(REPOSITORY, blob);
    let mirror = Mirror::of(up).await;
    mirror.pull_blob(REPOSITORY, blob).await;
    mirror.files().get(blob).await;
    let mirror = mirror
        .restart_with(|settings| {
            settings.set("cache", "verify_every", verify_every).set("cache", "verify_rate", "0B");
        })
        .await;
    account(&mirror, "the index", |account| account["indexed"] == true).await;
    let path = mirror.files().path(&blob.digest);
    let modified = std::fs::metadata(&path).unwrap().modified().unwrap();
    let mut wrong = blob.bytes.to_vec();
    wrong[700_000] ^= 0x10;
    std::fs::write(&path, &wrong).unwrap();
    std::fs::File::open(&path).unwrap().set_modified(modified).unwrap();
    let served = mirror.get(&blob_path(REPOSITORY, blob)).await;
    assert!(served.status() == 200 && served.body == wrong, "nothing tells it from a sound one but its bytes");
    mirror
}

/// A client that was given a wrong blob, throws it away and asks again, gets the right one; so does everybody after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_gets_a_wrong_blob_twice() {
    let up = Upstream::start().await;
    let blob = Blob::random(1, 1 << 20);
    let mirror = flipped(&up, &blob, "0s").await;
    // Neither says that the first one was wrong.
    let path = blob_path(REPOSITORY, &blob);
    assert_eq!(mirror.head(&path).await.status(), 200);
    assert_eq!(mirror.get_with(&path, &[("range", "bytes=0-99")]).await.body, blob.bytes[..100]);
    assert_eq!(mirror.metric("roadstead_cache_damaged_total", &[]).await, 0.0);
    mirror.pull_blob(REPOSITORY, &blob).await;
    mirror.pull_blob(REPOSITORY, &blob).await;
    assert_eq!(up.count(&path), 2, "fetched again, once");
    assert_eq!(mirror.metric("roadstead_cache_damaged_total", &[]).await, 1.0);
    assert!(mirror.files().root().join("quarantine").join(format!("sha256-{}", blob.digest.hex())).exists());
    mirror.files().blobs();
}

/// A file that is read for the first time since the start is hashed behind its reader: the next one, whoever it is, gets it
/// right.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_bit_is_found_behind_its_first_reader() {
    let up = Upstream::start().await;
    let blob = Blob::random(1, 1 << 20);
    let mirror = flipped(&up, &blob, "30days").await;
    let aside = mirror.files().root().join("quarantine").join(format!("sha256-{}", blob.digest.hex()));
    until("the file to be set apart", || aside.exists()).await;
    mirror.pull_blob(REPOSITORY, &blob).await;
    mirror.files().get(&blob).await;
    assert_eq!(up.count(&blob_path(REPOSITORY, &blob)), 2);
    assert_eq!(mirror.metric("roadstead_cache_damaged_total", &[]).await, 1.0);
}

/// A large file that was cut off or written to while the mirror runs is never served as it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_file_is_caught_when_it_is_opened() {
    let up = Upstream::start().await;
    let blobs: Vec<Blob> = (0..2).map(|seed| Blob::random(seed, 1 << 20)).collect();
    blobs.iter().for_each(|blob| up.push_blob(REPOSITORY, blob));
    let mirror = Mirror::of(&up).await;
    for blob in &blobs {
        mirror.pull_blob(REPOSITORY, blob).await;
        mirror.files().get(blob).await;
    }
    let mirror = mirror.restart().await;
    account(&mirror, "the index", |account| account["indexed"] == true).await;
    let mut flipped = blobs[0].bytes.to_vec();
    flipped[999_999] ^= 1;
    std::fs::write(mirror.files().path(&blobs[0].digest), flipped).unwrap();
    std::fs::write(mirror.files().path(&blobs[1].digest), &blobs[1].bytes[..1000]).unwrap();
    for blob in &blobs {
        mirror.pull_blob(REPOSITORY, blob).await;
        assert_eq!(up.count(&blob_path(REPOSITORY, blob)), 2, "fetched again");
    }
    mirror.files().blobs();
}

/// `pin --platform`: of an image for two, only what the one needs survives.
#[tokio::test]
async fn a_pin_on_one_platform() {
    let up = Upstream::start().await;
    let images = [("amd64", 1), ("arm64", 2)].map(|(arch, seed)| Builder::new(seed).platform("linux", arch).layer(5000).build());
    let index = Index::oci(images.to_vec());
    up.push_index(REPOSITORY, "latest", &index);
    let mirror = Mirror::of(&up).await;
    mirror.get(&manifest_path(REPOSITORY, "latest")).await.assert_is(&index.manifest);
    for image in &images {
        mirror.get(&manifest_path(REPOSITORY, image.manifest.digest)).await.assert_is(&image.manifest);
        for blob in image.blobs() {
            mirror.pull_blob(REPOSITORY, blob).await;
            mirror.files().get(blob).await;
        }
    }
    let bad = client::request(mirror.admin_address(), "POST", "/api/v1/pin?ref=alpine&platform=arm", &[]).await;
    assert_eq!(bad.status(), 400);
    let pinned = post(&mirror, "pin?ref=alpine&platform=linux/arm64").await.json();
    assert_eq!(pinned["pins"][0]["platforms"], serde_json::json!(["linux/arm64"]));
    // After a restart, too.
    let mirror = mirror.restart().await;
    account(&mirror, "the catalog", |account| account["complete"] == true).await;
    for blob in images.iter().flat_map(Image::blobs).chain(images.iter().map(|image| &image.manifest)) {
        post(&mirror, &format!("purge?ref={}", blob.digest)).await;
    }
    let here = |image: &Image| image.blobs().chain([&image.manifest]).map(|blob| mirror.files().has(blob)).collect::<Vec<_>>();
    assert_eq!((here(&images[0]), here(&images[1])), (vec![false; 3], vec![true; 3]));
    let explained = mirror.admin("/api/v1/explain?ref=alpine").await.json();
    let parts = explained["parts"].as_array().unwrap().iter();
    let pinned: Vec<&serde_json::Value> = parts.filter(|part| part["pinned"] == true).collect();
    assert_eq!(pinned.len(), 4, "the index, its one manifest, config and layer: {explained}");
    post(&mirror, "unpin?ref=alpine").await;
    post(&mirror, "purge?ref=alpine").await;
    assert!(mirror.files().blobs().is_empty());
}

/// What operators are told of an image: shared parts, and whether its upstream would be asked at all.
#[tokio::test]
async fn explain_knows_the_upstream() {
    let up = Upstream::start().await;
    let image = Image::small(1);
    up.push_image(REPOSITORY, "latest", &image);
    let mirror = Mirror::with(&up, |settings| {
        settings.set("freshness", "fresh_for", "0s");
    })
    .await;
    mirror.pull(REPOSITORY, "latest", &image).await;
    for blob in image.blobs() {
        mirror.files().get(blob).await;
    }
    let explain = async |reference: &str| mirror.admin(&format!("/api/v1/explain?ref={reference}")).await.json();
    let told = explain("alpine").await;
    assert_eq!(told["upstream_state"], "up");
    assert!(told["pull"].as_str().unwrap().contains("ask docker.io by HEAD"), "{told}");
    let switch = [("content-type", "application/json"), ("content-length", "16")];
    let mut connection = client::Connection::open(mirror.admin_address()).await;
    connection.send("POST", "/api/v1/offline", &switch).await;
    connection.send_raw(br#"{"offline":true}"#).await;
    assert_eq!(connection.answer("POST").await.unwrap().rest().await.status(), 200);
    let told = explain("alpine").await;
    assert_eq!(told["upstream_state"], "offline");
    assert_eq!(told["pull"], "a pull would take the tag as it was, because docker.io is offline, then serve all of it from here");
    let told = explain("other").await;
    assert_eq!(told["pull"], "a pull would fail: docker.io is offline");
    assert_eq!(
        explain(&image.layers[0].digest.to_string()).await["repositories"],
        serde_json::json!(["docker.io/library/alpine"])
    );
}
