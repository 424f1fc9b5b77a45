//! What is read with care: addresses, filters, types, ranges and links, as they go over the wire.

use crate::support::image::{Blob, Builder, Image, Index, OCI_INDEX, OCI_MANIFEST};
use crate::support::mirror::Mirror;
use crate::support::upstream::{Act, Upstream, blob_path};
use serde_json::json;

const REPOSITORY: &str = "library/alpine";

/// T7: an empty blob, cold and warm, whatever range is asked.
#[tokio::test]
async fn t7_an_empty_blob_is_answered_whole() {
    let up = Upstream::start().await;
    let empty = Blob::new("application/octet-stream", "");
    up.push_blob(REPOSITORY, &empty);
    let mirror = Mirror::of(&up).await;
    for range in ["bytes=0-", "bytes=-1", "bytes=0-0,1-1"] {
        let answer = mirror.get_with(&blob_path(REPOSITORY, &empty), &[("range", range)]).await;
        answer.assert_is(&empty);
        assert_eq!((answer.header("content-length"), answer.header("content-range")), (Some("0"), None), "{range}");
    }
}

/// T7: the same ranges are the same bytes, told apart by the blob's own digest.
#[tokio::test]
async fn t7_a_multipart_answer_is_always_the_same() {
    let up = Upstream::start().await;
    let blob = Blob::random(7, 5000);
    up.push_blob(REPOSITORY, &blob);
    let mirror = Mirror::of(&up).await;
    let path = blob_path(REPOSITORY, &blob);
    let range = [("range", "bytes=0-9,4000-4099")];
    let (cold, warm) = (mirror.get_with(&path, &range).await, mirror.get_with(&path, &range).await);
    assert_eq!((cold.status(), warm.status()), (206, 206));
    assert_eq!(cold.body, warm.body);
    assert_eq!(cold.header("content-type"), Some(&*format!("multipart/byteranges; boundary={}", blob.digest.hex())));
    assert_eq!(cold.header("content-length"), Some(&*cold.body.len().to_string()));
}

/// T13: what is no manifest, though its Content-Type says so, is neither served nor kept.
#[tokio::test]
async fn t13_what_is_no_manifest_is_refused() {
    for (kind, body) in [
        (OCI_INDEX, json!({ "errors": [{ "code": "UNKNOWN", "message": "s3cr3t" }] })),
        (OCI_MANIFEST, json!({ "errors": [{ "code": "UNKNOWN", "message": "s3cr3t" }] })),
        ("application/vnd.example+json", json!({ "errors": [] })),
        ("text/html", json!({ "manifests": [] })),
        ("application/json", json!({ "mediaType": "text/html", "manifests": [] })),
        (OCI_INDEX, json!({ "manifests": [], "Layers": [] })),
        (OCI_INDEX, json!({ "manifests": null, "layers": [] })),
        (OCI_INDEX, json!({ "manifests": [[Blob::random(1, 1).digest.to_string(), 1]] })),
        (OCI_INDEX, json!({ "manifests": "s3cr3t" })),
    ] {
        let up = Upstream::start().await;
        let bad = Blob::new(kind, body.to_string());
        up.push_manifest(REPOSITORY, &bad);
        up.tag(REPOSITORY, "bad", &bad.digest);
        let mirror = Mirror::of(&up).await;
        for reference in ["bad".to_owned(), bad.digest.to_string()] {
            let answer = mirror.get(&format!("/v2/{REPOSITORY}/manifests/{reference}")).await;
            assert_eq!(answer.status(), 503, "{kind} {body}: {}", answer.text());
            assert!(!answer.text().contains("s3cr3t"), "{}", answer.text());
        }
        assert!(mirror.files().blobs().is_empty(), "{body}");
    }
    // An empty mediaType is none.
    let up = Upstream::start().await;
    let image = Image::small(3);
    let mut document: serde_json::Value = serde_json::from_slice(&image.manifest.bytes).unwrap();
    document["mediaType"] = "".into();
    let odd = Blob::new(&image.manifest.media_type, document.to_string());
    up.push_untagged(REPOSITORY, &image);
    up.push_manifest(REPOSITORY, &odd);
    up.tag(REPOSITORY, "odd", &odd.digest);
    Mirror::of(&up).await.get(&format!("/v2/{REPOSITORY}/manifests/odd")).await.assert_is(&odd);
}

