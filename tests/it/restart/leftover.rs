//! What an earlier process left of a download, damaged since: it costs a download, and the upstream is not blamed.

use super::REPOSITORY;
use crate::support::image::{Blob, Builder, document};
use crate::support::mirror::Mirror;
use crate::support::until;
use crate::support::upstream::{Upstream, blob_path, manifest_path};
use roadstead::oci::Algorithm;

const SIZE: usize = 3 << 20;

/// Leaves these bytes of the blob in `ingest/`; the mirror that finds them, which knows the blob's size from its manifest or
/// does not.
async fn finds(bytes: impl Fn(&mut Vec<u8>), knows_size: bool) -> (Upstream, Mirror, Blob) {
    let up = Upstream::start().await;
    let image = Builder::new(1).layer(SIZE).build();
    let blob = image.blobs().find(|blob| blob.bytes.len() == SIZE).unwrap().clone();
    up.push_image(REPOSITORY, "latest", &image);
    let mirror = Mirror::of(&up).await;
    let mut left = blob.bytes.to_vec();
    bytes(&mut left);
    let path = mirror.files().root().join("ingest").join(format!("sha256-{}", blob.digest.hex()));
    // While none runs: one that starts trims what it finds.
    let mirror = mirror.restart_with(|_| std::fs::write(path, left).unwrap()).await;
    if knows_size {
        assert_eq!(mirror.get(&manifest_path(REPOSITORY, "latest")).await.status(), 200);
    }
    (up, mirror, blob)
}

/// One that cannot be the blob is discarded before a byte of it is sent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_as_long_as_the_blob_is_begun_anew_at_once() {
    for knows_size in [true, false] {
        for longer in [0, 1, 100_000] {
            let change = |left: &mut Vec<u8>| {
                left[1000] ^= 1;
                left.resize(SIZE + longer, 0);
            };
            let (up, mirror, blob) = finds(change, knows_size).await;
            mirror.pull_blob(REPOSITORY, &blob).await;
            mirror.files().get(&blob).await;
            let asked: Vec<u64> =
                up.requests().iter().filter(|r| r.path == blob_path(REPOSITORY, &blob)).map(|r| r.from()).collect();
            match knows_size {
                true => assert!(asked.iter().all(|from| *from < SIZE as u64) && asked.contains(&0), "{asked:?}"),
                // On a busy machine it may stand still, and be helped out by one more from where it is.
                false => assert_eq!(asked[..2], [(SIZE + longer) as u64, 0]),
            }
            blameless(&mirror).await;
        }
    }
}

/// One that may be a part of it is gone on with, and found wrong at the end: nobody gets all of it, and the next one is right.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_byte_in_half_of_the_blob() {
    for knows_size in [true, false] {
        let change = |left: &mut Vec<u8>| {
            left[1000] ^= 1;
            left.truncate(SIZE / 2);
        };
        let (_up, mirror, blob) = finds(change, knows_size).await;
        let answer = mirror.get(&blob_path(REPOSITORY, &blob)).await;
        answer.assert_refused();
        let failed = mirror.metric("roadstead_fill_failures_total", &[("reason", "leftover")]).await;
        assert!(failed >= 1.0);
        mirror.pull_blob(REPOSITORY, &blob).await;
        mirror.files().get(&blob).await;
        blameless(&mirror).await;
    }
}

/// The half of a blob that an earlier process left, whoever it had it from: another repository that does not have the blob, or
/// whose manifest says something else of it, costs nothing of it (I6).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i6_another_repository_does_not_cost_what_is_left() {
    const OTHER: &str = "library/other";
    for (lies, has_it) in [(false, false), (true, false), (true, true)] {
        let (up, mirror, blob) = finds(|left| left.truncate(SIZE / 2), true).await;
        let left = mirror.files().root().join("ingest").join(format!("sha256-{}", blob.digest.hex()));
        if lies {
            let layer = serde_json::json!({
                "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": blob.digest.to_string(), "size": 1000
            });
            let config = Blob::random(9, 100);
            let manifest = serde_json::json!({
                "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "config": config.descriptor(), "layers": [layer]
            });
            let manifest = document(Algorithm::Sha256, "application/vnd.oci.image.manifest.v1+json", &manifest);
            up.push_manifest(OTHER, &manifest);
            up.tag(OTHER, "latest", &manifest.digest);
            assert_eq!(mirror.get(&manifest_path(OTHER, "latest")).await.status(), 200);
        }
        if has_it {
            up.push_blob(OTHER, &blob);
            mirror.pull_blob(OTHER, &blob).await;
            mirror.files().get(&blob).await;
            until("what is left to go, of which nobody has a use", || !left.exists()).await;
            mirror.metric_becomes("roadstead_cache_bytes", &[("tier", "disk")], mirror.files().size() as f64).await;
        } else {
            assert_eq!(mirror.get(&blob_path(OTHER, &blob)).await.status(), 404);
            assert_eq!(std::fs::metadata(&left).unwrap().len(), SIZE as u64 / 2);
            mirror.pull_blob(REPOSITORY, &blob).await;
            let asked = up.requests().into_iter().filter(|r| r.path == blob_path(REPOSITORY, &blob));
            assert!(asked.map(|r| r.from()).all(|from| from >= SIZE as u64 / 2), "it is gone on with");
        }
        mirror.files().get(&blob).await;
        blameless(&mirror).await;
    }
}

async fn blameless(mirror: &Mirror) {
    assert_eq!(mirror.metric("roadstead_digest_mismatches_total", &[]).await, 0.0);
}
