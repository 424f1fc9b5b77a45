//! Upstreams that lie: about bytes, lengths, digests, types.

use serde_json::{Value, json};

use super::{REPOSITORY, SIZE, attempt, recovered, refused_then_recovered, short, with_blob, with_blob_and};
use crate::support::client;
use crate::support::image::{Blob, DOCKER_MANIFEST, Image, OCI_INDEX, OCI_MANIFEST, random};
use crate::support::mirror::Mirror;
use crate::support::upstream::{Act, Upstream, blob_path, manifest_path};
use crate::support::{join_all, until};

/// T11: small and large, alone and many at once, sha256 and in chunks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t11_wrong_bytes_of_the_right_length_never_arrive_whole() {
    for size in [1, 100, 70_000, SIZE, 5 << 20] {
        for act in [Act::honest().corrupt(), Act::honest().corrupt().chunked()] {
            let up = Upstream::start().await;
            let blob = Blob::random(1, size);
            up.push_blob(REPOSITORY, &blob);
            let path = blob_path(REPOSITORY, &blob);
            let mirror = Mirror::with(&up, short).await;
            up.on(&path).always(act);
            for answer in join_all((0..10).map(|_| attempt(&mirror, &path))).await.into_iter().flatten() {
                answer.assert_refused();
                assert!(answer.status() >= 300 || answer.body.len() < size, "all {size} bytes came");
            }
            assert!(mirror.metric("roadstead_digest_mismatches_total", &[("upstream", "docker.io")]).await >= 1.0);
            until("what is wrong to be gone: it must not be resumed", || mirror.files().ingests() == 0).await;
            refused_then_recovered(&up, &mirror, &blob).await;
        }
    }
}

/// I5: every byte but the held-back end may be read while the digest is unknown; the end only when it is right.
#[tokio::test]
async fn i5_the_last_chunk_waits_for_the_digest() {
    let (up, mirror, blob, path) = with_blob_and(|_| {}).await;
    let gate = up.gate(&path);
    // Everything but one byte is here: enough to send nearly everything, not enough to know.
    gate.pass(SIZE as u64 - 1);
    let mut download = mirror.open(&path).await;
    let most = SIZE / 2;
    assert!(download.read(most).await == blob.bytes[..most]);
    let rest = tokio::spawn(download.rest());
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    assert!(!rest.is_finished());
    gate.open();
    assert!(rest.await.unwrap().body == blob.bytes[most..]);

    // The same where the byte that is still to come is a wrong one.
    let other = Blob::random(2, SIZE);
    let mut bytes = other.bytes.to_vec();
    bytes[SIZE - 1] ^= 1;
    let path = blob_path(REPOSITORY, &other);
    up.push_blob(REPOSITORY, &Blob { bytes: bytes.into(), ..other.clone() });
    let answer = mirror.get(&path).await;
    answer.assert_refused();
    assert!(answer.body.len() < SIZE);
    let tail = mirror.get_with(&path, &[("Range", "bytes=999990-")]).await;
    tail.assert_refused();
    mirror.files().get(&blob).await;
    assert_eq!(mirror.files().blobs(), [blob.digest]);
}

/// Lengths that are none: a client that believes them must be able to tell.
#[tokio::test]
async fn a_false_length_is_never_a_whole_wrong_body() {
    let length = SIZE as u64;
    let acts = [
        Act::honest().claim_length(length + 1),
        Act::honest().claim_length(length * 3),
        Act::honest().claim_length(length - 1),
        Act::honest().claim_length(10),
        Act::honest().claim_length(0),
        Act::honest().only(10),
        Act::honest().only(0),
        Act::honest().only(10).chunked(),
        Act::honest().only(SIZE - 1).unframed(),
        Act::honest().body(random(5, SIZE + 10)).chunked(),
    ];
    for act in acts {
        let (up, mirror, blob, path) = with_blob().await;
        up.on(&path).always(act);
        if let Some(answer) = attempt(&mirror, &path).await {
            answer.assert_not_wrong(&blob);
        }
        mirror.files().blobs();
        up.on(&path).clear();
        recovered(&mirror, &blob).await;
    }
}

