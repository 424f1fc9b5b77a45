//! Large blobs in parts: several requests, one fill, each byte once; and one request wherever parts do not work.

mod faults;
mod resumed;

use std::time::Duration;

use crate::support::client::{self, Response};
use crate::support::image::{Blob, Builder, random};
use crate::support::join_all;
use crate::support::mirror::{Mirror, Settings};
use crate::support::until;
use crate::support::upstream::{Act, Upstream, blob_path, manifest_path};

const REPOSITORY: &str = "library/alpine";
const SIZE: u64 = 8 << 20;
/// With this threshold, of a blob of [`SIZE`].
const THRESHOLD: &str = "1MiB";
const THRESHOLD_BYTES: usize = 1 << 20;
const PART: u64 = 128 << 10;

/// Parts of [`PART`] bytes, four at one time.
fn parallel(settings: &mut Settings) {
    settings.set("fill", "parallel_threshold", THRESHOLD);
}

async fn with_blob(change: impl FnOnce(&mut Settings)) -> (Upstream, Mirror, Blob, String) {
    let up = Upstream::start().await;
    let blob = Blob::random(1, SIZE as usize);
    up.push_blob(REPOSITORY, &blob);
    let path = blob_path(REPOSITORY, &blob);
    let mirror = Mirror::with(&up, |settings| {
        parallel(settings);
        change(settings);
    })
    .await;
    (up, mirror, blob, path)
}

/// Fails if two bounded ranges of a path overlap; the bytes that they ask for.
fn disjoint(up: &Upstream, path: &str) -> u64 {
    let requests = up.requests();
    let ranges = requests.iter().filter(|request| request.path == path && request.status == Some(206));
    let mut ranges: Vec<(u64, u64)> =
        ranges.filter_map(|request| request.range()).filter_map(|(from, to)| Some((from, to?))).collect();
    ranges.sort_unstable();
    assert!(ranges.windows(2).all(|pair| pair[0].1 < pair[1].0), "asked for twice: {ranges:?}");
    ranges.iter().map(|(from, to)| to + 1 - from).sum()
}

/// The first download of an upstream begins with an open request; nothing is known of it yet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i3_parts_are_one_fill() {
    let (up, mirror, blob, path) = with_blob(|_| {}).await;
    up.on(&path).always(Act::honest().drip(64 << 10, Duration::from_millis(2)));
    mirror.pull_blob(REPOSITORY, &blob).await;
    mirror.files().get(&blob).await;
    assert_eq!(up.requests()[0].range(), None);
    assert!(up.journal().peak(&path) > 1 && up.journal().peak(&path) <= 4, "{}", up.journal().peak(&path));
    assert!(disjoint(&up, &path) <= SIZE - PART);
    let received = mirror.metric("roadstead_upstream_bytes_total", &[]).await as u64;
    assert!((SIZE..SIZE + (1 << 20)).contains(&received), "{received}: each byte once, but for what was cut");
    assert_eq!(mirror.metric("roadstead_fill_parts_in_flight", &[]).await, 0.0);
    assert_eq!(mirror.files().ingests(), 0, "no list is left");
    mirror.files().blobs();
}

/// Where parts have been served before and the manifest tells the size, no byte is sent twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i3_each_byte_is_sent_once() {
    let (up, mirror, first, _) = with_blob(|_| {}).await;
    mirror.pull_blob(REPOSITORY, &first).await;
    let image = Builder::new(7).layer(SIZE as usize + 12345).build();
    up.push_image(REPOSITORY, "latest", &image);
    up.on("/v2/*/blobs/*").always(Act::honest().drip(64 << 10, Duration::from_millis(1)));
    mirror.pull(REPOSITORY, "latest", &image).await;
    let path = blob_path(REPOSITORY, &image.layers[0]);
    assert_eq!((disjoint(&up, &path), up.sent(&path)), (SIZE + 12345, SIZE + 12345));
    assert!(up.journal().peak(&path) > 1);
    mirror.files().blobs();
}

/// An upstream that is fast does not pause between two parts: the next one is asked for while one still comes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_part_is_asked_for_ahead() {
    let (up, mirror, first, _) = with_blob(|_| {}).await;
    mirror.pull_blob(REPOSITORY, &first).await;
    // Too small to be called slow before all of it has come, unless the machine is.
    let image = Builder::new(8).layer(THRESHOLD_BYTES + (512 << 10)).build();
    up.push_image(REPOSITORY, "latest", &image);
    let path = blob_path(REPOSITORY, &image.layers[0]);
    up.on(&path).always(Act::honest().drip(64 << 10, Duration::from_millis(1)));
    mirror.pull(REPOSITORY, "latest", &image).await;
    assert!(up.journal().peak(&path) > 1);
    let size = image.layers[0].bytes.len() as u64;
    assert_eq!((disjoint(&up, &path), up.sent(&path)), (size, size));
}

