//! What does not cross the mirror: headers, codings, challenges and secrets.

use super::{REPOSITORY, with_image};
use crate::support::image::Image;
use crate::support::mirror::Mirror;
use crate::support::upstream::{Act, Auth, Upstream, blob_path, manifest_path};

/// T9
#[tokio::test]
async fn t9_identity_is_asked_for_and_served() {
    let (up, image, mirror) = with_image().await;
    let path = blob_path(REPOSITORY, &image.layers[0]);
    for path in [manifest_path(REPOSITORY, "latest"), path] {
        let answer = mirror.get_with(&path, &[("Accept-Encoding", "zstd;q=1.0, gzip;q=0.8, deflate;q=0.5")]).await;
        assert_eq!((answer.status(), answer.header("content-encoding")), (200, None), "{path}");
        assert!(answer.body == image.layers[0].bytes || answer.body == image.manifest.bytes, "{path}");
    }
    for request in up.requests() {
        assert_eq!(request.header("accept-encoding").as_deref(), Some("identity"), "{request:?}");
    }
}

/// T9: an upstream that compresses although it was asked not to.
#[tokio::test]
async fn t9_a_coding_that_was_not_asked_for_never_passes_as_content() {
    let (up, image, mirror) = with_image().await;
    up.on("/v2/*").always(Act::honest().gzip());
    for path in [manifest_path(REPOSITORY, image.manifest.digest), manifest_path(REPOSITORY, "latest")] {
        mirror.get(&path).await.assert_not_wrong(&image.manifest);
    }
    let answer = mirror.get(&blob_path(REPOSITORY, &image.layers[0])).await;
    answer.assert_not_wrong(&image.layers[0]);
    assert_eq!(answer.header("content-encoding"), None);
    mirror.files().blobs();
}

/// T9: stores that look like S3 keep the name of the coding in which something was uploaded, over bytes that are plain.
#[tokio::test]
async fn t9_the_coding_of_an_upload_is_none_of_the_answer() {
    let (up, image, mirror) = with_image().await;
    for (label, blob) in [("aws-chunked", &image.layers[0]), ("identity, AWS-chunked", &image.layers[1]), ("", &image.config)] {
        up.on(&blob_path(REPOSITORY, blob)).always(Act::honest().header("Content-Encoding", label));
        let path = blob_path(REPOSITORY, blob);
        for answer in [mirror.head(&path).await, mirror.get(&path).await, mirror.get(&path).await] {
            assert_eq!((answer.status(), answer.header("content-encoding")), (200, None), "{label}");
        }
        mirror.pull_blob(REPOSITORY, blob).await;
    }
    up.on(&manifest_path(REPOSITORY, image.manifest.digest)).always(Act::honest().header("Content-Encoding", "aws-chunked"));
    mirror.get(&manifest_path(REPOSITORY, image.manifest.digest)).await.assert_is(&image.manifest);
    // Bytes that are framed as an upload is are not the blob, and never pass for it.
    let (up, image, mirror) = with_image().await;
    let layer = &image.layers[0];
    let framed = [format!("{:x};chunk-signature=0\r\n", layer.bytes.len()).as_bytes(), &layer.bytes, b"\r\n0\r\n\r\n"].concat();
    up.on(&blob_path(REPOSITORY, layer)).always(Act::honest().body(framed).header("Content-Encoding", "aws-chunked"));
    mirror.get(&blob_path(REPOSITORY, layer)).await.assert_refused();
    assert_eq!(mirror.files().blobs(), []);
}