/// T22: every filter reaches the upstream; where the mirror filters, any of them matches.
#[tokio::test]
async fn t22_several_filters() {
    let up = Upstream::start().await;
    let image = Image::small(1);
    up.push_image(REPOSITORY, "latest", &image);
    let artifact = |seed, kind| Builder::new(seed).layer(50).artifact(kind, &image.manifest).build();
    let kinds = ["application/x.sbom+json", "application/x.signature", "application/x.other"];
    let artifacts = [artifact(2, kinds[0]), artifact(3, kinds[1]), artifact(4, kinds[2])];
    artifacts.iter().for_each(|artifact| up.push_untagged(REPOSITORY, artifact));
    let mut index: serde_json::Value = serde_json::from_slice(&Index::oci(artifacts.to_vec()).manifest.bytes).unwrap();
    for (entry, kind) in index["manifests"].as_array_mut().unwrap().iter_mut().zip(kinds) {
        entry["artifactType"] = kind.into();
    }
    let index = Blob::new(OCI_INDEX, index.to_string());
    up.push_manifest(REPOSITORY, &index);
    up.tag(REPOSITORY, &image.manifest.digest.to_string().replace(':', "-"), &index.digest);
    let mirror = Mirror::of(&up).await;
    let path = format!("/v2/{REPOSITORY}/referrers/{}", image.manifest.digest);
    let listed = async |query: &str| {
        let answer = mirror.get(&format!("{path}?{query}")).await;
        assert_eq!(answer.status(), 200, "{}", answer.text());
        answer.json()["manifests"]
            .as_array()
            .unwrap()
            .iter()
            .map(|entry| entry["artifactType"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(listed("artifactType=application/x.signature&artifactType=application/x.sbom%2Bjson").await, kinds[..2]);
    // The tag's index says the rest, too.
    assert_eq!(listed("artifactType=application/x.sbom%2Bjson&artifactType=application/x.signature").await, kinds[..2]);
    assert_eq!(listed("artifactType=application/x.sbom+json").await, kinds[..1]);
    assert_eq!(listed("artifactType=application/x.signature").await, kinds[1..2]);
    assert_eq!(listed("artifactType=").await, kinds);
    let asked: Vec<_> =
        up.requests().into_iter().filter(|request| request.path.contains("/referrers/")).map(|request| request.query).collect();
    let both = "artifactType=application%2Fx.sbom%2Bjson&artifactType=application%2Fx.signature";
    assert_eq!(asked, [Some(both.to_owned())]);
}

/// T4, T18: addresses that two readers could take for two things.
#[tokio::test]
async fn t4_t18_addresses() {
    let up = Upstream::start().await;
    let image = Image::small(1);
    up.push_image(REPOSITORY, "latest", &image);
    up.push_image("docker.io/library/alpine", "latest", &image);
    let mirror = Mirror::with(&up, |settings| {
        settings.add("r.example", &up);
    })
    .await;
    for (path, status, code) in [
        ("/v2/library/alpine/manifests/latest?ns=docker.io&ns=r.example", 400, "NAME_INVALID"),
        ("/v2/r.example/library/alpine/manifests/latest?ns=docker.io", 400, "NAME_INVALID"),
        ("/v2/library/alpine/manifests/x%2Fy", 404, "MANIFEST_UNKNOWN"),
        ("/v2/library/alpine/manifests/x%00", 404, "MANIFEST_UNKNOWN"),
        ("/v2/library/alpine/manifests/latest?ns=evil.example", 404, "NAME_UNKNOWN"),
        ("/v2/library/alpine/tags/list?n=+5", 400, "PAGINATION_NUMBER_INVALID"),
        ("/v2/library/alpine/tags/list?n=%2B5", 400, "PAGINATION_NUMBER_INVALID"),
    ] {
        let answer = mirror.get(path).await;
        assert_eq!((answer.status(), &*answer.error_code()), (status, code), "{path}");
    }
    let long = mirror.get(&format!("/v2/{}/manifests/x", "a".repeat(250))).await;
    assert_eq!((long.status(), &*long.error_code()), (400, "NAME_INVALID"));
    assert_eq!(up.requests().len(), 0, "nothing of that reached the upstream");
    for path in [
        "/v2/library/alpine/manifests/latest?ns=Docker.IO",
        "/v2/library/alpine/manifests/latest?ns=",
        "/v2/docker.io/library/alpine/manifests/latest?ns=r.example",
        "/docker%2Eio/v2/library/alpine/manifests/latest",
    ] {
        mirror.get(path).await.assert_is(&image.manifest);
    }
    assert!(up.requests().iter().any(|request| request.path.contains("/docker.io/library/alpine/")));
    assert_eq!(mirror.get("/v2/library/alpine/tags/list?n=").await.status(), 200);
    let refused = [("upstream", "unknown"), ("kind", "manifest"), ("result", "invalid")];
    mirror.metric_becomes("roadstead_requests_total", &refused, 3.0).await;
}

/// T21: a link that tries to be two, or to lead to another upstream.
#[tokio::test]
async fn t21_hostile_links() {
    let up = Upstream::start().await;
    up.push_image(REPOSITORY, "a", &Image::small(1));
    let mirror = Mirror::of(&up).await;
    up.on("/v2/*/tags/list").then(Act::honest().header("Link", "</x?n=1&ns=evil.example&last=a\"%0d%0a>; rel=\"next\""));
    let answer = mirror.get("/v2/library/alpine/tags/list?n=1&ns=docker.io").await;
    assert_eq!(answer.header("link"), Some("</v2/library/alpine/tags/list?n=1&last=a%22%0d%0a&ns=docker.io>; rel=\"next\""));
}