/// A page where a blob should be.
#[tokio::test]
async fn html_is_no_content() {
    let (up, mirror, blob, path) = with_blob().await;
    let image = Image::small(3);
    up.push_image(REPOSITORY, "latest", &image);
    up.on("/v2/*").always(Act::html());
    if let Some(answer) = attempt(&mirror, &path).await {
        answer.assert_refused();
    }
    for path in [
        manifest_path(REPOSITORY, "latest"),
        manifest_path(REPOSITORY, image.manifest.digest),
        "/v2/library/alpine/tags/list".to_owned(),
        format!("/v2/library/alpine/referrers/{}", image.manifest.digest),
    ] {
        let answer = mirror.get(&path).await;
        assert!(!answer.text().contains("Please sign in"), "{path}");
        assert!(answer.status() >= 400 || path.contains("referrers"), "{path}: {}", answer.status());
    }
    up.on("/v2/*").clear();
    recovered(&mirror, &blob).await;
}

/// T12: the header says another digest than the body has, for HEAD, for GET, for both.
#[tokio::test]
async fn t12_a_tag_with_a_false_digest_header() {
    let other = Blob::random(9, 10).digest.to_string();
    for pattern in ["HEAD /v2/*/manifests/latest", "GET /v2/*/manifests/*", "/v2/*/manifests/*"] {
        for digest in [&*other, "sha256:nonsense", ""] {
            let up = Upstream::start().await;
            let image = Image::small(1);
            up.push_image(REPOSITORY, "latest", &image);
            up.on(pattern).always(Act::honest().header("Docker-Content-Digest", digest));
            let mirror = Mirror::with(&up, short).await;
            for path in [manifest_path(REPOSITORY, "latest"), manifest_path(REPOSITORY, image.manifest.digest)] {
                let answer = mirror.get(&path).await;
                if answer.status() == 200 {
                    let named = answer.header("docker-content-digest").map(str::to_owned);
                    assert_eq!(named, Some(Blob::new("", answer.body.clone()).digest.to_string()), "{pattern} {digest}");
                    assert_eq!(answer.body, image.manifest.bytes);
                } else {
                    answer.assert_refused();
                }
            }
            assert!(!mirror.get(&manifest_path(REPOSITORY, &other)).await.text().contains("schemaVersion"));
            mirror.files().blobs();
        }
    }
}

/// A manifest asked for by digest whose bytes are other ones.
#[tokio::test]
async fn a_manifest_that_is_not_what_its_digest_says() {
    let up = Upstream::start().await;
    let (image, other) = (Image::small(1), Image::small(2));
    up.push_image(REPOSITORY, "latest", &image);
    up.on("GET /v2/*/manifests/*").always(Act::honest().body(other.manifest.bytes.clone()));
    let mirror = Mirror::with(&up, short).await;
    let by_digest = mirror.get(&manifest_path(REPOSITORY, image.manifest.digest)).await;
    assert!(by_digest.status() >= 400);
    by_digest.assert_refused();
    assert!(mirror.get(&manifest_path(REPOSITORY, "latest")).await.status() >= 400);
    assert!(mirror.metric("roadstead_digest_mismatches_total", &[]).await >= 1.0);
    assert_eq!(mirror.files().blobs(), []);
}

