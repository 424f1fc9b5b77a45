//! Upstreams that break, lie, stall or are not there: a client gets the right bytes or can tell that it did not, and
//! nothing wrong is kept.

mod broken;
mod http10;
mod lies;
mod silent;

use std::time::Duration;

use crate::support::client::{self, Response};
use crate::support::image::{Blob, Image};
use crate::support::mirror::{Mirror, Settings};
use crate::support::upstream::{Act, Upstream, blob_path, manifest_path};
use crate::support::within;

const REPOSITORY: &str = "library/alpine";
const SIZE: usize = 1_000_000;

/// An upstream with one blob, a mirror of it with short time-outs, and the blob's path.
async fn with_blob() -> (Upstream, Mirror, Blob, String) {
    with_blob_and(short).await
}

/// As [`with_blob`], otherwise configured: what waits at a gate must not run into a time-out.
async fn with_blob_and(change: impl FnOnce(&mut Settings)) -> (Upstream, Mirror, Blob, String) {
    let up = Upstream::start().await;
    let blob = Blob::random(1, SIZE);
    up.push_blob(REPOSITORY, &blob);
    let path = blob_path(REPOSITORY, &blob);
    let mirror = Mirror::with(&up, change).await;
    (up, mirror, blob, path)
}

/// Time-outs short enough to wait for.
fn short(settings: &mut Settings) {
    settings.hub("connect_timeout", "500ms").hub("response_timeout", "500ms").hub("stall_timeout", "300ms");
}

/// What a `GET` gets, where even no answer at all is possible: an aborted connection is an answer of that kind.
async fn attempt(mirror: &Mirror, path: &str) -> Option<Response> {
    match client::try_open(mirror.address(), path, &[]).await {
        Ok(download) => Some(download.rest().await),
        Err(_) => None,
    }
}

/// The client can tell, nothing is kept, and when the upstream has recovered the blob comes whole.
async fn refused_then_recovered(up: &Upstream, mirror: &Mirror, blob: &Blob) {
    let path = blob_path(REPOSITORY, blob);
    if let Some(answer) = attempt(mirror, &path).await {
        answer.assert_refused();
    }
    assert_eq!(mirror.files().blobs(), [], "nothing is kept");
    assert_eq!(mirror.metric("roadstead_fills_in_flight", &[]).await, 0.0);
    up.on(&path).clear();
    recovered(mirror, blob).await;
}

/// Now that nothing is in its way any more, the blob comes whole and is kept.
async fn recovered(mirror: &Mirror, blob: &Blob) {
    let path = blob_path(REPOSITORY, blob);
    within("the mirror to ask again", async {
        // An upstream that has failed may be left alone for a moment.
        while attempt(mirror, &path).await.is_none_or(|answer| answer.status() != 200 || answer.end.is_broken()) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    mirror.pull_blob(REPOSITORY, blob).await;
    mirror.files().get(blob).await;
    mirror.files().blobs();
}

/// I4: no status before the upstream's; its refusal is then a clean answer.
#[tokio::test]
async fn i4_no_status_before_the_upstream_has_answered() {
    let (up, mirror, blob, path) = with_blob_and(|_| {}).await;
    let gate = up.gate_head(&path);
    up.on(&path).then(Act::status(404));
    let mut connection = client::Connection::open(mirror.address()).await;
    connection.send("GET", &path, &[]).await;
    gate.arrived(1).await;
    let answer = tokio::spawn(connection.answer("GET"));
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!answer.is_finished(), "a head before the upstream's");
    gate.pass(0);
    let answer = answer.await.unwrap().unwrap().rest().await;
    assert_eq!((answer.status(), &*answer.error_code(), answer.end), (404, "BLOB_UNKNOWN", client::End::Complete));
    assert!(!mirror.files().has(&blob));
}

/// I4: after the status a failure is an aborted connection, whatever the framing; for all who joined.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i4_a_failure_after_the_status_is_never_a_clean_end() {
    for chunked in [false, true] {
        let (up, mirror, blob, path) = with_blob_and(|_| {}).await;
        let act = if chunked { Act::honest().chunked() } else { Act::honest() };
        let gate = up.gate(&path);
        gate.pass(300_000);
        up.on(&path).then(act.close_after(400_000)).always(Act::status(500));
        let mut downloads = Vec::new();
        for _ in 0..8 {
            let mut download = mirror.open(&path).await;
            assert_eq!(download.status(), 200);
            // Not all that is here: of a length that nobody knows, the end is what came last (I5).
            assert!(download.read(200_000).await == blob.bytes[..200_000]);
            downloads.push(download);
        }
        gate.open();
        for download in downloads {
            let rest = download.rest().await;
            assert!(rest.end.is_broken(), "chunked: {chunked}: {:?}", rest.end);
            assert!(rest.body.len() < SIZE - 200_000);
        }
        assert!(mirror.files().blobs().is_empty());
    }
}

/// An image is pulled through every trouble at once: each request upstream fails in another way first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flaky_upstream_is_hidden() {
    let up = Upstream::start().await;
    let cdn = Upstream::start().await;
    let image = Image::small(1);
    up.push_image(REPOSITORY, "latest", &image);
    let path = blob_path(REPOSITORY, &image.layers[0]);
    up.on(&path)
        .then(Act::honest().close_after(10_000))
        .then(Act::honest().reset_after(10_000))
        .then(Act::redirect(&cdn))
        .then(Act::honest().ignore_range().close_after(60_000))
        .then(Act::honest().chunked().close_after(10_000))
        .then(Act::honest());
    cdn.on("GET /signed/*").then(Act::honest().close_after(10_000));
    let mirror = Mirror::with(&up, short).await;
    mirror.pull(REPOSITORY, "latest", &image).await;
    assert_eq!(mirror.metric("roadstead_fill_failures_total", &[]).await, 0.0);
    assert!(mirror.metric("roadstead_fill_resumes_total", &[]).await >= 4.0);
    let again = mirror.get(&manifest_path(REPOSITORY, "latest")).await;
    assert_eq!(again.body, image.manifest.bytes);
}
