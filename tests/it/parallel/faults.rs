//! What can be wrong with a part: then there are fewer, and nothing is lost.

use std::time::Duration;

use super::{PART, REPOSITORY, SIZE, with_blob};
use crate::support::client;
use crate::support::image::{Blob, Builder};
use crate::support::until;
use crate::support::upstream::{Act, blob_path, manifest_path};

/// Slow enough that a second part begins while the first answer still comes.
fn slow() -> Act {
    Act::honest().drip(64 << 10, Duration::from_millis(2))
}

/// 200 to a range: one piece, and the next blob is asked for once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_that_ignores_ranges_is_asked_once_a_blob() {
    let (up, mirror, blob, path) = with_blob(|_| {}).await;
    up.on("/v2/*/blobs/*").always(slow().ignore_range());
    mirror.pull_blob(REPOSITORY, &blob).await;
    assert_eq!(up.count(&path), 2, "one part was tried");
    let other = Blob::random(2, SIZE as usize);
    up.push_blob(REPOSITORY, &other);
    mirror.pull_blob(REPOSITORY, &other).await;
    let path = blob_path(REPOSITORY, &other);
    assert_eq!((up.count(&path), up.sent(&path)), (1, SIZE));
    mirror.files().blobs();
}

/// An answer to a part that does not fit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_that_lies_is_not_believed() {
    let total = SIZE + 1;
    for act in [
        slow().header("Content-Range", &format!("bytes 131072-262143/{total}")),
        slow().header("Content-Range", &format!("bytes 0-131071/{SIZE}")),
        slow().header("Content-Range", "nonsense"),
        slow().without("Content-Range"),
        slow().header("ETag", "\"other\""),
        Act::status(416),
        Act::status(404),
        Act::status(403),
        slow().gzip(),
    ] {
        let what = format!("{act:?}");
        let (up, mirror, blob, path) = with_blob(|_| {}).await;
        up.on(&path).then(slow().header("ETag", "\"one\"")).then(act).always(slow());
        mirror.pull_blob(REPOSITORY, &blob).await;
        mirror.files().get(&blob).await;
        mirror.files().blobs();
        assert!(up.journal().peak(&path) <= 2, "{what}");
        assert_eq!(mirror.metric("roadstead_fill_failures_total", &[]).await, 0.0, "{what}");
    }
}

/// Later parts, when the first answer has been cut long ago.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_that_stops_serving_ranges_is_read_in_one_piece() {
    for act in [slow().ignore_range(), slow().header("ETag", "\"other\"")] {
        let (up, mirror, blob, path) = with_blob(|_| {}).await;
        let honest = slow().header("ETag", "\"one\"");
        up.on(&path).times(9, honest).always(act);
        mirror.pull_blob(REPOSITORY, &blob).await;
        mirror.files().get(&blob).await;
        mirror.files().blobs();
        assert_eq!(mirror.metric("roadstead_fill_failures_total", &[]).await, 0.0);
    }
}

/// 429 and 503 to the second connection: the first goes on, undisturbed, and the upstream is spared from then on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_that_pushes_back_gets_one_request() {
    for act in [Act::status(429).header("Retry-After", "600"), Act::status(429), Act::status(503), Act::raw(""), Act::hang()] {
        let what = format!("{act:?}");
        let (up, mirror, blob, path) = with_blob(|settings| {
            settings.hub("response_timeout", "500ms");
        })
        .await;
        up.on(&path).then(slow()).always(act);
        let mut download = mirror.open(&path).await;
        assert!(download.read(1000).await == blob.bytes[..1000]);
        let rest = download.rest().await;
        assert!(!rest.end.is_broken() && rest.body == blob.bytes[1000..], "{what}: {:?}", rest.end);
        mirror.files().get(&blob).await;
        mirror.files().blobs();
        // A request that a dead connection swallowed is sent once more.
        assert!(up.count(&path) <= 3, "{what}: {}", up.count(&path));
    }
}

/// One part stalls, breaks off or is reset in its middle: the others go on, and the rest of it is asked for again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_that_breaks_is_continued() {
    for act in [slow().stall_after(50_000), slow().close_after(50_000), slow().reset_after(50_000), slow().only(50_000)] {
        let what = format!("{act:?}");
        let (up, mirror, blob, path) = with_blob(|settings| {
            settings.hub("stall_timeout", "300ms");
        })
        .await;
        up.on(&path).then(slow()).then(act.clone()).then(slow()).then(act).always(slow());
        mirror.pull_blob(REPOSITORY, &blob).await;
        mirror.files().get(&blob).await;
        mirror.files().blobs();
        assert_eq!(mirror.metric("roadstead_fill_failures_total", &[]).await, 0.0, "{what}");
    }
}

