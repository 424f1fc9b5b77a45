//! T20: serving what is here when the upstream cannot be asked.

use super::{REPOSITORY, latest, pulled};
use crate::support::client::{self, Response};
use crate::support::image::Image;
use crate::support::mirror::Mirror;
use crate::support::upstream::{Act, Upstream, manifest_path};

/// The answer is the old manifest, and says that it is old.
fn assert_stale(answer: &Response, image: &Image, what: &str) {
    assert_eq!((answer.status(), &*answer.body), (200, &*image.manifest.bytes), "{what}");
    assert!(answer.header("warning").is_some_and(|value| value.starts_with("299 ")), "{what}: {:?}", answer.head);
    let status = answer.header("cache-status").unwrap_or_default();
    assert!(status.starts_with("roadstead; hit; ttl=") && status.ends_with("detail=stale"), "{what}: {status}");
}

/// T20: overload, errors, silence, nobody there.
#[tokio::test]
async fn t20_a_stale_tag_is_served_when_the_upstream_fails() {
    for act in [Act::status(429), Act::status(503), Act::status(500), Act::hang(), Act::raw(""), Act::html()] {
        let what = format!("{act:?}");
        let up = Upstream::start().await;
        let image = Image::small(1);
        up.push_image(REPOSITORY, "latest", &image);
        let mirror = Mirror::with(&up, |settings| {
            settings.set("freshness", "fresh_for", "0s").set("freshness", "revalidate_within", "20s");
            settings.hub("response_timeout", "300ms");
        })
        .await;
        mirror.pull(REPOSITORY, "latest", &image).await;
        let gets = up.count("GET *");
        up.on("/v2/*").always(act);
        assert_stale(&mirror.get(&latest()).await, &image, &what);
        // Only a success that does not tell the digest, as a page does, is asked again by GET.
        let most = if what.contains("text/html") { 2 } else { 1 };
        assert!(up.count("GET /v2/*/manifests/*") <= most, "{what}");
        // Content needs nobody.
        for blob in image.blobs() {
            mirror.pull_blob(REPOSITORY, blob).await;
        }
        assert!(up.count("GET *") <= gets + 1, "{what}: at most a probe of /v2/, or that one");
        mirror.metric_becomes("roadstead_requests_total", &[("result", "stale")], 1.0).await;
    }
    let (up, image, mirror) = pulled("0s").await;
    up.down().await;
    assert_stale(&mirror.get(&latest()).await, &image, "nobody there");
    let head = mirror.head(&latest()).await;
    assert_eq!((head.status(), head.header("warning").is_some()), (200, true));
    up.up().await;
    crate::support::within("the mirror to ask again", async {
        while mirror.get(&latest()).await.header("warning").is_some() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
}

/// T20: not beyond `stale_if_error`.
#[tokio::test]
async fn t20_a_tag_that_is_too_old_is_not_served() {
    let up = Upstream::start().await;
    let image = Image::small(1);
    up.push_image(REPOSITORY, "latest", &image);
    let mirror = Mirror::with(&up, |settings| {
        settings.set("freshness", "fresh_for", "0s").set("freshness", "stale_if_error", "0s");
    })
    .await;
    mirror.pull(REPOSITORY, "latest", &image).await;
    up.down().await;
    let answer = mirror.get(&latest()).await;
    assert_eq!((answer.status(), &*answer.error_code()), (503, "UNAVAILABLE"));
    let by_digest = mirror.get(&manifest_path(REPOSITORY, image.manifest.digest)).await;
    assert_eq!(by_digest.status(), 200, "a digest is never too old");
}

/// An upstream that says "gone" has answered: that is no failure to hide.
#[tokio::test]
async fn a_tag_that_was_removed_upstream_is_gone() {
    let (up, image, mirror) = pulled("0s").await;
    up.remove(REPOSITORY, "latest");
    let answer = mirror.get(&latest()).await;
    assert_eq!((answer.status(), &*answer.error_code()), (404, "MANIFEST_UNKNOWN"));
    let by_digest = mirror.get(&manifest_path(REPOSITORY, image.manifest.digest)).await;
    assert_eq!(by_digest.status(), 200);
}

/// A replica that lags: one names the new manifest, and the next one has no such thing. That is no word on the tag.
#[tokio::test]
async fn a_tag_whose_new_manifest_is_not_there_yet_is_stale() {
    let up = Upstream::start().await;
    let (old, new) = (Image::small(1), Image::small(2));
    up.push_image(REPOSITORY, "latest", &old);
    let mirror = Mirror::with(&up, |settings| {
        settings.set("freshness", "fresh_for", "0s").set("freshness", "revalidate_within", "20s");
    })
    .await;
    mirror.pull(REPOSITORY, "latest", &old).await;
    up.push_image(REPOSITORY, "latest", &new);
    let manifest = format!("GET {}", manifest_path(REPOSITORY, new.manifest.digest));
    up.on(&manifest).always(Act::status(404));
    for what in ["it lags", "it still does"] {
        assert_stale(&mirror.get(&latest()).await, &old, what);
    }
    assert_eq!(up.count(&manifest), 2, "nothing is remembered of it");
    up.down().await;
    assert_stale(&mirror.get(&latest()).await, &old, "the record is kept");
    up.up().await;
    up.on(&manifest).clear();
    crate::support::within("the new image", async {
        while mirror.get(&latest()).await.body != new.manifest.bytes {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    })
    .await;
}

/// The same, with nothing older to give: an outage, and not a 404 that clients and the mirror would believe.
#[tokio::test]
async fn a_tag_whose_manifest_is_not_there_yet_is_unavailable() {
    let up = Upstream::start().await;
    let image = Image::small(1);
    up.push_image(REPOSITORY, "latest", &image);
    let manifest = format!("GET {}", manifest_path(REPOSITORY, image.manifest.digest));
    up.on(&manifest).always(Act::status(404));
    let mirror = Mirror::of(&up).await;
    let answer = mirror.get(&latest()).await;
    assert_eq!((answer.status(), &*answer.error_code()), (503, "UNAVAILABLE"));
    assert!(answer.header("retry-after").is_some());
    up.on(&manifest).clear();
    mirror.pull(REPOSITORY, "latest", &image).await;
}

/// `revalidate_within`: a slow check is not waited for. What it finds in the end counts for the next request.
#[tokio::test]
async fn a_slow_check_is_not_waited_for() {
    let up = Upstream::start().await;
    let (old, new) = (Image::small(1), Image::small(2));
    up.push_image(REPOSITORY, "latest", &old);
    let mirror = Mirror::with(&up, |settings| {
        settings.set("freshness", "fresh_for", "0s").set("freshness", "revalidate_within", "100ms");
    })
    .await;
    mirror.pull(REPOSITORY, "latest", &old).await;
    up.push_image(REPOSITORY, "latest", &new);
    let gate = up.gate_head("HEAD *");
    let answer = mirror.get(&latest()).await;
    assert_eq!(answer.body, old.manifest.bytes, "the check is still under way");
    assert_eq!(up.requests().last().unwrap().status, None);
    gate.open();
    crate::support::within("the new image", async {
        while mirror.get(&latest()).await.body != new.manifest.bytes {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    })
    .await;
}

/// `stale_while_revalidate`: served at once, checked behind; one check for many.
#[tokio::test]
async fn a_stale_tag_is_served_while_it_is_checked() {
    let up = Upstream::start().await;
    let (old, new) = (Image::small(1), Image::small(2));
    up.push_image(REPOSITORY, "latest", &old);
    let mirror = Mirror::with(&up, |settings| {
        settings.set("freshness", "fresh_for", "0s").set("freshness", "stale_while_revalidate", "1h");
    })
    .await;
    mirror.pull(REPOSITORY, "latest", &old).await;
    up.push_image(REPOSITORY, "latest", &new);
    let gate = up.gate_head("HEAD *");
    for _ in 0..5 {
        assert_eq!(mirror.get(&latest()).await.body, old.manifest.bytes, "nobody waits");
    }
    gate.arrived(1).await;
    assert_eq!(gate.arrivals(), 1);
    gate.open();
    crate::support::within("the new image", async {
        while mirror.get(&latest()).await.body != new.manifest.bytes {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    })
    .await;
}

/// A manifest that goes while its tag is checked in vain is pulled again; that the tag was not confirmed is told all the same.
#[tokio::test]
async fn a_stale_tag_is_told_also_where_its_manifest_has_to_be_pulled() {
    let (up, image, mirror) = pulled("0s").await;
    let head = format!("HEAD {}", latest());
    up.on(&head).always(Act::status(503));
    let gate = up.gate_head(&head);
    let address = mirror.address();
    let waiting = tokio::spawn(async move { client::get(address, &latest(), &[]).await });
    gate.arrived(1).await;
    let purge = format!("/api/v1/purge?ref={}", image.manifest.digest);
    assert_eq!(client::request(mirror.admin_address(), "POST", &purge, &[]).await.status(), 200);
    assert!(!mirror.files().has(&image.manifest));
    gate.open();
    let answer = waiting.await.unwrap();
    assert_eq!((answer.status(), &*answer.body), (200, &*image.manifest.bytes), "{}", answer.text());
    assert_eq!(answer.header("cache-status"), Some("roadstead; fwd=miss; stored; detail=stale"));
    assert!(answer.header("warning").is_some_and(|value| value.starts_with("299 ")), "{:?}", answer.head);
    mirror.metric_becomes("roadstead_stale_total", &[("upstream", "docker.io")], 1.0).await;
}
