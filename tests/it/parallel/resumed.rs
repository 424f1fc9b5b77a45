//! Downloads with holes that are gone on with: after a restart, a kill, and when nobody reads.

use std::time::Duration;

use super::{PART, REPOSITORY, SIZE, parallel, with_blob};
use crate::support::client;
use crate::support::image::Blob;
use crate::support::mirror::Process;
use crate::support::until;
use crate::support::upstream::{Act, Upstream, blob_path};

/// Where the first part stops in these tests.
const HOLE: u64 = 50_000;

/// Everything but the rest of the first part has come.
async fn all_but_the_hole(up: &Upstream, path: &str) {
    let still = || up.requests().iter().filter(|request| request.path == path && !request.over).count();
    until("all other parts", || up.sent(path) >= SIZE - (PART - HOLE) && still() == 1).await;
}

/// Of a file with a hole, only the hole is asked for: a hole is not content, and what is beyond it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_fills_the_hole() {
    let (up, mirror, blob, path) = with_blob(|_| {}).await;
    up.on(&path).then(Act::honest().stall_after(HOLE));
    let mut download = mirror.open(&path).await;
    assert!(download.read(HOLE as usize).await == blob.bytes[..HOLE as usize]);
    all_but_the_hole(&up, &path).await;
    drop(download);
    let mirror = mirror.restart().await;
    let before = up.sent(&path);
    mirror.pull_blob(REPOSITORY, &blob).await;
    mirror.files().get(&blob).await;
    mirror.files().blobs();
    // It begins with an open request from the hole on, which is cut at what is there.
    let requests = up.requests();
    let last = requests.last().unwrap();
    assert_eq!(last.from(), HOLE, "{:?}", last.range());
    let received = mirror.metric("roadstead_upstream_bytes_total", &[]).await as u64;
    assert!((PART - HOLE..PART - HOLE + (1 << 20)).contains(&received), "{received}");
    assert!(up.sent(&path) - before <= SIZE);
    assert_eq!(mirror.files().ingests(), 0);
}

/// The same after kill -9, and after a power cut that tore the list.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_fill_with_holes_goes_on() {
    for torn in [false, true] {
        let up = Upstream::start().await;
        let blob = Blob::random(1, SIZE as usize);
        up.push_blob(REPOSITORY, &blob);
        let path = blob_path(REPOSITORY, &blob);
        up.on(&path).then(Act::honest().stall_after(HOLE));
        let mirror = Process::with(&up, parallel).await;
        let mut download = client::open(mirror.address(), &path, &[]).await;
        assert!(download.read(HOLE as usize).await == blob.bytes[..HOLE as usize]);
        all_but_the_hole(&up, &path).await;
        let killed = mirror.kill().await;
        assert!(!killed.files().has(&blob));
        if torn {
            let ingest = killed.files().root().join("ingest");
            let lists = std::fs::read_dir(ingest).unwrap().map(|entry| entry.unwrap().path());
            let list = lists.into_iter().find(|path| path.extension().is_some_and(|extension| extension == "parts")).unwrap();
            let text = std::fs::read(&list).unwrap();
            std::fs::write(&list, &text[..text.len() / 2]).unwrap();
        }
        let mirror = killed.start().await;
        client::get(mirror.address(), &path, &[]).await.assert_is(&blob);
        mirror.files().get(&blob).await;
        mirror.files().blobs();
        let again: Vec<u64> = up.requests().iter().skip(SIZE as usize / PART as usize).map(|request| request.from()).collect();
        assert!(again.iter().all(|from| *from > 0), "it began again from nothing: {again:?}");
    }
}

/// kill -9 at any moment: what comes out is right, and the cache's folder holds nothing that is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_in_a_loop_amid_parts() {
    let up = Upstream::start().await;
    let blob = Blob::random(1, SIZE as usize);
    up.push_blob(REPOSITORY, &blob);
    let path = blob_path(REPOSITORY, &blob);
    up.on(&path).always(Act::honest().drip(16 << 10, Duration::from_millis(5)));
    let mut mirror = Process::with(&up, parallel).await;
    for round in 0..6_u64 {
        let (address, path) = (mirror.address(), path.clone());
        let pull = tokio::spawn(async move {
            if let Ok(download) = client::try_open(address, &path, &[]).await {
                download.rest().await;
            }
        });
        tokio::time::sleep(Duration::from_millis(30 + 25 * round)).await;
        let killed = mirror.kill().await;
        pull.abort();
        killed.files().blobs();
        mirror = killed.start().await;
    }
    up.on(&path).clear();
    client::get(mirror.address(), &path, &[]).await.assert_is(&blob);
    mirror.files().get(&blob).await;
    mirror.files().blobs();
}

/// Nobody reads any more, and `abandoned = "abort"`: it stops, and goes on when somebody asks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_abandoned_download_stops_with_all_its_parts() {
    let (up, mirror, blob, path) = with_blob(|settings| {
        settings.set("fill", "abandoned", "abort").set("fill", "abandon_after", "100ms");
    })
    .await;
    let gate = up.gate(&path);
    gate.pass(SIZE / 2);
    let mut download = mirror.open(&path).await;
    assert!(download.read(SIZE as usize / 4).await == blob.bytes[..SIZE as usize / 4]);
    drop(download);
    mirror.metric_becomes("roadstead_fill_failures_total", &[("reason", "abandoned")], 1.0).await;
    assert_eq!(mirror.metric("roadstead_fill_parts_in_flight", &[]).await, 0.0);
    until("its connections to be closed", || up.journal().running() == 0).await;
    gate.open();
    let asked = up.count(&path);
    mirror.pull_blob(REPOSITORY, &blob).await;
    assert!(up.requests()[asked].from() >= SIZE / 4, "resumed");
    mirror.files().blobs();
}
