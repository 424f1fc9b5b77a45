//! One download, everybody streams: many clients on one cold digest, some leaving, some slow.

mod readers;

use std::time::Duration;

use crate::support::client::{self, Download};
use crate::support::image::{Blob, Image};
use crate::support::mirror::Mirror;
use crate::support::upstream::{Act, Gate, Upstream, blob_path, manifest_path};
use crate::support::{join_all, until};

const REPOSITORY: &str = "library/alpine";
const SIZE: usize = 4 << 20;
/// What the gate lets pass before the test opens it.
const FIRST: usize = 1 << 20;

/// An upstream with one blob behind a gate, and a mirror of it.
async fn gated() -> (Upstream, Mirror, Blob, Gate) {
    let up = Upstream::start().await;
    let blob = Blob::random(1, SIZE);
    up.push_blob(REPOSITORY, &blob);
    let gate = up.gate(&blob_path(REPOSITORY, &blob));
    gate.pass(FIRST as u64);
    (up.clone(), Mirror::of(&up).await, blob, gate)
}

/// So many clients on one blob, each past its first kilobyte.
async fn clients(mirror: &Mirror, blob: &Blob, count: usize) -> Vec<Download> {
    let path = blob_path(REPOSITORY, blob);
    let one = || async {
        let mut download = client::open(mirror.address(), &path, &[]).await;
        assert_eq!((download.status(), download.head.content_length()), (200, Some(SIZE as u64)));
        assert!(download.read(1024).await == blob.bytes[..1024], "bytes come while the fill is running");
        download
    };
    join_all((0..count).map(|_| one())).await
}

/// T15, I3: the bytes stream while the upstream has sent a quarter, and it sends each once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t15_fifty_clients_are_one_download() {
    let (up, mirror, blob, gate) = gated().await;
    let path = blob_path(REPOSITORY, &blob);
    let downloads = clients(&mirror, &blob, 50).await;
    gate.open();
    for response in join_all(downloads.into_iter().map(Download::rest)).await {
        assert_eq!(response.end, client::End::Complete);
        assert!(response.body == blob.bytes[1024..]);
    }
    assert_eq!((up.count(&path), up.sent(&path)), (1, SIZE as u64));
    mirror.metric_becomes("roadstead_requests_total", &[("kind", "blob")], 50.0).await;
    assert_eq!(mirror.metric("roadstead_requests_total", &[("kind", "blob"), ("result", "fill")]).await, 1.0);
    assert_eq!(mirror.metric("roadstead_requests_total", &[("kind", "blob"), ("result", "joined")]).await, 49.0);
    assert_eq!(mirror.metric("roadstead_upstream_bytes_total", &[("upstream", "docker.io")]).await, SIZE as f64);
    assert_eq!(mirror.metric("roadstead_response_bytes_total", &[("kind", "blob")]).await, 50.0 * SIZE as f64);
    mirror.files().get(&blob).await;
    mirror.files().blobs();
}

/// T16, I6: 49 of 50 leave mid-body.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t16_killing_49_of_50_changes_nothing() {
    let (up, mirror, blob, gate) = gated().await;
    let path = blob_path(REPOSITORY, &blob);
    let mut downloads = clients(&mirror, &blob, 50).await;
    // Not the first and not the last that came.
    let survivor = downloads.swap_remove(25);
    drop(downloads);
    // Those who left are gone for the mirror too before a byte more comes.
    let left = [("kind", "blob")];
    mirror.metric_becomes("roadstead_requests_total", &left, 49.0).await;
    gate.open();
    let rest = survivor.rest().await;
    assert!(rest.body == blob.bytes[1024..] && rest.end == client::End::Complete);
    assert_eq!((up.count(&path), up.sent(&path)), (1, SIZE as u64));
    mirror.files().get(&blob).await;
    mirror.pull_blob(REPOSITORY, &blob).await;
    assert_eq!(up.count(&path), 1);
}

/// Who has joined a request that fails shares its failure, and does not repeat it: not a "not found", not a time-out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_is_shared_as_bytes_are() {
    const CLIENTS: usize = 8;
    let image = Image::small(3);
    let manifest = manifest_path(REPOSITORY, image.manifest.digest.to_string());
    let blob = blob_path(REPOSITORY, &image.layers[0]);
    // Long enough for all of them to come, on a machine that is busy.
    let pause = Duration::from_secs(1);
    for (path, act, status) in [
        (&manifest, Act::status(404).delay(pause), 404),
        (&blob, Act::status(404).delay(pause), 404),
        (&manifest, Act::hang(), 503),
        (&blob, Act::hang(), 503),
    ] {
        let up = Upstream::start().await;
        up.on(path).always(act);
        let mirror = Mirror::with(&up, |settings| {
            settings.hub("response_timeout", "2s");
        })
        .await;
        let answers = join_all((0..CLIENTS).map(|_| mirror.get(path))).await;
        assert!(answers.iter().all(|answer| answer.status() == status), "{path}: {:?}", answers[0].head);
        assert_eq!(up.count(path), 1, "{path}");
    }
}

