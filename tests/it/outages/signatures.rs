//! What clients look for that check signatures, which mostly is not there: as much of a cached image as its layers.

use std::time::Duration;

use roadstead::oci::Wanted;
use roadstead::oci::route::ReferrersQuery;

use super::reason;
use super::simulated::{Sim, pass, still};
use crate::support::client::Response;
use crate::support::image::{Blob, Image, Index};
use crate::support::mirror::{Mirror, Settings};
use crate::support::upstream::{Act, Upstream, manifest_path};

const REPOSITORY: &str = "team/a";
const SUFFIXES: [&str; 4] = [".sig", ".att", ".sbom", ""];

fn about(subject: &Blob, suffix: &str) -> String {
    manifest_path(REPOSITORY, format!("sha256-{}{suffix}", subject.digest.hex()))
}

/// Nothing is believed.
fn unbelieving(settings: &mut Settings) {
    settings.set("freshness", "negative", "0s").set("freshness", "fresh_for", "0s");
}

/// An upstream with an image that has no signature, and a mirror that has pulled it and knows that.
async fn unsigned(change: impl FnOnce(&mut Settings)) -> (Upstream, Image, Mirror) {
    let up = Upstream::start().await;
    let image = Image::small(1);
    up.push_image(REPOSITORY, "latest", &image);
    let mirror = Mirror::with(&up, |settings| {
        unbelieving(settings);
        change(settings);
    })
    .await;
    mirror.pull(REPOSITORY, "latest", &image).await;
    for suffix in SUFFIXES {
        let answer = mirror.get(&about(&image.manifest, suffix)).await;
        assert_eq!((answer.status(), answer.header("warning")), (404, None), "{suffix}");
    }
    (up, image, mirror)
}

/// The answer is the old 404, and says that it is old.
fn assert_stale(answer: &Response, what: &str) {
    assert_eq!(answer.status(), 404, "{what}: {}", answer.text());
    assert!(answer.header("warning").is_some_and(|value| value.starts_with("299 - \"stale: ")), "{what}: {:?}", answer.head);
    let status = answer.header("cache-status").unwrap_or_default();
    assert!(status.starts_with("roadstead; hit; ttl=-") && status.ends_with("; detail=stale"), "{what}: {status}");
}

fn kept(mirror: &Mirror, repository: &str) -> usize {
    let folder = mirror.files().root().join("repos/docker.io").join(repository).join("_absent");
    std::fs::read_dir(folder).map_or(0, Iterator::count)
}

