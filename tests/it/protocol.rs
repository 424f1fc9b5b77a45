//! What every client relies on: addresses, headers, errors, and what is never asked upstream.

mod addressing;
mod heads;
mod hygiene;
mod refusals;

use crate::support::client::{self, End};
use crate::support::image::{Blob, Builder, DOCKER_LIST, Image, Index, OCI_INDEX};
use crate::support::mirror::Mirror;
use crate::support::upstream::{Act, Upstream, blob_path, manifest_path};

const REPOSITORY: &str = "library/alpine";

/// An upstream with one image, and a mirror of it.
async fn with_image() -> (Upstream, Image, Mirror) {
    let up = Upstream::start().await;
    let image = Image::small(1);
    up.push_image(REPOSITORY, "latest", &image);
    let mirror = Mirror::of(&up).await;
    (up, image, mirror)
}

/// T1
#[tokio::test]
async fn t1_the_ping_is_answered_here_with_the_upstream_down() {
    let (up, _, mirror) = with_image().await;
    up.down().await;
    for path in ["/v2/", "/v2", "/docker.io/v2/"] {
        let answer = mirror.get(path).await;
        assert_eq!((answer.status(), &*answer.text(), answer.end), (200, "{}", End::Complete), "{path}");
        assert_eq!(answer.header("docker-distribution-api-version"), Some("registry/2.0"));
        assert_eq!(answer.header("content-type"), Some("application/json"));
        let head = mirror.head(path).await;
        assert_eq!((head.status(), head.header("content-length"), head.end), (200, Some("2"), End::Complete), "{path}");
    }
    assert_eq!(up.count("*"), 0);
}

/// T2: cold and warm, by tag and by digest.
#[tokio::test]
async fn t2_a_head_has_the_headers_of_its_get_and_no_body() {
    let (up, image, mirror) = with_image().await;
    let digest = image.manifest.digest.to_string();
    for reference in ["latest", &digest, "latest", &digest] {
        let path = manifest_path(REPOSITORY, reference);
        let (head, get) = (mirror.head(&path).await, mirror.get(&path).await);
        assert_eq!((head.status(), head.end, head.body.len()), (200, End::Complete, 0), "{reference}");
        assert_eq!((get.status(), get.end, &*get.body), (200, End::Complete, &*image.manifest.bytes));
        for answer in [&head, &get] {
            assert_eq!(answer.header("content-type"), Some(&*image.manifest.media_type));
            assert_eq!(answer.header("content-length"), Some(&*image.manifest.size().to_string()));
            assert_eq!(answer.header("docker-content-digest"), Some(&*digest));
            assert_eq!(answer.header("docker-distribution-api-version"), Some("registry/2.0"));
            assert_eq!(answer.header("etag"), Some(&*format!("\"{digest}\"")));
            assert!(answer.header("cache-status").is_some_and(|value| value.starts_with("roadstead; ")), "{:?}", answer.head);
            assert!(answer.header("x-request-id").is_some());
            assert_eq!((answer.header("content-encoding"), answer.header("transfer-encoding")), (None, None));
            assert_eq!(answer.header("oci-namespace"), None, "no ns was given");
        }
    }
    assert_eq!(up.count("GET /v2/*/manifests/*"), 1);
}

/// T2, for blobs: cold a HEAD learns the size without a download, and never by a HEAD upstream.
#[tokio::test]
async fn t2_a_head_of_a_cold_blob_downloads_nothing() {
    let (up, image, mirror) = with_image().await;
    let blob = &image.layers[0];
    let path = blob_path(REPOSITORY, blob);
    let cold = mirror.head(&path).await;
    assert!(up.sent(&path) < blob.size(), "{} of {} bytes were sent", up.sent(&path), blob.size());
    assert!(!mirror.files().has(blob));
    mirror.pull_blob(REPOSITORY, blob).await;
    let (warm, get) = (mirror.head(&path).await, mirror.get(&path).await);
    for answer in [&cold, &warm, &get] {
        assert_eq!((answer.status(), answer.end), (200, End::Complete));
        assert_eq!(answer.header("content-length"), Some("100000"));
        assert_eq!(answer.header("content-type"), Some("application/octet-stream"));
        assert_eq!(answer.header("docker-content-digest"), Some(&*blob.digest.to_string()));
        assert_eq!(answer.header("accept-ranges"), Some("bytes"));
        assert_eq!(answer.header("etag"), Some(&*format!("\"{}\"", blob.digest)));
    }
    assert_eq!((cold.body.len(), warm.body.len()), (0, 0));
    let missing = mirror.head(&blob_path(REPOSITORY, &Blob::random(9, 9))).await;
    assert_eq!((missing.status(), missing.body.len()), (404, 0));
    assert_eq!(up.count("HEAD /v2/*/blobs/*"), 0, "T36");
}

