//! The honest registry, the record, images and signed redirects.

use roadstead::oci::{Algorithm, Digest};

use super::{REPOSITORY, with_image};
use crate::support::client::{self, Connection, End};
use crate::support::image::{Blob, Builder, DOCKER_LIST, DOCKER_MANIFEST, Image, Index, OCI_INDEX, OCI_MANIFEST, random};
use crate::support::upstream::{Act, Upstream, blob_path, manifest_path};

#[tokio::test]
async fn a_manifest_by_tag_and_digest_and_a_head_of_it() {
    let (up, image, _) = with_image().await;
    for reference in ["latest".to_owned(), image.manifest.digest.to_string()] {
        let path = manifest_path(REPOSITORY, reference);
        let answer = client::get(up.address(), &path, &[("Accept", DOCKER_MANIFEST)]).await;
        assert_eq!((answer.status(), answer.end), (200, End::Complete));
        assert_eq!(answer.body, image.manifest.bytes);
        assert_eq!(answer.header("docker-content-digest"), Some(&*image.manifest.digest.to_string()));
        assert_eq!(answer.header("content-type"), Some(DOCKER_MANIFEST));
        let head = client::head(up.address(), &path, &[]).await;
        assert_eq!((head.status(), head.end, head.body.len()), (200, End::Complete, 0));
        assert_eq!(head.header("content-length"), Some(&*image.manifest.size().to_string()));
    }
    assert_eq!((up.count("GET /v2/*/manifests/*"), up.count("HEAD *"), up.count("*")), (2, 2, 4));
    assert_eq!(up.sent("*"), 2 * image.manifest.size(), "a HEAD sends nothing");
    let answer = client::get(up.address(), "/v2/library/alpine/manifests/missing", &[]).await;
    assert_eq!((answer.status(), &*answer.error_code()), (404, "MANIFEST_UNKNOWN"));
    let answer = client::get(up.address(), "/v2/", &[]).await;
    assert_eq!((answer.status(), &*answer.text()), (200, "{}"));
}

#[tokio::test]
async fn ranges_of_a_blob() {
    let (up, image, path) = with_image().await;
    let bytes = &image.layers[0].bytes;
    for (range, part, content_range) in [
        ("bytes=0-", 0..100_000, "bytes 0-99999/100000"),
        ("bytes=10-19", 10..20, "bytes 10-19/100000"),
        ("bytes=99990-200000", 99_990..100_000, "bytes 99990-99999/100000"),
        ("bytes=-7", 99_993..100_000, "bytes 99993-99999/100000"),
        ("bytes=-200000", 0..100_000, "bytes 0-99999/100000"),
    ] {
        let answer = client::get(up.address(), &path, &[("Range", range)]).await;
        assert_eq!((answer.status(), answer.header("content-range")), (206, Some(content_range)), "{range}");
        assert_eq!(answer.body, bytes[part], "{range}");
    }
    let answer = client::get(up.address(), &path, &[("Range", "bytes=100000-")]).await;
    assert_eq!((answer.status(), answer.header("content-range")), (416, Some("bytes */100000")));
    let answer = client::get(up.address(), &path, &[]).await;
    assert_eq!((answer.status(), answer.body == *bytes), (200, true));
}

#[tokio::test]
async fn several_requests_on_one_connection() {
    let (up, image, path) = with_image().await;
    let mut connection = Connection::open(up.address()).await;
    for _ in 0..3 {
        connection.send("GET", &path, &[]).await;
        let answer = connection.answer("GET").await.unwrap();
        let (response, free) = answer.rest_and_connection().await;
        assert_eq!(response.body, image.layers[0].bytes);
        connection = free;
    }
    assert_eq!((up.count(&path), up.journal().peak(&path)), (3, 1));
}

#[tokio::test]
async fn tags_come_in_pages() {
    let (up, image, _) = with_image().await;
    for tag in ["3.18", "3.19", "3.20", "edge"] {
        up.tag(REPOSITORY, tag, &image.manifest.digest);
    }
    let first = client::get(up.address(), "/v2/library/alpine/tags/list?n=2", &[]).await;
    assert_eq!(first.json()["tags"], serde_json::json!(["3.18", "3.19"]));
    assert_eq!(first.header("link"), Some("</v2/library/alpine/tags/list?last=3.19&n=2>; rel=\"next\""));
    let rest = client::get(up.address(), "/v2/library/alpine/tags/list?n=3&last=3.19", &[]).await;
    assert_eq!(rest.json()["tags"], serde_json::json!(["3.20", "edge", "latest"]));
    assert_eq!(rest.header("link"), None);
    let missing = client::get(up.address(), "/v2/library/missing/tags/list", &[]).await;
    assert_eq!((missing.status(), &*missing.error_code()), (404, "NAME_UNKNOWN"));
}