#[tokio::test]
async fn that_a_cached_image_has_no_signature_outlives_the_upstream() {
    let (up, image, mirror) = unsigned(|_| {}).await;
    up.down().await;
    for suffix in SUFFIXES {
        let path = about(&image.manifest, suffix);
        let answer = mirror.get(&path).await;
        assert_stale(&answer, suffix);
        assert_eq!((&*answer.error_code(), reason(&answer).is_some()), ("MANIFEST_UNKNOWN", true), "{suffix}");
        assert_stale(&mirror.head(&path).await, suffix);
    }
    mirror.metric_becomes("roadstead_requests_total", &[("result", "stale"), ("kind", "manifest")], 8.0).await;
    assert_eq!(mirror.metric("roadstead_stale_total", &[("upstream", "docker.io")]).await, 8.0);
    // Only of tags about what is here: of all else nothing is known.
    let other = Image::small(2);
    for path in [about(&other.manifest, ".sig"), about(&image.manifest, ".txt"), manifest_path(REPOSITORY, "none")] {
        assert_eq!(mirror.get(&path).await.status(), 503, "{path}");
    }
    let mirror = mirror.restart().await;
    assert_stale(&mirror.get(&about(&image.manifest, ".sig")).await, "after a restart");
    mirror.pull(REPOSITORY, image.manifest.digest.to_string().as_str(), &image).await;
    // It is asked again as soon as it can be.
    up.up().await;
    up.push_image(REPOSITORY, &format!("sha256-{}.sig", image.manifest.digest.hex()), &other);
    crate::support::within("the signature", async {
        while mirror.get(&about(&image.manifest, ".sig")).await.status() != 200 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn an_absence_is_no_older_than_stale_if_error() {
    let (up, image, mirror) = unsigned(|settings| {
        settings.set("freshness", "stale_if_error", "0s");
    })
    .await;
    up.down().await;
    let answer = mirror.get(&about(&image.manifest, ".sig")).await;
    assert_eq!((answer.status(), &*answer.error_code()), (503, "UNAVAILABLE"));
}

/// An upstream that has named a signature has one, whether that can be had or not.
#[tokio::test]
async fn what_has_been_seen_is_not_absent() {
    let (up, image, mirror) = unsigned(|_| {}).await;
    let signature = Image::small(2);
    up.push_image(REPOSITORY, &format!("sha256-{}.sig", image.manifest.digest.hex()), &signature);
    up.on(&format!("GET {}", manifest_path(REPOSITORY, signature.manifest.digest))).always(Act::status(500));
    let path = about(&image.manifest, ".sig");
    assert_eq!(mirror.get(&path).await.status(), 503);
    up.down().await;
    assert_eq!(mirror.get(&path).await.status(), 503);
    assert_stale(&mirror.get(&about(&image.manifest, ".att")).await, "the others");
}

/// Questions about what is not here leave nothing behind; about an image that another repository brought they do.
#[tokio::test]
async fn absences_belong_to_a_manifest_of_their_repository() {
    let (up, image, mirror) = unsigned(|_| {}).await;
    let index = Index::oci(vec![image.clone()]);
    for number in 0..20 {
        assert_eq!(mirror.get(&about(&Blob::random(number, 10), ".sig")).await.status(), 404);
    }
    assert_eq!(mirror.get(&about(&image.layers[0], ".sig")).await.status(), 404, "a layer");
    let elsewhere = |suffix| about(&image.manifest, suffix).replace(REPOSITORY, "team/b");
    assert_eq!(mirror.get(&elsewhere(".sig")).await.status(), 404, "not pulled there");
    assert_eq!((kept(&mirror, REPOSITORY), kept(&mirror, "team/b")), (SUFFIXES.len(), 0));
    up.push_index("team/b", "latest", &index);
    assert_eq!(mirror.get(&manifest_path("team/b", "latest")).await.status(), 200);
    assert_eq!(mirror.get(&manifest_path("team/b", image.manifest.digest)).await.status(), 200, "cached");
    assert_eq!(mirror.get(&elsewhere(".sig")).await.status(), 404);
    assert_eq!(kept(&mirror, "team/b"), 1);
    up.down().await;
    assert_stale(&mirror.get(&elsewhere(".sig")).await, "by way of an index");
    assert_eq!(mirror.get(&elsewhere(".att")).await.status(), 503, "never asked there");
}

/// Where referrers are made of a tag: what that said before an outage is no answer of now, and is not believed as one afterwards.
#[tokio::test(start_paused = true)]
async fn a_list_that_is_made_of_a_stale_tag_is_not_kept() {
    let _still = still();
    let up = Upstream::start().await;
    let (image, first, second) = (Image::small(1), Image::small(2), Image::small(3));
    up.push_image(REPOSITORY, "latest", &image);
    let tag = format!("sha256-{}", image.manifest.digest.hex());
    up.push_index(REPOSITORY, &tag, &Index::oci(vec![first.clone()]));
    let mirror = Sim::with(&up, |_| {}).await;
    let listed = async || {
        let got = mirror.get(REPOSITORY, Wanted::Referrers(image.manifest.digest, ReferrersQuery::default())).await;
        assert_eq!(got.status, 200, "{}", got.text());
        let list: serde_json::Value = serde_json::from_str(&got.text()).unwrap();
        list["manifests"].as_array().unwrap().len()
    };
    assert_eq!(listed().await, 1);
    pass(Duration::from_secs(61)).await;
    up.on("/v2/*/manifests/*").always(Act::status(500));
    assert_eq!(listed().await, 1);
    up.on("/v2/*/manifests/*").clear();
    up.push_index(REPOSITORY, &tag, &Index::oci(vec![first, second]));
    pass(Duration::from_secs(31)).await;
    assert_eq!(listed().await, 2);
}