/// B7.9: requests are built here, answers too.
#[tokio::test]
async fn headers_do_not_cross() {
    let (up, image, mirror) = with_image().await;
    let act = Act::honest()
        .header("Set-Cookie", "session=1")
        .header("Strict-Transport-Security", "max-age=1")
        .header("X-Served-By", "upstream")
        .header("ratelimit-remaining", "7;w=21600");
    up.on("/v2/*").always(act);
    let foreign = [
        ("Cookie", "a=b"),
        ("Authorization", "Bearer client-secret"),
        ("X-Forwarded-For", "192.0.2.1"),
        ("Proxy-Authorization", "Basic eDp5"),
        ("If-None-Match", "\"x\""),
    ];
    for path in [manifest_path(REPOSITORY, "latest"), blob_path(REPOSITORY, &image.layers[0])] {
        let answer = mirror.get_with(&path, &foreign).await;
        assert_eq!(answer.status(), 200, "{path}");
        for name in ["set-cookie", "strict-transport-security", "x-served-by", "ratelimit-remaining"] {
            assert_eq!(answer.header(name), None, "{path}");
        }
    }
    for request in up.requests() {
        for (name, _) in foreign {
            assert_eq!(request.header(name), None, "{name} went upstream with {} {}", request.method, request.path);
        }
    }
}

/// A10: the upstream's challenge is not for the mirror's clients.
#[tokio::test]
async fn a_refusal_upstream_is_no_challenge_here() {
    let (up, image, mirror) = with_image().await;
    up.require(Auth::bearer(&up).user("somebody", "else"));
    for path in [manifest_path(REPOSITORY, "latest"), blob_path(REPOSITORY, &image.layers[0])] {
        let answer = mirror.get(&path).await;
        assert!([403, 404, 503].contains(&answer.status()), "{path}: {}", answer.status());
        assert_eq!(answer.header("www-authenticate"), None);
        answer.assert_refused();
    }
    assert_eq!(mirror.files().blobs(), []);
}

/// I9, T31, T34: to the upstream and its own token server; not to the host that a redirect leads to, nor to a realm
/// that nobody approved; and into no answer, metric or error.
#[tokio::test]
async fn i9_credentials_go_only_where_they_belong() {
    let up = Upstream::start().await;
    let (cdn, stranger) = (Upstream::start().await, Upstream::start().await);
    let image = Image::small(1);
    up.push_image("private/app", "1", &image);
    let blob = blob_path("private/app", &image.layers[0]);
    up.require(Auth::bearer(&up).user("ann", "s3cr3t-word"));
    up.on(&blob).always(Act::redirect(&cdn));
    let credentials = toml::toml! { username = "ann"
    password = "s3cr3t-word" };
    let mirror = Mirror::with(&up, |settings| {
        settings.hub("credentials", credentials.clone());
    })
    .await;
    mirror.pull("private/app", "1", &image).await;
    assert!(up.count("/token") >= 1);
    assert_eq!(cdn.count("GET /signed/*"), 1);
    for request in cdn.requests() {
        assert_eq!((request.header("authorization"), request.header("cookie")), (None, None));
    }
    let metrics = mirror.admin("/metrics").await.text();
    assert!(!metrics.contains("s3cr3t-word") && !metrics.contains("private/app"), "labels hold no repository and no secret");

    // The same upstream now names a token server that is somebody else's.
    up.require(Auth::bearer(&stranger).user("ann", "s3cr3t-word"));
    let mirror = Mirror::with(&up, |settings| {
        settings.hub("credentials", credentials.clone());
    })
    .await;
    let answer = mirror.get(&manifest_path("private/app", "1")).await;
    answer.assert_refused();
    assert!(!format!("{answer:?} {}", answer.text()).contains("s3cr3t-word"));
    for request in stranger.requests() {
        let body = String::from_utf8_lossy(&request.body).into_owned();
        let everything = format!("{:?} {:?} {body}", request.headers, request.query);
        assert!(request.header("authorization").is_none() && !everything.contains("s3cr3t-word"), "{everything}");
    }

    // Approved, it may have them.
    let mirror = Mirror::with(&up, |settings| {
        settings.hub("credentials", credentials.clone()).hub("token_realms", vec![stranger.address().to_string()]);
    })
    .await;
    up.on(&blob).clear();
    mirror.pull("private/app", "1", &image).await;
}