/// One part trickles: the others go on, and the rest of it is asked for again. All do: the fill ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t14_parts_that_trickle_stall() {
    let trickle = || Act::honest().drip(2, Duration::from_millis(50));
    let (up, mirror, blob, path) = with_blob(|settings| {
        settings.hub("stall_timeout", "300ms");
    })
    .await;
    up.on(&path).then(slow()).then(trickle()).always(slow());
    let pulled = tokio::time::timeout(Duration::from_secs(20), mirror.pull_blob(REPOSITORY, &blob));
    pulled.await.expect("what trickled is brought by another part");
    let other = Blob::random(2, SIZE as usize);
    up.push_blob(REPOSITORY, &other);
    up.on("/v2/*/blobs/*").always(trickle());
    drop(mirror.open(&blob_path(REPOSITORY, &other)).await);
    mirror.metric_becomes("roadstead_fill_failures_total", &[("reason", "broken")], 1.0).await;
    assert_eq!(mirror.metric("roadstead_fill_parts_in_flight", &[]).await, 0.0);
}

/// What was asked for ahead is read, too, when the part before it stands still: nobody waits for that one's time-out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_that_was_asked_for_ahead_does_not_wait_for_one_that_stands_still() {
    const CAME: u64 = 50_000;
    let (up, mirror, first, _) = with_blob(|settings| {
        settings.hub("stall_timeout", "5m");
    })
    .await;
    mirror.pull_blob(REPOSITORY, &first).await;
    let image = Builder::new(9).layer(SIZE as usize).build();
    up.push_image(REPOSITORY, "latest", &image);
    let (layer, path) = (&image.layers[0], blob_path(REPOSITORY, &image.layers[0]));
    up.on(&path).then(Act::honest().stall_after(CAME));
    mirror.get(&manifest_path(REPOSITORY, "latest")).await;
    let mut download = mirror.open(&path).await;
    assert!(download.read(CAME as usize).await == layer.bytes[..CAME as usize]);
    // The next part's last bytes: the range makes nobody ask for them.
    until("a second part", || up.count(&path) > 1).await;
    let (from, to) = up.requests().iter().filter(|request| request.path == path).nth(1).unwrap().range().unwrap();
    let to = to.unwrap();
    assert_eq!(from, PART);
    let range = format!("bytes={}-{to}", to - 99);
    let headers = [("Range", &*range)];
    let ranged = tokio::time::timeout(Duration::from_secs(20), mirror.get_with(&path, &headers));
    let ranged = ranged.await.expect("long before the first part's time is out");
    assert!(ranged.status() == 206 && ranged.body == layer.bytes[to as usize - 99..=to as usize]);
}

/// I5: one wrong byte in one part. Nobody gets a whole body, nothing is kept, and the next attempt begins from nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i5_a_wrong_byte_in_one_part_is_never_served_whole() {
    let (up, mirror, blob, path) = with_blob(|_| {}).await;
    up.on(&path).times(3, slow()).then(slow().corrupt()).always(slow());
    let address = mirror.address();
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let path = path.clone();
            tokio::spawn(async move { client::get(address, &path, &[]).await })
        })
        .collect();
    for client in clients {
        let answer = client.await.unwrap();
        answer.assert_not_wrong(&blob);
        assert!(answer.end.is_broken() && answer.body.len() as u64 <= SIZE - (64 << 10), "{:?}", answer.end);
    }
    assert_eq!(mirror.metric("roadstead_digest_mismatches_total", &[]).await, 1.0);
    assert_eq!(mirror.files().blobs(), []);
    assert_eq!(mirror.files().ingests(), 0);
    up.on(&path).clear();
    mirror.pull_blob(REPOSITORY, &blob).await;
    mirror.files().blobs();
}

/// Every part fails: the client can tell, and what has come is kept for the next attempt.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_that_is_gone_fails_the_fill() {
    let (up, mirror, blob, path) = with_blob(|_| {}).await;
    let gate = up.gate(&path);
    gate.pass(SIZE / 2);
    let mut download = mirror.open(&path).await;
    assert!(download.read(SIZE as usize / 4).await == blob.bytes[..SIZE as usize / 4]);
    up.down().await;
    let rest = download.rest().await;
    assert!(rest.end.is_broken());
    until("the fill to end", || mirror.files().blobs().is_empty()).await;
    mirror.metric_becomes("roadstead_fill_failures_total", &[], 1.0).await;
    assert_eq!(mirror.metric("roadstead_fill_parts_in_flight", &[]).await, 0.0);
    gate.open();
    up.up().await;
    let asked = up.count(&path);
    crate::support::within("the mirror to ask again", async {
        while client::try_open(mirror.address(), &path, &[]).await.is_ok_and(|download| download.status() != 200) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    mirror.pull_blob(REPOSITORY, &blob).await;
    assert!(up.requests()[asked].from() >= SIZE / 4, "what was here was not asked for again");
}