/// Another repository's failure is not one's own: each is asked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_of_another_repository_is_not_shared() {
    let up = Upstream::start().await;
    let image = Image::small(4);
    up.push_image(REPOSITORY, "latest", &image);
    let digest = image.manifest.digest.to_string();
    for (elsewhere, here) in [
        (manifest_path("library/other", &digest), manifest_path(REPOSITORY, &digest)),
        (blob_path("library/other", &image.layers[0]), blob_path(REPOSITORY, &image.layers[0])),
    ] {
        up.on(&elsewhere).always(Act::status(404).delay(Duration::from_millis(300)));
        let mirror = Mirror::of(&up).await;
        let late = async {
            until("the first request", || up.count(&elsewhere) == 1).await;
            mirror.get(&here).await
        };
        let (first, second) = tokio::join!(mirror.get(&elsewhere), late);
        assert_eq!((first.status(), second.status()), (404, 200));
    }
}

/// I6: when all have left, the fill goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i6_a_fill_outlives_its_clients() {
    let (up, mirror, blob, gate) = gated().await;
    let path = blob_path(REPOSITORY, &blob);
    drop(clients(&mirror, &blob, 5).await);
    mirror.metric_becomes("roadstead_requests_total", &[("kind", "blob")], 5.0).await;
    assert_eq!(mirror.metric("roadstead_fills_in_flight", &[]).await, 1.0);
    gate.open();
    mirror.files().get(&blob).await;
    assert_eq!((up.count(&path), up.sent(&path)), (1, SIZE as u64));
    until("the upstream's answer to be over", || up.journal().running() == 0).await;
    up.down().await;
    mirror.pull_blob(REPOSITORY, &blob).await;
}

/// With `fill.abandoned = "abort"` an abandoned fill ends, and what it has got is not asked for again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_abandoned_fill_can_be_aborted_and_goes_on_where_it_was() {
    let (up, _, blob, gate) = gated().await;
    let path = blob_path(REPOSITORY, &blob);
    let mirror = Mirror::with(&up, |settings| {
        settings.set("fill", "abandoned", "abort").set("fill", "abandon_after", "50ms");
    })
    .await;
    let mut download = mirror.open(&path).await;
    download.read(FIRST).await;
    drop(download);
    until("the upstream to be left alone", || up.journal().running() == 0).await;
    assert!(!mirror.files().has(&blob));
    gate.open();
    mirror.pull_blob(REPOSITORY, &blob).await;
    let resumed = up.requests().pop().unwrap();
    assert_eq!(resumed.header("range"), Some(format!("bytes={FIRST}-")));
    assert_eq!(up.sent(&path), SIZE as u64);
}

/// I3: whatever repository, alias or range asks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i3_one_fill_per_digest() {
    let up = Upstream::start().await;
    let blob = Blob::random(1, SIZE);
    let repositories = ["library/alpine", "team/app", "deep/er/name"];
    repositories.iter().for_each(|repository| up.push_blob(repository, &blob));
    let gate = up.gate("/v2/*/blobs/*");
    gate.pass(FIRST as u64);
    let mirror = Mirror::with(&up, |settings| {
        settings.add("alias.example", &up);
    })
    .await;
    let mut downloads = vec![mirror.open(&blob_path(repositories[0], &blob)).await];
    for repository in repositories {
        for ns in ["docker.io", "alias.example"] {
            for range in ["bytes=0-", "bytes=3000000-", "items=0-"] {
                let path = format!("{}?ns={ns}", blob_path(repository, &blob));
                downloads.push(client::open(mirror.address(), &path, &[("Range", range)]).await);
            }
        }
    }
    assert_eq!(mirror.metric("roadstead_fills_in_flight", &[]).await, 1.0);
    gate.open();
    for download in downloads {
        let ranged = download.head.header("content-range").map(|value| value.starts_with("bytes 3000000-"));
        let rest = download.rest().await;
        assert_eq!(rest.end, client::End::Complete);
        assert!(rest.body == if ranged == Some(true) { &blob.bytes[3_000_000..] } else { &blob.bytes[..] });
    }
    // Whether a repository may read what another one brought can be asked with a byte; the content comes once.
    let sent = up.sent("/v2/*/blobs/*");
    assert!((SIZE as u64..SIZE as u64 + 64).contains(&sent), "{sent} bytes for {SIZE}");
    assert_eq!(up.count("HEAD /v2/*/blobs/*"), 0);
}

