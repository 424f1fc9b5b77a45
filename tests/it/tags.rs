//! What changes upstream: tags, lists of tags, referrers. A check never costs a pull; without an upstream what is here
//! is served, and said to be old.

mod listings;
mod referrers;
mod refused;
mod stale;

use crate::support::image::{Image, Index};
use crate::support::mirror::Mirror;
use crate::support::upstream::{Upstream, manifest_path};

const REPOSITORY: &str = "library/alpine";

/// An upstream with one image, and a mirror that has pulled it and believes a tag for `fresh_for`.
async fn pulled(fresh_for: &str) -> (Upstream, Image, Mirror) {
    let up = Upstream::start().await;
    let image = Image::small(1);
    up.push_image(REPOSITORY, "latest", &image);
    let mirror = Mirror::with(&up, |settings| {
        settings.set("freshness", "fresh_for", fresh_for);
    })
    .await;
    mirror.pull(REPOSITORY, "latest", &image).await;
    (up, image, mirror)
}

fn latest() -> String {
    manifest_path(REPOSITORY, "latest")
}

/// T19: with nothing believed for long, the next request sees the move; the old digest stays.
#[tokio::test]
async fn t19_a_tag_that_moved_is_seen_and_the_old_digest_stays() {
    let (up, old, mirror) = pulled("0s").await;
    let new = Image::small(2);
    up.push_image(REPOSITORY, "latest", &new);
    let head = mirror.head(&latest()).await;
    assert_eq!(head.header("docker-content-digest"), Some(&*new.manifest.digest.to_string()));
    mirror.pull(REPOSITORY, "latest", &new).await;
    let before = up.count("*");
    up.remove(REPOSITORY, old.manifest.digest);
    let answer = mirror.get(&manifest_path(REPOSITORY, old.manifest.digest)).await;
    assert_eq!((answer.status(), &*answer.body), (200, &*old.manifest.bytes));
    assert_eq!(up.count("*"), before, "a digest never goes stale");
}

/// Within `fresh_for` nobody is asked.
#[tokio::test]
async fn a_fresh_tag_costs_nothing() {
    let (up, image, mirror) = pulled("1h").await;
    up.push_image(REPOSITORY, "latest", &Image::small(2));
    let before = up.count("*");
    for _ in 0..5 {
        mirror.pull(REPOSITORY, "latest", &image).await;
        assert_eq!(mirror.head(&latest()).await.status(), 200);
    }
    assert_eq!(up.count("*"), before);
    assert!(mirror.metric("roadstead_pulls_saved_total", &[("upstream", "docker.io")]).await >= 5.0);
}

/// Saved are the GETs of clients less those that the upstream was asked for, whoever or whatever they were for.
#[tokio::test]
async fn pulls_that_were_made_are_not_saved() {
    use crate::support::upstream::Act;
    const SAVED: (&str, &[(&str, &str)]) = ("roadstead_pulls_saved_total", &[("upstream", "docker.io")]);
    let up = Upstream::start().await;
    let image = Image::small(1);
    up.push_image(REPOSITORY, "latest", &image);
    let mirror = Mirror::with(&up, |settings| {
        settings.set("freshness", "fresh_for", "0s").set("freshness", "revalidate_within", "20s");
    })
    .await;
    // The HEAD of containerd brings the manifest here, which its GET then finds: one for one.
    mirror.head(&latest()).await;
    mirror.get(&manifest_path(REPOSITORY, image.manifest.digest)).await;
    assert_eq!((up.count("GET /v2/*/manifests/*"), mirror.metric(SAVED.0, SAVED.1).await), (1, 0.0));
    mirror.get(&latest()).await;
    assert_eq!(mirror.metric(SAVED.0, SAVED.1).await, 1.0, "checked by HEAD");
    // Checks by GET.
    up.on("HEAD *").always(Act::status(405));
    for _ in 0..3 {
        mirror.get(&latest()).await;
    }
    assert_eq!((up.count("GET /v2/*/manifests/*"), mirror.metric(SAVED.0, SAVED.1).await), (4, 1.0));
    up.down().await;
    mirror.get(&latest()).await;
    assert_eq!(mirror.metric(SAVED.0, SAVED.1).await, 2.0, "stale, and nobody was asked");
}

/// Checks are HEADs; the manifest is fetched once, by digest.
#[tokio::test]
async fn a_tag_check_never_costs_a_pull() {
    let (up, image, mirror) = pulled("0s").await;
    for _ in 0..5 {
        mirror.pull(REPOSITORY, "latest", &image).await;
    }
    assert_eq!(up.count("GET /v2/*/manifests/*"), 1);
    assert!(up.count("HEAD /v2/*/manifests/latest") >= 5);
    mirror.metric_becomes("roadstead_requests_total", &[("kind", "manifest"), ("result", "revalidated")], 5.0).await;
}

