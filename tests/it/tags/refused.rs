//! A tag that has moved to a manifest which the mirror does not take: that is an answer, and the old image is none.

use std::time::Duration;

use roadstead::oci::Digest;
use serde_json::{Value, json};

use super::{REPOSITORY, latest, pulled};
use crate::support::client::Response;
use crate::support::image::{Blob, DOCKER_MANIFEST, Image, OCI_MANIFEST};
use crate::support::mirror::Mirror;
use crate::support::upstream::{Act, Upstream, manifest_path};

fn assert_refused(answer: &Response, what: &str) {
    assert_eq!((answer.status(), &*answer.error_code()), (503, "UNAVAILABLE"), "{what}: {:?}", answer.head);
    assert_eq!(answer.header("warning"), None, "{what}");
    assert!(answer.text().contains("does not take"), "{what}: {}", answer.text());
}

/// An OCI image manifest, with some more in it.
fn with(more: Value) -> Vec<u8> {
    let config = Blob::random(7, 100).descriptor();
    let mut document = json!({ "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": [] });
    document.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    document.to_string().into_bytes()
}

/// What clients and registries may have, and the mirror refuses.
fn refused() -> Vec<(&'static str, Blob)> {
    let unknown = json!({ "layers": [{ "mediaType": "a/b", "digest": format!("blake3:{}", "a".repeat(64)), "size": 1 }] });
    let schema1 = json!({ "schemaVersion": 1, "fsLayers": [] }).to_string();
    vec![
        ("too large", Blob::new(OCI_MANIFEST, with(json!({ "annotations": { "x": "y".repeat(5 << 20) } })))),
        ("two types", Blob::new(DOCKER_MANIFEST, with(json!({})))),
        ("two things", Blob::new(OCI_MANIFEST, with(json!({ "manifests": [] })))),
        ("an unknown algorithm", Blob::new(OCI_MANIFEST, with(unknown))),
        ("schema 1", Blob::new("application/vnd.docker.distribution.manifest.v1+json", schema1)),
    ]
}

/// The upstream is well, has named the new digest and sent its bytes: the old image is no answer, and asking again is none.
#[tokio::test]
async fn a_tag_that_moved_to_a_refused_manifest_is_no_outage() {
    for (what, manifest) in refused() {
        let up = Upstream::start().await;
        let (old, new) = (Image::small(1), Image::small(2));
        up.push_image(REPOSITORY, "latest", &old);
        let mirror = Mirror::with(&up, |settings| {
            settings.set("freshness", "fresh_for", "0s").hub("max_manifest", "4MiB");
        })
        .await;
        mirror.pull(REPOSITORY, "latest", &old).await;
        up.push_manifest(REPOSITORY, &manifest);
        up.tag(REPOSITORY, "latest", &manifest.digest);
        for _ in 0..3 {
            assert_refused(&mirror.get(&latest()).await, what);
            assert_refused(&mirror.get(&manifest_path(REPOSITORY, manifest.digest)).await, what);
            assert_eq!(mirror.head(&latest()).await.status(), 503, "{what}");
        }
        let gets = up.count(&format!("GET {}", manifest_path(REPOSITORY, manifest.digest)));
        assert_eq!(gets, 1, "{what}: what was refused is not asked for at each pull");
        assert_eq!(mirror.metric("roadstead_stale_total", &[("upstream", "docker.io")]).await, 0.0, "{what}");
        // What it stands for next is another matter, and so is what is here.
        let by_digest = mirror.get(&manifest_path(REPOSITORY, old.manifest.digest)).await;
        assert!(by_digest.body == old.manifest.bytes, "{what}");
        up.push_image(REPOSITORY, "latest", &new);
        mirror.pull(REPOSITORY, "latest", &new).await;
    }
}

/// The same where only a GET tells the digest, as the registry itself names it; whoever names none may be anybody.
#[tokio::test]
async fn a_registry_without_head_is_believed_if_it_names_the_digest() {
    for (what, manifest) in refused().split_off(1) {
        let (up, old, mirror) = pulled("0s").await;
        up.on("HEAD *").always(Act::status(405));
        mirror.pull(REPOSITORY, "latest", &old).await;
        up.push_manifest(REPOSITORY, &manifest);
        up.tag(REPOSITORY, "latest", &manifest.digest);
        assert_refused(&mirror.get(&latest()).await, what);
        up.on(&latest()).always(Act::honest().without("Docker-Content-Digest"));
        assert!(mirror.get(&latest()).await.body == old.manifest.bytes, "{what}");
    }
}

/// Bytes that are not what the upstream named are nobody's word: the old image is better than none.
#[tokio::test]
async fn a_tag_whose_new_manifest_comes_wrong_is_stale() {
    let (up, old, mirror) = pulled("0s").await;
    let new = Image::small(2);
    up.push_image(REPOSITORY, "latest", &new);
    let get = format!("GET {}", manifest_path(REPOSITORY, new.manifest.digest));
    for act in [Act::honest().corrupt(), Act::html(), Act::honest().gzip()] {
        up.on(&get).always(act);
        let answer = mirror.get(&latest()).await;
        assert_eq!((answer.status(), &*answer.body), (200, &*old.manifest.bytes), "{}", answer.text());
        assert!(answer.header("warning").is_some_and(|value| value.starts_with("299 ")), "{:?}", answer.head);
    }
    up.on(&get).clear();
    crate::support::within("the new image", async {
        while mirror.get(&latest()).await.body != new.manifest.bytes {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

/// A refusal is forgotten with the limit that it was for.
#[tokio::test]
async fn a_refused_manifest_is_asked_for_again_when_the_configuration_changes() {
    let up = Upstream::start().await;
    let large = Blob::new(OCI_MANIFEST, with(json!({ "annotations": { "x": "y".repeat(5 << 20) } })));
    up.push_manifest(REPOSITORY, &large);
    let path = manifest_path(REPOSITORY, large.digest as Digest);
    let mut mirror = Mirror::with(&up, |settings| {
        settings.hub("max_manifest", "4MiB");
    })
    .await;
    assert_refused(&mirror.get(&path).await, "4 MiB");
    let changed = mirror.reload(|settings| {
        settings.hub("max_manifest", "8MiB");
    });
    changed.await.unwrap();
    mirror.get(&path).await.assert_is(&large);
}