/// T15 for a tag: one check, one manifest, however many ask while the upstream thinks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t15_a_hundred_requests_for_a_tag_are_one_check() {
    let up = Upstream::start().await;
    let image = Image::small(1);
    up.push_image(REPOSITORY, "latest", &image);
    let gate = up.gate_head("/v2/*");
    let mirror = Mirror::of(&up).await;
    let path = manifest_path(REPOSITORY, "latest");
    let address = mirror.address();
    let requests: Vec<_> = (0..100)
        .map(|number| {
            let (path, method) = (path.clone(), if number % 2 == 0 { "GET" } else { "HEAD" });
            tokio::spawn(async move { client::request(address, method, &path, &[]).await })
        })
        .collect();
    gate.arrived(1).await;
    gate.open();
    for request in requests {
        let answer = request.await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.header("docker-content-digest"), Some(&*image.manifest.digest.to_string()));
        assert!(answer.body.is_empty() || answer.body == image.manifest.bytes);
    }
    assert!(up.count(&format!("HEAD {path}")) <= 1, "{} checks", up.count(&format!("HEAD {path}")));
    assert_eq!(up.count("GET /v2/*/manifests/*"), 1);
    assert_eq!(up.journal().peak_in_all(), 1);
}

/// More cold blobs than the upstream may be asked for at once: they wait for each other and all come.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn downloads_beyond_the_limit_wait() {
    let up = Upstream::start().await;
    let blobs: Vec<Blob> = (0..12).map(|seed| Blob::random(seed, 200_000)).collect();
    blobs.iter().for_each(|blob| up.push_blob(REPOSITORY, blob));
    let mirror = Mirror::with(&up, |settings| {
        settings.hub("max_connections", 2);
    })
    .await;
    join_all(blobs.iter().map(|blob| mirror.pull_blob(REPOSITORY, blob))).await;
    assert!(up.journal().peak_in_all() <= 2, "{} at once", up.journal().peak_in_all());
    assert_eq!(up.sent("*"), 12 * 200_000);
}

/// I12: each request is counted once, however it ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i12_every_request_has_exactly_one_result() {
    let (up, mirror, blob, gate) = gated().await;
    let image = Image::small(7);
    up.push_image(REPOSITORY, "latest", &image);
    let broken = Blob::random(8, SIZE);
    up.push_blob(REPOSITORY, &broken);
    up.on(&blob_path(REPOSITORY, &broken)).always(crate::support::upstream::Act::honest().corrupt());
    let mut sent = 0.0;
    let left = clients(&mirror, &blob, 10).await;
    sent += 10.0;
    drop(left);
    gate.open();
    let paths = [
        "/v2/".to_owned(),
        manifest_path(REPOSITORY, "latest"),
        manifest_path(REPOSITORY, "latest"),
        manifest_path(REPOSITORY, "none"),
        manifest_path(REPOSITORY, "none"),
        blob_path(REPOSITORY, &image.layers[0]),
        blob_path(REPOSITORY, &image.layers[0]),
        blob_path(REPOSITORY, &broken),
        "/v2/library/alpine/tags/list".to_owned(),
        format!("/v2/library/alpine/referrers/{}", image.manifest.digest),
        "/v2/library/alpine/blobs/nonsense".to_owned(),
        "/v2/library/alpine/manifests/latest?ns=evil.example".to_owned(),
        "/nothing".to_owned(),
    ];
    for path in &paths {
        mirror.get(path).await;
        mirror.head(path).await;
        mirror.get_with(path, &[("Range", "bytes=1-2")]).await;
        client::request(mirror.address(), "DELETE", path, &[]).await;
        sent += 4.0;
    }
    mirror.metric_becomes("roadstead_requests_total", &[], sent).await;
    assert_eq!(mirror.metric("roadstead_request_seconds_count", &[]).await, sent);
    for kind in ["tags", "referrers"] {
        let counted = mirror.metric("roadstead_requests_total", &[("kind", kind)]).await;
        assert!(counted >= 3.0, "{kind}: {counted}; what is no GET may be of another kind");
    }
}
