//! Upstreams that say nothing, too little or "not now".

use std::time::Duration;

use super::{REPOSITORY, SIZE, attempt, recovered, refused_then_recovered, short, with_blob};
use crate::support::image::Image;
use crate::support::mirror::Mirror;
use crate::support::upstream::{Act, Upstream, manifest_path};

/// T14: accepted, never answered.
#[tokio::test]
async fn t14_a_hang_is_answered_within_the_deadline() {
    let (up, mirror, blob, path) = with_blob().await;
    up.on("/v2/*").always(Act::hang());
    for path in [path, manifest_path(REPOSITORY, "latest"), "/v2/library/alpine/tags/list".to_owned()] {
        let answer = mirror.get(&path).await;
        assert!([503, 504].contains(&answer.status()), "{path}: {}", answer.status());
        answer.assert_refused();
    }
    up.on("/v2/*").clear();
    recovered(&mirror, &blob).await;
}

/// T14: silence in the middle of a body, again and again.
#[tokio::test]
async fn t14_a_stall_that_does_not_end_is_cut_off() {
    let (up, mirror, blob, path) = with_blob().await;
    up.on(&path).then(Act::honest().stall_after(400_000)).always(Act::honest().stall_after(0));
    let answer = mirror.get(&path).await;
    assert_eq!(answer.status(), 200);
    assert!(answer.end.is_broken() && answer.body.len() <= 400_000, "{:?}", answer.end);
    refused_then_recovered(&up, &mirror, &blob).await;
}

/// T14: one stall is a broken transfer like any other.
#[tokio::test]
async fn t14_a_stall_is_resumed() {
    let (up, mirror, blob, path) = with_blob().await;
    up.on(&path).then(Act::honest().stall_after(400_000));
    mirror.pull_blob(REPOSITORY, &blob).await;
    assert_eq!(up.requests()[1].from(), 400_000);
    assert_eq!(up.sent(&path), SIZE as u64);
}

/// A slow upstream that never stalls is waited for: each pause is shorter than the time-out, all together longer.
#[tokio::test]
async fn a_drip_is_no_stall() {
    let (up, mirror, blob, path) = with_blob().await;
    up.on(&path).then(Act::honest().drip(SIZE / 20, Duration::from_millis(40)));
    mirror.pull_blob(REPOSITORY, &blob).await;
    assert_eq!(up.count(&path), 1);
}

/// I8: bytes that only keep the time-out away hold no place in the cache for ever, whether a client waits for them or has
/// left. What came is gone on with.
#[tokio::test]
async fn t14_a_trickle_is_a_stall() {
    for stays in [true, false] {
        let (up, mirror, blob, path) = with_blob().await;
        up.on(&path).always(Act::honest().drip(2, Duration::from_millis(50)));
        let download = mirror.open(&path).await;
        if stays {
            let answer = tokio::time::timeout(Duration::from_secs(30), download.rest()).await.expect("an end");
            assert!(answer.end.is_broken() && answer.body.len() < 1000, "{:?}", answer.end);
        } else {
            drop(download);
        }
        mirror.metric_becomes("roadstead_fill_failures_total", &[("reason", "broken")], 1.0).await;
        assert_eq!(mirror.metric("roadstead_fills_in_flight", &[]).await, 0.0);
        assert!(mirror.metric("roadstead_cache_bytes", &[("tier", "disk")]).await < 8192.0, "the reservation is given back");
        up.on(&path).clear();
        let asked = up.count(&path);
        recovered(&mirror, &blob).await;
        assert!(up.requests().iter().filter(|request| request.path == path).nth(asked).unwrap().from() > 0, "resumed");
    }
}

/// The same, a connection for each trickle.
#[tokio::test]
async fn t14_connections_that_bring_next_to_nothing_are_no_progress() {
    let (up, mirror, _, path) = with_blob().await;
    up.on(&path).always(Act::honest().delay(Duration::from_millis(100)).close_after(50));
    let answer = tokio::time::timeout(Duration::from_secs(20), mirror.get(&path)).await.expect("an end");
    assert!(answer.end.is_broken() && answer.body.len() < 1000, "{:?}", answer.end);
    mirror.metric_becomes("roadstead_fill_failures_total", &[("reason", "broken")], 1.0).await;
}

/// Everything an upstream can say instead: the client gets an OCI error, is not asked to sign in, and may try elsewhere.
#[tokio::test]
async fn every_status_of_an_upstream_is_a_clear_error() {
    let up = Upstream::start().await;
    let image = Image::small(1);
    up.push_image(REPOSITORY, "latest", &image);
    // What is neither a refusal nor an overload is the upstream's mistake; 401 and 416 would be the client's.
    const ODD: &[u16] = &[400, 403, 404, 410, 500, 502, 503, 504];
    for (status, allowed) in [
        (401, &[403, 404, 503][..]),
        (403, &[403, 404]),
        (404, &[404]),
        (408, &[503, 504]),
        (429, &[429, 503]),
        (500, &[502, 503, 504]),
        (502, &[502, 503, 504]),
        (503, &[502, 503, 504]),
        (504, &[502, 503, 504]),
        (204, ODD),
        (304, ODD),
        (400, ODD),
        (410, ODD),
        (418, ODD),
    ] {
        // A mirror of its own, so that no refusal is remembered.
        let mirror = Mirror::with(&up, short).await;
        up.on("/v2/*").always(Act::status(status).header("Retry-After", "3"));
        let blob = crate::support::upstream::blob_path(REPOSITORY, &image.layers[0]);
        for path in [manifest_path(REPOSITORY, "latest"), manifest_path(REPOSITORY, image.manifest.digest), blob] {
            let answer = attempt(&mirror, &path).await.expect("an answer");
            assert!(allowed.contains(&answer.status()), "{status} became {} for {path}", answer.status());
            answer.assert_refused();
            assert_eq!(answer.header("www-authenticate"), None);
            assert_eq!(answer.header("location"), None);
            if answer.status() == 503 && path.contains("/manifests/") {
                assert!(answer.header("retry-after").is_some(), "{status} {path}");
            }
        }
        assert_eq!(mirror.files().blobs(), []);
    }
}

/// T40: "not now", counted; the quota that was told is exported.
#[tokio::test]
async fn t40_a_rate_limit_is_counted_and_its_quota_exported() {
    let up = Upstream::start().await;
    let image = Image::small(1);
    up.push_image(REPOSITORY, "latest", &image);
    let mirror = Mirror::with(&up, short).await;
    let quota = |act: Act| act.header("ratelimit-limit", "100;w=21600").header("ratelimit-remaining", "76;w=21600");
    up.on("/v2/*/manifests/*").always(quota(Act::honest()));
    mirror.pull(REPOSITORY, "latest", &image).await;
    let hub = [("upstream", "docker.io")];
    assert_eq!(mirror.metric("roadstead_upstream_ratelimit_limit", &hub).await, 100.0);
    assert_eq!(mirror.metric("roadstead_upstream_ratelimit_remaining", &hub).await, 76.0);
    assert_eq!(mirror.metric("roadstead_upstream_throttled_total", &hub).await, 0.0);
    up.on("/v2/*/manifests/*").always(Act::status(429).body("toomanyrequests: retry-after: 880.092µs, allowed: 44000/minute"));
    let gets = up.count("GET *");
    let answer = mirror.get(&manifest_path(REPOSITORY, "other")).await;
    assert!([429, 503].contains(&answer.status()));
    assert!(mirror.metric("roadstead_upstream_throttled_total", &hub).await >= 1.0);
    assert_eq!(up.count("GET *"), gets, "a HEAD that was refused is not made a GET");
}
