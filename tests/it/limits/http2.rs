//! What an HTTP/2 client may not do.

use super::frames::{self, Frame, RST_STREAM, Raw};
use super::{REPOSITORY, all_closed, mirror, refused};
use crate::support::image::Blob;
use crate::support::upstream::{blob_path, manifest_path};

/// RFC 9113, 7
const NO_ERROR: u32 = 0;
const REFUSED_STREAM: u32 = 7;
const ENHANCE_YOUR_CALM: u32 = 11;

/// CVE-2023-44487: requests that are taken back in the same breath.
#[tokio::test]
async fn a_rapid_reset_ends_the_connection() {
    let (_up, image, mirror) = mirror(|_| {}).await;
    let path = manifest_path(REPOSITORY, "latest");
    let mut raw = Raw::open(mirror.address(), &[]).await;
    let bytes: Vec<u8> =
        (0..1000).map(|n| 2 * n + 1).flat_map(|n| [frames::request(n, &path), frames::reset(n)].concat()).collect();
    raw.send(&bytes).await;
    assert_eq!(raw.end().await, Some(ENHANCE_YOUR_CALM));
    refused(&mirror, "flood", 1.0).await;
    mirror.pull(REPOSITORY, "latest", &image).await;
}

/// The same, slow enough that each request has begun: it waits for an upstream that says nothing.
#[tokio::test]
async fn requests_that_are_begun_and_taken_back_end_the_connection() {
    let (up, _, mirror) = mirror(|_| {}).await;
    let gate = up.gate("/v2/library/alpine/manifests/*");
    let mut raw = Raw::open(mirror.address(), &[]).await;
    let mut sent = 0;
    for number in 0..400 {
        let stream = 2 * number + 1;
        if !raw.send(&frames::request(stream, &manifest_path(REPOSITORY, format!("tag-{number}")))).await {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        if !raw.send(&frames::reset(stream)).await {
            break;
        }
        sent += 1;
    }
    raw.end().await;
    assert!((100..400).contains(&sent), "{sent}");
    refused(&mirror, "flood", 1.0).await;
    drop(gate);
}

/// CVE-2024-27316: a head that never ends.
#[tokio::test]
async fn continuations_without_end_end_the_connection() {
    let (_up, image, mirror) = mirror(|_| {}).await;
    let mut raw = Raw::open(mirror.address(), &[]).await;
    raw.send(&Frame::bytes(1, 0x1, 1, &frames::get("/v2/"))).await;
    // x: yyyy…, not indexed.
    let field = [&[0x00, 1, b'x', 100][..], &[b'y'; 100]].concat();
    let mut sent = 0_usize;
    while raw.send(&Frame::bytes(9, 0, 1, &field.repeat(100))).await {
        sent += 10_400;
        assert!(sent < 100 << 20, "100 MiB of head are still taken");
    }
    mirror.pull(REPOSITORY, "latest", &image).await;
}

#[tokio::test]
async fn more_requests_at_one_time_than_agreed_are_refused() {
    let (up, _, mirror) = mirror(|_| {}).await;
    let gate = up.gate("/v2/library/alpine/manifests/*");
    let mut raw = Raw::open(mirror.address(), &[]).await;
    // Settings first: streams opened before the limit was known are forgiven.
    while raw.next().await.unwrap().kind != 4 {}
    let bytes: Vec<u8> = (0..110).flat_map(|n| frames::request(2 * n + 1, &manifest_path(REPOSITORY, "latest"))).collect();
    raw.send(&bytes).await;
    let mut refusals = 0;
    while refusals < 10 {
        let frame = raw.next().await.expect("the connection goes on");
        if frame.kind == RST_STREAM {
            assert_eq!((frame.code(), frame.stream > 200), (REFUSED_STREAM, true), "{frame:?}");
            refusals += 1;
        }
    }
    drop(gate);
}

/// SETTINGS_INITIAL_WINDOW_SIZE 0: answers that may never leave.
#[tokio::test]
async fn a_client_that_opens_no_window_is_let_go() {
    let (up, _, mirror) = mirror(|settings| {
        settings.set("server", "write_timeout", "300ms");
    })
    .await;
    let large = Blob::random(9, 3 << 20);
    up.push_blob(REPOSITORY, &large);
    mirror.pull_blob(REPOSITORY, &large).await;
    let mut raw = Raw::open(mirror.address(), &[(4, 0)]).await;
    raw.send(&frames::request(1, &blob_path(REPOSITORY, &large))).await;
    raw.end().await;
    refused(&mirror, "stalled", 1.0).await;
}

#[tokio::test]
async fn an_idle_connection_is_closed_and_that_is_no_refusal() {
    let (_up, _, mirror) = mirror(|settings| {
        settings.set("server", "header_timeout", "300ms");
    })
    .await;
    let mut raw = Raw::open(mirror.address(), &[]).await;
    raw.send(&frames::request(1, "/v2/")).await;
    assert_eq!(raw.end().await, Some(NO_ERROR));
    all_closed(&mirror).await;
    assert_eq!(mirror.metric("roadstead_connections_refused_total", &[]).await, 0.0);
}
