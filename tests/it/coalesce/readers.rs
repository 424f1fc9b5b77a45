//! Readers that are slow or still: they cost nobody anything.

use super::REPOSITORY;
use crate::support::client;
use crate::support::image::Blob;
use crate::support::join_all;
use crate::support::mirror::{Mirror, Process};
use crate::support::upstream::{Upstream, blob_path};

/// More than the sockets between upstream, mirror and client can hold.
const LARGE: usize = 48 << 20;

/// I7: one client reads nothing; the fill, and everybody else, is done before it goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i7_a_slow_reader_slows_no_one() {
    let up = Upstream::start().await;
    let blob = Blob::random(1, LARGE);
    up.push_blob(REPOSITORY, &blob);
    let mirror = Mirror::of(&up).await;
    let path = blob_path(REPOSITORY, &blob);
    // It is the one that began the fill.
    let mut still = mirror.open(&path).await;
    assert_eq!(still.read(10).await, blob.bytes[..10]);
    join_all((0..3).map(|_| mirror.pull_blob(REPOSITORY, &blob))).await;
    mirror.files().get(&blob).await;
    let rest = still.rest().await;
    assert!(rest.body == blob.bytes[10..] && rest.end == client::End::Complete);
    assert_eq!((up.count(&path), up.sent(&path)), (1, LARGE as u64));
}

/// I7: memory does not grow with the blob nor with the readers that stand still on it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i7_memory_does_not_grow_with_still_readers() {
    let up = Upstream::start().await;
    let blob = Blob::random(2, LARGE);
    up.push_blob(REPOSITORY, &blob);
    let mirror = Process::with(&up, |settings| {
        settings.set("cache", "memory", "16MiB");
    })
    .await;
    let path = blob_path(REPOSITORY, &blob);
    let open = || async {
        let mut download = client::open(mirror.address(), &path, &[]).await;
        download.read(10).await;
        download
    };
    let before = resident(&mirror).await;
    let still = join_all((0..20).map(|_| open())).await;
    mirror.files().get(&blob).await;
    let again = join_all((0..20).map(|_| open())).await;
    let grown = resident(&mirror).await.saturating_sub(before);
    assert!(grown < 2 * LARGE as u64, "{} MiB more for 40 readers of {} MiB", grown >> 20, LARGE >> 20);
    drop((still, again));
}

/// What the program says of its own memory.
async fn resident(mirror: &Process) -> u64 {
    let text = mirror.admin("/metrics").await.text();
    let line = text.lines().find_map(|line| line.strip_prefix("process_resident_memory_bytes "));
    line.and_then(|value| value.parse::<f64>().ok()).expect("the figure is there") as u64
}

/// A client that takes nothing is cut off after `write_timeout`; the fill it began is whole.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_takes_nothing_is_cut_off() {
    let up = Upstream::start().await;
    let blob = Blob::random(3, LARGE);
    up.push_blob(REPOSITORY, &blob);
    let mirror = Mirror::with(&up, |settings| {
        settings.set("server", "write_timeout", "300ms");
    })
    .await;
    let mut still = mirror.open(&blob_path(REPOSITORY, &blob)).await;
    mirror.files().get(&blob).await;
    mirror.metric_becomes("roadstead_requests_total", &[("kind", "blob")], 1.0).await;
    still.read(usize::MAX).await;
    assert!(still.end().unwrap().is_broken(), "{:?} after {} bytes", still.end(), still.got());
    mirror.pull_blob(REPOSITORY, &blob).await;
}
