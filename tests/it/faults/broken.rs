//! Transfers that break off: resumed by Range as long as they get on, unseen by clients.

use super::{REPOSITORY, SIZE, attempt, recovered, refused_then_recovered, short, with_blob, with_blob_and};
use crate::support::image::{Blob, Builder, Image};
use crate::support::mirror::Mirror;
use crate::support::upstream::{Act, Upstream, blob_path, manifest_path};

/// T10
#[tokio::test]
async fn t10_a_truncated_body_is_resumed() {
    let (up, mirror, blob, path) = with_blob().await;
    up.on(&path).then(Act::honest().close_after(400_000)).then(Act::honest().close_after(100_000));
    mirror.pull_blob(REPOSITORY, &blob).await;
    let from: Vec<u64> = up.requests().iter().map(|request| request.from()).collect();
    assert_eq!(from, [0, 400_000, 500_000]);
    assert_eq!(up.sent(&path), SIZE as u64, "each byte once");
    assert_eq!(mirror.metric("roadstead_fill_resumes_total", &[("upstream", "docker.io")]).await, 2.0);
    mirror.files().get(&blob).await;
}

/// T10, by a reset; what the mirror has of it is not asked for again.
#[tokio::test]
async fn t10_a_reset_is_resumed() {
    let (up, mirror, blob, path) = with_blob().await;
    up.on(&path).then(Act::honest().reset_after(400_000));
    mirror.pull_blob(REPOSITORY, &blob).await;
    let requests = up.requests();
    assert_eq!(requests.len(), 2);
    let from = requests[1].from();
    assert!((1..=400_000).contains(&from), "resumed at {from}");
}

/// A download that broke waits for a place among the upstream's connections as everybody does, and not for its own.
#[tokio::test]
async fn a_broken_download_gives_its_place_back() {
    for parallel in [false, true] {
        let (up, mirror, blob, path) = with_blob_and(|settings| {
            settings.hub("max_connections", 1);
            settings.set("fill", "parallel_threshold", if parallel { "128KiB" } else { "64MiB" });
        })
        .await;
        up.on(&path).then(Act::honest().close_after(400_000)).then(Act::honest().reset_after(100_000));
        mirror.pull_blob(REPOSITORY, &blob).await;
        // Nor do others who wait stand in its way.
        let image = Image::small(8);
        up.push_image(REPOSITORY, "latest", &image);
        mirror.pull(REPOSITORY, "latest", &image).await;
    }
}

/// The bytes are all here, and the mark at their end is not: they are not asked for again.
#[tokio::test]
async fn a_whole_body_without_its_end_is_whole() {
    let up = Upstream::start().await;
    let image = Builder::new(6).layer(SIZE).build();
    up.push_image(REPOSITORY, "latest", &image);
    let mirror = Mirror::of(&up).await;
    mirror.get(&manifest_path(REPOSITORY, "latest")).await;
    let path = blob_path(REPOSITORY, &image.layers[0]);
    up.on(&path).always(Act::honest().chunked().close_after(SIZE as u64));
    mirror.pull_blob(REPOSITORY, &image.layers[0]).await;
    assert_eq!(up.count(&path), 1);
}

/// The same where nobody tells the size: asked for what follows, the upstream says that nothing does, and the digest decides.
#[tokio::test]
async fn a_whole_body_of_unknown_length_without_its_end_is_whole() {
    let (up, mirror, blob, path) = with_blob().await;
    up.on(&path).then(Act::honest().chunked().close_after(SIZE as u64));
    mirror.pull_blob(REPOSITORY, &blob).await;
    assert_eq!((up.count(&path), up.sent(&path) >= SIZE as u64), (2, true));
    assert_eq!(up.requests()[1].status, Some(416));
    mirror.files().get(&blob).await;
    // One that says so of other bytes is not believed.
    let (up, mirror, blob, path) = with_blob().await;
    up.on(&path).then(Act::honest().corrupt().chunked().close_after(SIZE as u64));
    refused_then_recovered(&up, &mirror, &blob).await;
}

/// The first request for a large blob, whose size a manifest has told, and the one for a cold blob's size are asked again as any other is.
#[tokio::test]
async fn a_passing_failure_of_a_first_request_with_a_range_is_not_passed_on() {
    let up = Upstream::start().await;
    let image = Builder::new(7).layer(SIZE).build();
    up.push_image(REPOSITORY, "latest", &image);
    let mirror = Mirror::with(&up, |settings| {
        settings.set("fill", "parallel_threshold", "256KiB");
    })
    .await;
    mirror.get(&manifest_path(REPOSITORY, "latest")).await;
    let (layer, unknown) = (&image.layers[0], Blob::random(9, 1000));
    up.on(&blob_path(REPOSITORY, layer)).then(Act::status(503));
    mirror.pull_blob(REPOSITORY, layer).await;
    up.push_blob(REPOSITORY, &unknown);
    up.on(&blob_path(REPOSITORY, &unknown)).then(Act::status(503));
    let head = mirror.head(&blob_path(REPOSITORY, &unknown)).await;
    assert_eq!((head.status(), head.header("content-length")), (200, Some("1000")));
}

