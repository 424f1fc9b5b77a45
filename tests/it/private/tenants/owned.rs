//! What is a repository's own goes on as before: without a question where it was pulled, also in an outage.

use serde_json::json;

use super::*;
use crate::support::image::{Builder, Index};
use crate::support::until;

const APP: &str = "priv.example/team/app";
const COPY: &str = "priv.example/team/copy";

struct Own {
    up: Upstream,
    mirror: Mirror,
    index: Index,
}

/// An index of two images, in two repositories.
async fn own(visibility: &str) -> Own {
    let up = Upstream::start().await;
    let (arm, amd) = (Builder::new(1).layer(300_000).platform("linux", "arm64").build(), Builder::new(2).layer(1_000).build());
    let index = Index::oci(vec![arm, amd]);
    for repository in ["team/app", "team/copy"] {
        up.push_index(repository, "latest", &index);
    }
    let mirror = Mirror::with(&Upstream::start().await, |settings| {
        guard(settings, "priv.example", &up, visibility, &[("alice", &["team/app", "team/copy"])]);
    })
    .await;
    Own { up, mirror, index }
}

/// As a client of one platform does.
async fn pull(mirror: &Mirror, repository: &str, index: &Index) {
    let answer = get_as(mirror, "alice", &manifest_path(repository, "latest")).await;
    assert_eq!((answer.status(), &*answer.body), (200, &*index.manifest.bytes), "{}", answer.text());
    let image = &index.images[0];
    let answer = get_as(mirror, "alice", &manifest_path(repository, image.manifest.digest)).await;
    assert_eq!((answer.status(), &*answer.body), (200, &*image.manifest.bytes), "{}", answer.text());
    for blob in image.blobs() {
        get_as(mirror, "alice", &blob_path(repository, blob)).await.assert_is(blob);
    }
}

/// Nothing is asked for twice, and of what came through another repository one HEAD tells for ever that it is here, too.
#[tokio::test]
async fn a_manifest_of_an_index_is_asked_about_once() {
    for visibility in VISIBILITIES {
        let Own { up, mirror, index } = own(visibility).await;
        let child = manifest_path("team/app", index.images[0].manifest.digest);
        pull(&mirror, APP, &index).await;
        assert_eq!((up.count(&format!("HEAD {child}")), up.count(&format!("GET {child}"))), (0, 1), "its GET is the question");
        assert_eq!(up.count("GET /v2/team/app/blobs/*"), 2);
        pull(&mirror, COPY, &index).await;
        let child = child.replace("app", "copy");
        assert_eq!((up.count(&format!("HEAD {child}")), up.count(&format!("GET {child}"))), (1, 0));
        assert_eq!((up.count("GET /v2/team/copy/*/sha256:*"), up.count("GET /v2/team/*/blobs/*")), (0, 2));
        let asked = up.count("* /v2/team/*/sha256:*");
        pull(&mirror, COPY, &index).await;
        assert_eq!(up.count("* /v2/team/*/sha256:*"), asked);
        if visibility == "caller" {
            continue;
        }
        up.down().await;
        let mirror = mirror.restart().await;
        for repository in [APP, COPY] {
            pull(&mirror, repository, &index).await;
        }
    }
}

/// A layer that a registry may lack, and has, is had by asking it.
#[tokio::test]
async fn a_layer_that_may_be_elsewhere_is_asked_for() {
    for visibility in VISIBILITIES {
        let up = Upstream::start().await;
        let layer = Blob::new("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", random(7, 2_000));
        up.push_blob("team/app", &layer);
        manifest_naming(&up, "team/app", "latest", vec![with(layer.descriptor(), &json!({ "urls": ["https://x.example/l"] }))]);
        let mirror = Mirror::with(&Upstream::start().await, |settings| {
            guard(settings, "priv.example", &up, visibility, &[("alice", &["team/app"])]);
        })
        .await;
        assert_eq!(get_as(&mirror, "alice", &manifest_path(APP, "latest")).await.status(), 200);
        let path = format!("GET {}", blob_path("team/app", &layer));
        for _ in 0..3 {
            get_as(&mirror, "alice", &blob_path(APP, &layer)).await.assert_is(&layer);
        }
        let mirror = mirror.restart().await;
        get_as(&mirror, "alice", &blob_path(APP, &layer)).await.assert_is(&layer);
        if visibility == "operator" {
            assert_eq!((up.count(&path), up.sent(&path)), (3, 2_002), "all of it once, and for each process a byte");
        }
    }
}

/// A prefetch asks, and writes down what it was told, so that the image is whole in an outage.
#[tokio::test]
async fn what_was_prefetched_is_whole_in_an_outage() {
    let Own { up, mirror, index } = own("operator").await;
    pull(&mirror, APP, &index).await;
    let image = format!("{COPY}:latest");
    let mirror = mirror
        .restart_with(|settings| {
            settings.prefetch(&[&image]);
        })
        .await;
    let record = format!("repos/{COPY}/_manifests/{}.json", index.images[1].manifest.digest.file_name());
    until("the prefetch", || mirror.files().root().join(&record).exists()).await;
    let last = &index.images[1].layers[0];
    until("its blobs", || mirror.files().has(last)).await;
    up.down().await;
    let mirror = mirror.restart().await;
    pull(&mirror, COPY, &index).await;
}