#[tokio::test]
async fn referrers_where_there_are_any() {
    let (up, image, _) = with_image().await;
    let path = format!("/v2/library/alpine/referrers/{}", image.manifest.digest);
    assert_eq!(client::get(up.address(), &path, &[]).await.status(), 404);
    up.referrers(1);
    let artifacts = [2, 3].map(|seed| Builder::new(seed).layer(50).artifact("application/x.sbom", &image.manifest).build());
    artifacts.iter().for_each(|artifact| up.push_untagged(REPOSITORY, artifact));
    let first = client::get(up.address(), &path, &[]).await;
    assert_eq!(first.header("content-type"), Some(OCI_INDEX));
    assert_eq!(first.json()["manifests"].as_array().unwrap().len(), 1);
    let next = first.header("link").unwrap().split(['<', '>']).nth(1).unwrap().to_owned();
    let second = client::get(up.address(), &next, &[]).await;
    assert_eq!((second.json()["manifests"].as_array().unwrap().len(), second.header("link")), (1, None));
    assert_ne!(first.json()["manifests"][0]["digest"], second.json()["manifests"][0]["digest"]);
    let none = client::get(up.address(), &format!("{path}?artifactType=other"), &[]).await;
    assert_eq!(none.header("oci-filters-applied"), Some("artifactType"));
    assert_eq!(none.json()["manifests"], serde_json::json!([]));
}

#[tokio::test]
async fn the_accept_header_matters_as_it_does_to_distribution() {
    let up = Upstream::start().await;
    let images = |oci: bool| {
        ["amd64", "arm64"].map(|architecture| {
            let builder = Builder::new(u64::from(oci)).layer(10).platform("linux", architecture);
            if oci { builder.oci().build() } else { builder.build() }
        })
    };
    let (docker, oci) = (Index::docker(images(false).into()), Index::oci(images(true).into()));
    up.push_index("a/b", "docker", &docker);
    up.push_index("a/b", "oci", &oci);
    let answer = client::get(up.address(), "/v2/a/b/manifests/docker", &[("Accept", "*/*")]).await;
    assert_eq!(answer.body, docker.images[0].manifest.bytes, "the list has become linux/amd64");
    let answer = client::get(up.address(), "/v2/a/b/manifests/docker", &[("Accept", DOCKER_LIST)]).await;
    assert_eq!(answer.body, docker.manifest.bytes);
    assert_eq!(client::get(up.address(), "/v2/a/b/manifests/oci", &[("Accept", "*/*")]).await.status(), 404);
    let both = format!("{OCI_MANIFEST}, {OCI_INDEX}");
    assert_eq!(client::get(up.address(), "/v2/a/b/manifests/oci", &[("Accept", &both)]).await.body, oci.manifest.bytes);
}

#[tokio::test]
async fn a_signed_redirect_is_for_one_method_and_expires() {
    let (up, image, path) = with_image().await;
    let cdn = Upstream::start().await;
    up.on(&path).always(Act::redirect(&cdn));
    let answer = client::get(up.address(), &path, &[]).await;
    assert_eq!(answer.status(), 307);
    let location = answer.header("location").unwrap();
    let signed = location.strip_prefix(&cdn.url()).expect("it leads to the other host").to_owned();
    let part = client::get(cdn.address(), &signed, &[("Range", "bytes=5-9")]).await;
    assert_eq!((part.status(), &*part.body), (206, &image.layers[0].bytes[5..10]));
    assert_eq!(client::head(cdn.address(), &signed, &[]).await.status(), 403, "signed for GET");
    assert_eq!(client::get(cdn.address(), &signed, &[("Authorization", "Bearer x")]).await.status(), 400);
    cdn.expire_signatures();
    assert_eq!(client::get(cdn.address(), &signed, &[]).await.status(), 403);
    assert_eq!(cdn.count(&format!("/signed{path}")), 4);
}

#[tokio::test]
async fn down_refuses_and_up_is_the_same_port() {
    let (up, image, path) = with_image().await;
    let gate = up.gate(&path);
    let mut held = client::open(up.address(), &path, &[]).await;
    gate.arrived(1).await;
    up.down().await;
    held.read(1).await;
    assert!(held.end().unwrap().is_broken(), "{:?}", held.end());
    let refused = tokio::net::TcpStream::connect(up.address()).await.unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    up.up().await;
    gate.open();
    assert_eq!(client::get(up.address(), &path, &[]).await.body, image.layers[0].bytes);
}

#[test]
fn images_are_deterministic_and_their_digests_right() {
    let image = || Builder::new(7).layer(1_000).layer(20).sha512().oci().build();
    let (one, two) = (image(), image());
    assert_eq!(one.manifest.digest, two.manifest.digest);
    assert!(one.manifest.digest.to_string().starts_with("sha512:"));
    for blob in one.blobs().chain([&one.manifest]) {
        assert_eq!(Digest::of(Algorithm::Sha512, &blob.bytes), blob.digest);
    }
    let document: serde_json::Value = serde_json::from_slice(&one.manifest.bytes).unwrap();
    assert_eq!(document["layers"][1], one.layers[1].descriptor());
    assert_eq!(document["config"], one.config.descriptor());
    assert_ne!(serde_json::to_vec(&document).unwrap(), one.manifest.bytes, "writing it again would change it");
    assert_ne!(Image::small(1).layers[0].digest, Image::small(2).layers[0].digest);
    assert_ne!(Blob::random(1, 10).digest, Blob::random(2, 10).digest);
    assert_eq!(random(3, 100)[..50], random(3, 50));
    assert_eq!(blob_path("a", &one.layers[0]), format!("/v2/a/blobs/{}", one.layers[0].digest));
}