/// T10, a body in chunks that ends without the last one.
#[tokio::test]
async fn t10_a_chunked_body_that_breaks_is_resumed() {
    let (up, mirror, blob, path) = with_blob().await;
    up.on(&path).then(Act::honest().chunked().close_after(400_000));
    let answer = mirror.get(&path).await;
    assert_eq!((answer.status(), answer.end.is_broken()), (200, false));
    assert!(answer.body == blob.bytes);
    assert_eq!(up.requests()[1].from(), 400_000);
}

/// T10: 200 to a Range means everything again; the mirror skips what it has.
#[tokio::test]
async fn t10_an_upstream_without_ranges_is_resumed_by_skipping() {
    let (up, mirror, blob, path) = with_blob().await;
    up.on(&path).then(Act::honest().close_after(400_000)).always(Act::honest().ignore_range());
    mirror.pull_blob(REPOSITORY, &blob).await;
    assert_eq!(up.requests()[1].from(), 400_000);
    assert_eq!((up.count(&path), up.sent(&path)), (2, 1_400_000));
}

/// T10: a 206 that is not what was asked for is not put where it does not belong.
#[tokio::test]
async fn t10_a_wrong_content_range_is_not_believed() {
    for wrong in ["bytes 399999-999998/1000000", "bytes 400000-999999/1000001", "bytes 0-999999/1000000", "nonsense"] {
        let (up, mirror, blob, path) = with_blob().await;
        up.on(&path).then(Act::honest().close_after(400_000)).then(Act::honest().header("Content-Range", wrong));
        if let Some(answer) = attempt(&mirror, &path).await {
            answer.assert_not_wrong(&blob);
        }
        mirror.files().blobs();
        mirror.pull_blob(REPOSITORY, &blob).await;
    }
}

/// T38: the signature has expired when the transfer breaks; the registry is asked for a new one.
#[tokio::test]
async fn t38_an_expired_redirect_is_asked_for_again() {
    let (up, mirror, blob, path) = with_blob_and(|_| {}).await;
    let cdn = Upstream::start().await;
    up.on(&path).always(Act::redirect(&cdn));
    let signed = format!("/signed{path}");
    let gate = cdn.gate(&signed);
    gate.pass(400_000);
    cdn.on(&signed).then(Act::honest().close_after(400_000));
    let mut download = mirror.open(&path).await;
    assert!(download.read(300_000).await == blob.bytes[..300_000]);
    cdn.expire_signatures();
    gate.open();
    let rest = download.rest().await;
    assert!(!rest.end.is_broken() && rest.body == blob.bytes[300_000..]);
    assert_eq!(cdn.sent(&signed), SIZE as u64, "a refusal has a body, the bytes come once: {:?}", cdn.requests());
    assert!(up.count(&path) >= 2);
    let last = cdn.requests().pop().unwrap();
    assert_eq!((last.from(), last.status), (400_000, Some(206)), "Range goes with the redirect");
}

/// T10: no progress. The client's connection ends short, nothing is cached, the next request fetches again.
#[tokio::test]
async fn t10_an_upstream_that_keeps_failing_is_given_up() {
    for act in [Act::honest().close_after(0), Act::status(500), Act::raw(""), Act::honest().reset_after(0)] {
        let (up, mirror, blob, path) = with_blob().await;
        up.on(&path).then(Act::honest().close_after(400_000)).always(act);
        let answer = attempt(&mirror, &path).await.expect("an answer: the upstream had begun one");
        assert_eq!(answer.status(), 200);
        assert!(answer.end.is_broken() && answer.body.len() <= 400_000, "{:?}", answer.end);
        let asked = up.count(&path);
        assert!(asked <= 20, "asked {asked} times without a byte");
        assert_eq!(mirror.metric("roadstead_fill_failures_total", &[("upstream", "docker.io")]).await, 1.0);
        refused_then_recovered(&up, &mirror, &blob).await;
    }
}

/// T10: as often as it makes progress.
#[tokio::test]
async fn t10_slow_progress_is_progress() {
    let (up, mirror, blob, path) = with_blob().await;
    up.on(&path).always(Act::honest().close_after(50_000));
    mirror.pull_blob(REPOSITORY, &blob).await;
    assert_eq!((up.count(&path), up.sent(&path)), (20, SIZE as u64));
}

/// An upstream with two addresses: the second is asked when the first is not there.
#[tokio::test]
async fn the_second_address_is_used_when_the_first_is_down() {
    let (first, second) = (Upstream::start().await, Upstream::start().await);
    let blob = Blob::random(1, SIZE);
    second.push_blob(REPOSITORY, &blob);
    first.down().await;
    let mirror = Mirror::with(&first, |settings| {
        short(settings);
        settings.hub("url", vec![first.url(), second.url()]);
    })
    .await;
    mirror.pull_blob(REPOSITORY, &blob).await;
    assert_eq!(second.sent(&blob_path(REPOSITORY, &blob)), SIZE as u64);
}

/// Refused before anything was sent.
#[tokio::test]
async fn an_upstream_that_is_down_is_503_and_comes_back() {
    let (up, mirror, blob, path) = with_blob().await;
    up.down().await;
    for path in [path, "/v2/library/alpine/manifests/latest".to_owned(), "/v2/library/alpine/tags/list".to_owned()] {
        let answer = mirror.get(&path).await;
        assert_eq!((answer.status(), &*answer.error_code()), (503, "UNAVAILABLE"), "{path}");
    }
    up.up().await;
    recovered(&mirror, &blob).await;
}