/// T3
#[tokio::test]
async fn t3_accept_changes_nothing() {
    let up = Upstream::start().await;
    let two = |oci: bool| {
        let builder = |seed| if oci { Builder::new(seed).layer(10).oci() } else { Builder::new(seed).layer(10) };
        vec![builder(1).build(), builder(2).platform("linux", "arm64").build()]
    };
    let indexes = [("docker", Index::docker(two(false)), DOCKER_LIST), ("oci", Index::oci(two(true)), OCI_INDEX)];
    let variants: [&[(&str, &str)]; 5] = [
        &[],
        &[("Accept", "*/*")],
        &[("Accept", "application/vnd.docker.distribution.manifest.v2+json")],
        &[("Accept", OCI_INDEX), ("Accept", DOCKER_LIST), ("Accept", "text/html;q=0.1")],
        &[("Accept", "application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.list.v2+json")],
    ];
    for (tag, index, media_type) in &indexes {
        up.push_index("a/b", tag, index);
        for first in 0..variants.len() {
            // Each variant is the one that meets a cold cache once.
            let mirror = Mirror::of(&up).await;
            for headers in variants[first..].iter().chain(&variants[..first]) {
                let answer = mirror.get_with(&manifest_path("a/b", tag), headers).await;
                assert_eq!((answer.status(), answer.header("content-type")), (200, Some(*media_type)), "{tag} {headers:?}");
                assert_eq!(answer.body, index.manifest.bytes, "{tag} {headers:?}");
            }
        }
    }
    let asked = up.requests().into_iter().filter(|request| request.path.contains("/manifests/"));
    for request in asked {
        let accept = request.header("accept").unwrap_or_default();
        assert!([DOCKER_LIST, OCI_INDEX].iter().all(|media_type| accept.contains(media_type)), "{accept}");
    }
}

/// Everything named by its sha512, cold and warm.
#[tokio::test]
async fn a_sha512_image_is_pulled_and_checked() {
    let up = Upstream::start().await;
    let image = Builder::new(5).layer(200_000).layer(100).oci().sha512().build();
    up.push_image(REPOSITORY, "v", &image);
    let mirror = Mirror::of(&up).await;
    let digest = image.manifest.digest.to_string();
    for _ in 0..2 {
        let answer = mirror.get(&manifest_path(REPOSITORY, &digest)).await;
        assert_eq!((answer.status(), &*answer.body), (200, &*image.manifest.bytes));
        assert_eq!(answer.header("docker-content-digest"), Some(&*digest));
        for blob in image.blobs() {
            mirror.pull_blob(REPOSITORY, blob).await;
        }
    }
    mirror.files().get(&image.layers[0]).await;
    mirror.files().blobs();
    assert_eq!(up.count("GET /v2/*/blobs/*"), 3);
    let other = Blob::random_as(roadstead::oci::Algorithm::Sha512, 6, 200_000);
    up.push_blob(REPOSITORY, &other);
    up.on(&blob_path(REPOSITORY, &other)).always(Act::honest().corrupt());
    mirror.get(&blob_path(REPOSITORY, &other)).await.assert_refused();
    assert!(!mirror.files().has(&other));
}

/// A blob whose length the upstream does not say.
#[tokio::test]
async fn a_chunked_upstream_is_mirrored_all_the_same() {
    let (up, image, mirror) = with_image().await;
    let path = blob_path(REPOSITORY, &image.layers[0]);
    up.on(&path).always(Act::honest().chunked());
    for _ in 0..2 {
        let answer = mirror.get(&path).await;
        assert_eq!((answer.status(), answer.end), (200, End::Complete));
        assert!(answer.body == image.layers[0].bytes);
    }
    mirror.files().get(&image.layers[0]).await;
    assert_eq!(up.sent(&path), image.layers[0].size());
    let warm = mirror.get(&path).await;
    assert_eq!(warm.header("content-length"), Some("100000"));
}

/// I10: three spaces of indentation, fields nobody knows, and a line's end behind it all.
#[tokio::test]
async fn i10_manifests_are_served_as_received() {
    let up = Upstream::start().await;
    let image = Image::small(3);
    let mut text = String::from_utf8(image.manifest.bytes.to_vec()).unwrap();
    text.insert_str(1, "\r\n\t\"x-unknown\" : [ 1.0, 1e3, \"\\u00e9\" ],");
    text.push_str(" \n\n");
    let manifest = Blob::new(&image.manifest.media_type, text.into_bytes());
    up.push_untagged(REPOSITORY, &image);
    up.push_manifest(REPOSITORY, &manifest);
    up.tag(REPOSITORY, "odd", &manifest.digest);
    let mut mirror = Mirror::of(&up).await;
    for reference in ["odd".to_owned(), manifest.digest.to_string(), "odd".to_owned()] {
        let answer = mirror.get(&manifest_path(REPOSITORY, &reference)).await;
        assert_eq!((answer.status(), &*answer.body), (200, &*manifest.bytes));
        assert_eq!(answer.header("docker-content-digest"), Some(&*manifest.digest.to_string()));
        mirror = mirror.restart().await;
    }
    mirror.files().get(&manifest).await;
    mirror.files().blobs();
}

/// Several requests on one connection, errors and HEADs among them: each answer ends where the next begins.
#[tokio::test]
async fn a_connection_is_kept() {
    let (_up, image, mirror) = with_image().await;
    let blob = blob_path(REPOSITORY, &image.layers[0]);
    let mut connection = client::Connection::open(mirror.address()).await;
    let steps = [
        ("GET", "/v2/", 200),
        ("GET", &*blob, 200),
        ("HEAD", &*blob, 200),
        ("GET", "/v2/library/alpine/manifests/none", 404),
        ("HEAD", "/v2/library/alpine/manifests/none", 404),
        ("GET", "/v2/UPPER/manifests/x", 400),
        ("GET", "/v2/library/alpine/manifests/latest", 200),
        ("GET", &*blob, 200),
    ];
    for (method, path, status) in steps {
        connection.send(method, path, &[]).await;
        let answer = connection.answer(method).await.unwrap_or_else(|end| panic!("{method} {path}: {end:?}"));
        assert_eq!(answer.status(), status, "{method} {path}");
        connection = answer.rest_and_connection().await.1;
    }
}