/// Where each answer is long in coming, fewer are asked for, each for more; the same bytes, each once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_are_larger_where_answers_take_long() {
    let (up, mirror, first, _) = with_blob(|_| {}).await;
    mirror.pull_blob(REPOSITORY, &first).await;
    let image = Builder::new(9).layer(SIZE as usize).build();
    up.push_image(REPOSITORY, "latest", &image);
    let path = blob_path(REPOSITORY, &image.layers[0]);
    up.on(&path).always(Act::honest().delay(Duration::from_millis(50)).drip(64 << 10, Duration::from_millis(2)));
    mirror.pull(REPOSITORY, "latest", &image).await;
    // Four as large as ever; the others half of a fair share of what is left, again and again.
    assert!((8..40).contains(&up.count(&path)), "{} of {}", up.count(&path), SIZE / PART);
    assert!(up.journal().peak(&path) > 1 && up.journal().peak(&path) <= 4);
    let size = image.layers[0].bytes.len() as u64;
    assert_eq!((disjoint(&up, &path), up.sent(&path)), (size, size));
}

/// Who jumps about meanwhile gets a part of the usual length, and so a connection soon again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_jump_begins_no_larger_part_where_answers_take_long() {
    let (up, mirror, first, _) = with_blob(|_| {}).await;
    mirror.pull_blob(REPOSITORY, &first).await;
    let image = Builder::new(10).layer(SIZE as usize).build();
    up.push_image(REPOSITORY, "latest", &image);
    let (layer, path) = (&image.layers[0], blob_path(REPOSITORY, &image.layers[0]));
    up.on(&path).always(Act::honest().delay(Duration::from_millis(50)).drip(64 << 10, Duration::from_millis(2)));
    mirror.get(&manifest_path(REPOSITORY, "latest")).await;
    let whole = mirror.open(&path).await;
    let asked = || up.requests().into_iter().filter(|request| request.path == path).filter_map(|request| request.range());
    // Not the one that is asked for while nothing is known yet.
    let larger = |(from, to): (u64, Option<u64>)| from > SIZE / 8 && to.is_some_and(|to| to - from > 2 * PART);
    until("parts are larger", || asked().any(larger)).await;
    let from = SIZE - 3 * PART + 5;
    let answer = mirror.get_with(&path, &[("Range", &format!("bytes={from}-{}", from + 99))]).await;
    assert!(answer.status() == 206 && answer.body == layer.bytes[from as usize..][..100]);
    let (_, to) = asked().find(|(first, _)| *first == from).expect("a part that begins there");
    assert_eq!(to, Some(SIZE - 2 * PART - 1));
    whole.rest().await.assert_is(layer);
    assert_eq!((disjoint(&up, &path), up.sent(&path)), (SIZE, SIZE));
}

/// At the threshold and below, with `parallel = 1`, and where nobody tells the size: one request.
#[tokio::test]
async fn one_request_where_parts_are_not_wanted() {
    for (change, chunked) in [
        (("fill", "parallel_threshold", toml::Value::from("8MiB")), false),
        (("fill", "parallel", toml::Value::from(1)), false),
        (("fill", "parallel", toml::Value::from(4)), true),
    ] {
        let (up, mirror, blob, path) = with_blob(|settings| {
            settings.set(change.0, change.1, change.2);
        })
        .await;
        if chunked {
            up.on(&path).always(Act::honest().chunked());
        }
        let answer = mirror.get(&path).await;
        assert!(!answer.end.is_broken() && answer.body == blob.bytes);
        assert_eq!((up.count(&path), up.sent(&path)), (1, SIZE));
    }
    let (up, mirror, blob, path) = with_blob(|settings| {
        settings.hub("parallel", 1);
    })
    .await;
    mirror.pull_blob(REPOSITORY, &blob).await;
    assert_eq!(up.count(&path), 1);
}