/// T13, CVE-2021-41190: documents that are two things at once, or not what their header says.
#[tokio::test]
async fn t13_confused_documents_are_refused() {
    let image = Image::small(1);
    let sound: Value = serde_json::from_slice(&image.manifest.bytes).unwrap();
    let with = |key: &str, value: Value| {
        let mut document = sound.clone();
        document[key] = value;
        document.to_string()
    };
    let cases = [
        (OCI_INDEX, image.manifest.bytes.to_vec()),
        (OCI_MANIFEST, image.manifest.bytes.to_vec()),
        (DOCKER_MANIFEST, with("manifests", json!([])).into_bytes()),
        (DOCKER_MANIFEST, with("fsLayers", json!([])).into_bytes()),
        (DOCKER_MANIFEST, with("mediaType", json!(OCI_INDEX)).into_bytes()),
        (DOCKER_MANIFEST, b"{".to_vec()),
        (DOCKER_MANIFEST, b"[]".to_vec()),
        (DOCKER_MANIFEST, Vec::new()),
        ("application/vnd.docker.distribution.manifest.v1+prettyjws", br#"{"schemaVersion":1,"fsLayers":[]}"#.to_vec()),
    ];
    for (media_type, bytes) in cases {
        let up = Upstream::start().await;
        let manifest = Blob::new(media_type, bytes);
        up.push_untagged(REPOSITORY, &image);
        up.push_manifest(REPOSITORY, &manifest);
        up.tag(REPOSITORY, "confused", &manifest.digest);
        let mirror = Mirror::with(&up, short).await;
        for path in [manifest_path(REPOSITORY, "confused"), manifest_path(REPOSITORY, manifest.digest)] {
            let answer = mirror.get(&path).await;
            assert!(answer.status() >= 400, "{media_type} {}: {}", String::from_utf8_lossy(&manifest.bytes), answer.status());
            answer.assert_refused();
        }
    }
}

/// More than a manifest may be (8 MiB), with and without a length, and not read to its end.
#[tokio::test]
async fn a_manifest_without_end_is_refused() {
    let up = Upstream::start().await;
    let huge = Blob::new(DOCKER_MANIFEST, vec![b' '; 64 << 20]);
    up.push_manifest(REPOSITORY, &huge);
    up.tag(REPOSITORY, "huge", &huge.digest);
    let path = manifest_path(REPOSITORY, huge.digest);
    up.on(&format!("GET {path}")).then(Act::honest()).always(Act::honest().chunked());
    let mirror = Mirror::with(&up, short).await;
    for _ in 0..2 {
        let answer = client::get(mirror.address(), &path, &[]).await;
        assert!(answer.status() >= 400);
        answer.assert_refused();
    }
    assert!(up.sent(&path) < 64 << 20, "{} bytes were taken", up.sent(&path));
}

/// T37: redirects that lead nowhere good.
#[tokio::test]
async fn t37_redirects_in_circles_and_elsewhere_are_refused() {
    let (up, mirror, blob, path) = with_blob().await;
    let here = format!("{}{path}", up.url());
    for location in [&*here, "file:///etc/passwd", "ftp://127.0.0.1/x", "//", "http://user:word@127.0.0.1:1/", "%%%", ""] {
        up.on(&path).clear();
        up.on(&path).always(Act::location(307, location));
        let before = up.count(&path);
        let answer = attempt(&mirror, &path).await.expect("an answer");
        assert!(answer.status() >= 400, "{location}: {}", answer.status());
        answer.assert_refused();
        assert!(up.count(&path) - before <= 30, "{location}");
    }
    up.on(&path).clear();
    up.on(&path).always(Act::status(307));
    assert!(mirror.get(&path).await.status() >= 400, "without Location");
    refused_then_recovered(&up, &mirror, &blob).await;
}

/// What is small is answered when it is known to be right: an error has a status that sends clients elsewhere.
#[tokio::test]
async fn a_lie_about_a_small_blob_is_an_error_with_a_status() {
    for (act, has_length) in [(Act::html(), true), (Act::honest().corrupt(), true), (Act::html().chunked(), false)] {
        let up = Upstream::start().await;
        let blob = Blob::random(5, 3000);
        up.push_blob(REPOSITORY, &blob);
        let path = blob_path(REPOSITORY, &blob);
        up.on(&path).always(act);
        let mirror = Mirror::of(&up).await;
        let answer = mirror.get(&path).await;
        answer.assert_refused();
        assert!(answer.status() == 503 || !has_length, "{:?}", answer.head);
        up.on(&path).clear();
        mirror.pull_blob(REPOSITORY, &blob).await;
    }
}

/// An upstream with two addresses, of which the first lies: each thing comes from the second, at once where the lie shows
/// before a byte was passed on, and else when the client comes again.
#[tokio::test]
async fn where_one_address_lies_another_is_asked() {
    let (first, second) = (Upstream::start().await, Upstream::start().await);
    let (image, large) = (Image::small(1), Blob::random(6, SIZE));
    for up in [&first, &second] {
        up.push_image(REPOSITORY, "latest", &image);
        up.push_blob(REPOSITORY, &large);
    }
    let layer = blob_path(REPOSITORY, &image.layers[0]);
    let (manifest, blob) = (manifest_path(REPOSITORY, image.manifest.digest), blob_path(REPOSITORY, &large));
    let mirror = || {
        Mirror::with(&first, |settings| {
            short(settings);
            settings.hub("url", vec![first.url(), second.url()]);
        })
    };
    let mismatches = async |mirror: &Mirror| mirror.metric("roadstead_digest_mismatches_total", &[]).await;

    first.on("GET /v2/*").always(Act::honest().corrupt());
    let lied_to = mirror().await;
    assert_eq!(lied_to.get(&manifest).await.body, image.manifest.bytes);
    assert_eq!(mismatches(&lied_to).await, 1.0, "it is counted although nobody was hurt");
    lied_to.get(&blob).await.assert_refused();
    lied_to.pull_blob(REPOSITORY, &large).await;
    assert_eq!((first.count(&blob), second.count(&blob), mismatches(&lied_to).await), (1, 1, 2.0));
    lied_to.pull_blob(REPOSITORY, &image.layers[0]).await;
    assert_eq!(first.count(&layer), 0, "the others are asked first");

    first.on("GET /v2/*").clear();
    first.on("GET /v2/*").always(Act::html().header("Content-Encoding", "gzip"));
    let paged = mirror().await;
    paged.pull(REPOSITORY, "latest", &image).await;
    assert_eq!(mismatches(&paged).await, 0.0);
}

/// Addresses of which one lies and the other has erred once: the one whose lie is the oldest is asked first, and is trusted again.
#[tokio::test]
async fn one_glitch_does_not_put_an_address_behind_one_that_lies() {
    let (liar, good) = (Upstream::start().await, Upstream::start().await);
    let images: Vec<Image> = (0..4).map(Image::small).collect();
    for (number, image) in images.iter().enumerate() {
        for up in [&liar, &good] {
            up.push_image(REPOSITORY, &number.to_string(), image);
        }
    }
    liar.on("GET /v2/*").always(Act::html());
    good.on("GET /v2/*/manifests/*").then(Act::honest().corrupt());
    let mirror = Mirror::with(&liar, |settings| {
        short(settings);
        settings.hub("url", vec![liar.url(), good.url()]);
    })
    .await;
    for (number, image) in images.iter().enumerate().skip(1) {
        let answer = mirror.get(&manifest_path(REPOSITORY, number)).await;
        assert_eq!(&*answer.body, &*image.manifest.bytes, "{number}: {}", answer.status());
    }
    assert!(liar.count("GET *") <= 2, "{}", liar.count("GET *"));
}

/// What is no manifest is none, whatever its type says; and a page in the place of a HEAD is no reason to pull.
#[tokio::test]
async fn a_sign_in_page_at_one_address_costs_the_other_no_pull() {
    for act in [Act::html(), Act::honest().body(r#"{"code":302,"msg":"please sign in"}"#)] {
        let (first, second) = (Upstream::start().await, Upstream::start().await);
        let image = Image::small(1);
        second.push_image(REPOSITORY, "latest", &image);
        first.push_image(REPOSITORY, "latest", &Image::small(2));
        first.on("/v2/*").always(act.header("Docker-Content-Digest", ""));
        let mirror = Mirror::with(&first, |settings| {
            short(settings);
            settings.hub("url", vec![first.url(), second.url()]).set("freshness", "fresh_for", "0s");
        })
        .await;
        for _ in 0..4 {
            assert_eq!(&*mirror.get(&manifest_path(REPOSITORY, "latest")).await.body, &*image.manifest.bytes);
        }
        assert!(second.count("GET /v2/*/manifests/*") <= 2, "{}", second.count("GET /v2/*/manifests/*"));
    }
}