/// A tag that moves back to what is here: a HEAD, and no GET.
#[tokio::test]
async fn a_tag_that_moves_to_a_known_digest_needs_no_get() {
    let (up, old, mirror) = pulled("0s").await;
    let new = Image::small(2);
    up.push_image(REPOSITORY, "latest", &new);
    mirror.pull(REPOSITORY, "latest", &new).await;
    up.tag(REPOSITORY, "latest", &old.manifest.digest);
    mirror.pull(REPOSITORY, "latest", &old).await;
    up.tag(REPOSITORY, "other", &old.manifest.digest);
    mirror.pull(REPOSITORY, "other", &old).await;
    assert_eq!(up.count("GET /v2/*/manifests/*"), 2);
}

/// HEAD answers that do not tell: only then, and for 405, a GET.
#[tokio::test]
async fn a_head_that_does_not_tell_is_made_a_get() {
    use crate::support::upstream::Act;
    let acts = [Act::honest().without("Docker-Content-Digest"), Act::status(405)];
    for act in acts {
        let up = Upstream::start().await;
        let image = Image::small(1);
        up.push_image(REPOSITORY, "latest", &image);
        up.on("HEAD *").always(act);
        let mirror = Mirror::of(&up).await;
        mirror.pull(REPOSITORY, "latest", &image).await;
        assert!((1..=2).contains(&up.count("GET /v2/*/manifests/*")));
    }
    for status in [401, 429, 500, 503] {
        let up = Upstream::start().await;
        up.push_image(REPOSITORY, "latest", &Image::small(1));
        up.on("HEAD *").always(Act::status(status));
        let mirror = Mirror::of(&up).await;
        assert!(mirror.get(&latest()).await.status() >= 400, "{status}");
        assert_eq!(up.count("GET /v2/*/manifests/*"), 0, "{status} to a HEAD must not cost a pull");
    }
}

/// `immutable_tags` are never asked for again; others are.
#[tokio::test]
async fn immutable_tags_are_never_checked_again() {
    let up = Upstream::start().await;
    let image = Image::small(1);
    up.push_image(REPOSITORY, "v1.2.3", &image);
    up.push_image(REPOSITORY, "latest", &image);
    let mirror = Mirror::with(&up, |settings| {
        settings.set("freshness", "fresh_for", "0s").set("freshness", "immutable_tags", vec![r"^v\d+\.\d+\.\d+$"]);
    })
    .await;
    for _ in 0..4 {
        mirror.pull(REPOSITORY, "v1.2.3", &image).await;
        mirror.pull(REPOSITORY, "latest", &image).await;
    }
    assert_eq!(up.count("*/manifests/v1.2.3"), 1);
    assert!(up.count("*/manifests/latest") >= 4);
}

/// A 404 is believed for `negative`, then asked for again.
#[tokio::test]
async fn a_404_is_remembered_for_a_while() {
    for (negative, asked) in [("1h", 1), ("0s", 3)] {
        let up = Upstream::start().await;
        up.push_image(REPOSITORY, "latest", &Image::small(1));
        let mirror = Mirror::with(&up, |settings| {
            settings.set("freshness", "negative", negative);
        })
        .await;
        for _ in 0..3 {
            let answer = mirror.get(&manifest_path(REPOSITORY, "later")).await;
            assert_eq!((answer.status(), &*answer.error_code()), (404, "MANIFEST_UNKNOWN"));
        }
        assert_eq!(up.count("*/manifests/later"), asked, "negative = {negative}");
        mirror.metric_becomes("roadstead_requests_total", &[("result", "negative")], 3.0).await;
    }
}

/// An index and its images: each platform's manifest once.
#[tokio::test]
async fn an_index_is_pulled_with_its_images() {
    let up = Upstream::start().await;
    let builder = |seed| crate::support::image::Builder::new(seed).layer(1_000).oci();
    let index = Index::oci(vec![builder(1).build(), builder(2).platform("linux", "arm64").build()]);
    up.push_index(REPOSITORY, "multi", &index);
    let mirror = Mirror::of(&up).await;
    for _ in 0..2 {
        let answer = mirror.get(&manifest_path(REPOSITORY, "multi")).await;
        assert_eq!((answer.status(), &*answer.body), (200, &*index.manifest.bytes));
        for image in &index.images {
            let answer = mirror.get(&manifest_path(REPOSITORY, image.manifest.digest)).await;
            assert_eq!((answer.status(), &*answer.body), (200, &*image.manifest.bytes));
            for blob in image.blobs() {
                mirror.pull_blob(REPOSITORY, blob).await;
            }
        }
    }
    assert_eq!(up.count("GET /v2/*/manifests/*"), 3);
    assert_eq!(up.count("GET /v2/*/blobs/*"), 4);
}