/// I3, I6: fifty clients, whole and ranged, some of whom leave.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i3_fifty_clients_with_mixed_ranges() {
    let (up, mirror, blob, path) = with_blob(|_| {}).await;
    up.on(&path).always(Act::honest().drip(32 << 10, Duration::from_millis(2)));
    let address = mirror.address();
    let clients = (0..50_u64).map(|number| {
        let (path, blob) = (path.clone(), blob.clone());
        tokio::spawn(async move {
            let draw = random(number, 16);
            let word = |at: usize| u64::from_le_bytes(draw[at..at + 8].try_into().unwrap()) % SIZE;
            let (from, to) = (word(0).min(word(8)), word(0).max(word(8)));
            let range = format!("bytes={from}-{to}");
            match number % 3 {
                0 => client::get(address, &path, &[]).await.assert_is(&blob),
                1 => {
                    let Response { head, body, end, .. } = client::get(address, &path, &[("Range", &range)]).await;
                    assert_eq!((head.status, end.is_broken()), (206, false), "{range}");
                    assert!(body == blob.bytes[from as usize..=to as usize], "{range}");
                }
                _ => {
                    let mut download = client::open(address, &path, &[("Range", &range)]).await;
                    let some = download.read((to - from).min(1000) as usize).await;
                    assert!(some == blob.bytes[from as usize..][..some.len()], "{range}");
                }
            }
        })
    });
    let clients: Vec<_> = clients.collect();
    for client in join_all(clients).await {
        client.unwrap();
    }
    mirror.files().get(&blob).await;
    mirror.files().blobs();
    disjoint(&up, &path);
    let received = mirror.metric("roadstead_upstream_bytes_total", &[]).await as u64;
    assert!((SIZE..SIZE + (1 << 20)).contains(&received), "{received}");
}

/// Who asks for the end of a cold blob does not wait for what is before it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_far_range_comes_before_what_is_in_front_of_it() {
    let (up, mirror, blob, path) = with_blob(|settings| {
        settings.set("fill", "parallel", 2).hub("stall_timeout", "2s");
    })
    .await;
    // The front stands still, and parts come slowly: in order, the end would be long in coming.
    up.on(&path).then(Act::honest().stall_after(10_000)).always(Act::honest().drip(16 << 10, Duration::from_millis(20)));
    let from = SIZE - 3 * PART;
    let range = format!("bytes={from}-{}", from + 99);
    let answer = mirror.get_with(&path, &[("Range", &range)]).await;
    assert_eq!(answer.status(), 206);
    assert!(answer.body == blob.bytes[from as usize..][..100]);
    let asked: Vec<u64> = up.requests().iter().map(|request| request.from()).collect();
    assert!(asked.len() <= 4, "steered at once, not in order: {asked:?}");
    up.on(&path).clear();
    mirror.pull_blob(REPOSITORY, &blob).await;
    disjoint(&up, &path);
}

/// The upstream's limits hold: each part is a download.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_keep_to_the_limits_of_the_upstream() {
    for key in ["max_fills", "max_connections"] {
        let (up, mirror, blob, path) = with_blob(|settings| {
            settings.hub(key, 2);
        })
        .await;
        up.on("/v2/*/blobs/*").always(Act::honest().drip(64 << 10, Duration::from_millis(1)));
        let other = Blob::random(2, SIZE as usize);
        up.push_blob(REPOSITORY, &other);
        let pulls = [blob, other].map(|blob| {
            let (address, path) = (mirror.address(), blob_path(REPOSITORY, &blob));
            tokio::spawn(async move { client::get(address, &path, &[]).await.assert_is(&blob) })
        });
        for pull in pulls {
            pull.await.unwrap();
        }
        assert!(up.journal().peak_in_all() <= 2, "{key}: {}", up.journal().peak_in_all());
        disjoint(&up, &path);
    }
}

/// The parts share one redirect; when it has expired, another one is asked for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t38_parts_share_a_presigned_redirect_until_it_expires() {
    let (up, mirror, blob, path) = with_blob(|_| {}).await;
    let cdn = Upstream::start().await;
    up.on(&path).always(Act::redirect(&cdn));
    let signed = format!("/signed{path}");
    let gate = cdn.gate(&signed);
    gate.pass(2 << 20);
    let mut download = mirror.open(&path).await;
    assert!(download.read(1 << 20).await == blob.bytes[..1 << 20]);
    // The gate is shut, and what comes too slowly is asked for over more connections.
    until("a second part", || cdn.count(&signed) > 1).await;
    assert_eq!(up.count(&path), 1, "one redirect for all parts");
    cdn.expire_signatures();
    gate.open();
    let rest = download.rest().await;
    assert!(!rest.end.is_broken() && rest.body == blob.bytes[1 << 20..]);
    assert!((2..=5).contains(&up.count(&path)), "asked again, and then shared again: {}", up.count(&path));
    disjoint(&cdn, &signed);
    assert!(cdn.requests().iter().all(|request| request.header("authorization").is_none()));
}

/// Another algorithm, and a manifest that has told the size.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sha512_in_parts() {
    let (up, mirror, ..) = with_blob(|_| {}).await;
    let image = Builder::new(3).sha512().layer(SIZE as usize).build();
    up.push_untagged(REPOSITORY, &image);
    let manifest = mirror.get(&manifest_path(REPOSITORY, image.manifest.digest)).await;
    assert_eq!(manifest.status(), 200);
    mirror.pull_blob(REPOSITORY, &image.layers[0]).await;
    mirror.files().get(&image.layers[0]).await;
    mirror.files().blobs();
    assert!(up.count(&blob_path(REPOSITORY, &image.layers[0])) > 4);
}
