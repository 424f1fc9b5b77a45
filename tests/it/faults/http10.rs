//! HTTP/1.0, which nginx speaks by `proxy_pass` unless it is told otherwise: without chunks, only a length shows its clients
//! that an answer is whole.

use std::time::Duration;

use super::{REPOSITORY, SIZE, recovered, short, with_blob_and};
use crate::support::client::{Connection, Response};
use crate::support::image::{Blob, Builder, random};
use crate::support::mirror::Mirror;
use crate::support::upstream::{Act, Upstream, blob_path, manifest_path};

/// What such a client gets.
async fn get(mirror: &Mirror, path: &str) -> Response {
    let mut connection = Connection::open(mirror.address()).await;
    connection.send_raw(format!("GET {path} HTTP/1.0\r\nHost: x\r\n\r\n").as_bytes()).await;
    let answer = connection.answer("GET").await.expect("an answer").rest().await;
    assert_eq!(answer.header("transfer-encoding"), None);
    answer
}

/// A mirror whose cache can take the blob, or cannot, so that it passes through.
async fn mirror(passes_through: bool) -> (Upstream, Mirror, Blob, String) {
    with_blob_and(|settings| {
        short(settings);
        if passes_through {
            settings.set("cache", "max_size", "512KiB").set("cache", "memory", "64KiB");
        }
    })
    .await
}

/// Answers without a length, of an upstream that tells none to a range either, or does.
fn unsized_answers() -> [Act; 3] {
    [Act::honest().chunked(), Act::honest().chunked().ignore_range(), Act::honest().unframed().ignore_range()]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i4_a_client_without_chunks_is_not_deceived() {
    for passes_through in [false, true] {
        for act in unsized_answers() {
            for bad in [act.clone().corrupt(), act.clone().only(SIZE / 2), act.clone().body(random(9, SIZE + 9))] {
                let (up, mirror, blob, path) = mirror(passes_through).await;
                up.on(&path).always(bad);
                get(&mirror, &path).await.assert_refused();
                assert!(mirror.files().blobs().is_empty());
                up.on(&path).clear();
                if !passes_through {
                    recovered(&mirror, &blob).await;
                }
            }
            let (up, mirror, _, path) = mirror(passes_through).await;
            up.on(&path).then(act.clone().close_after(400_000)).always(act.close_after(0));
            get(&mirror, &path).await.assert_refused();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_without_chunks_gets_what_is_right() {
    for act in unsized_answers() {
        let (up, mirror, blob, path) = mirror(false).await;
        up.on(&path).always(act);
        for _ in 0..2 {
            get(&mirror, &path).await.assert_is(&blob);
        }
        assert_eq!(up.count(&path), 1);
    }
    // Passed through: once the upstream has told the length of its own, once for a range.
    for act in [Act::honest(), Act::honest().chunked()] {
        let (up, mirror, blob, path) = mirror(true).await;
        up.on(&path).always(act);
        get(&mirror, &path).await.assert_is(&blob);
        assert!(mirror.files().blobs().is_empty());
    }
}

/// I5: what is longer than its manifest says passes through to no clean end either, whatever the client speaks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i5_what_passes_through_is_not_longer_than_was_told() {
    let up = Upstream::start().await;
    let image = Builder::new(1).layer(SIZE).build();
    up.push_image(REPOSITORY, "latest", &image);
    let mirror = Mirror::with(&up, |settings| {
        settings.set("cache", "max_size", "512KiB").set("cache", "memory", "64KiB");
    })
    .await;
    let layer = &image.layers[0];
    assert_eq!(mirror.get(&manifest_path(REPOSITORY, "latest")).await.status(), 200);
    let path = blob_path(REPOSITORY, layer);
    // Of the told length first, another piece some time later.
    let mut longer = random(7, SIZE).to_vec();
    longer.extend_from_slice(b"more");
    up.on(&path).always(Act::honest().chunked().ignore_range().body(longer).drip(SIZE, Duration::from_millis(20)));
    get(&mirror, &path).await.assert_refused();
    mirror.get(&path).await.assert_not_wrong(layer);
}
