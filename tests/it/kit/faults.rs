//! Each way of misbehaving, as the raw client sees it.

use std::time::Duration;

use super::with_image;
use crate::support::client::{self, Connection, End};
use crate::support::until;
use crate::support::upstream::Act;

#[tokio::test]
async fn a_body_cut_short_is_told_from_a_whole_one() {
    let (up, image, path) = with_image().await;
    up.on(&path).then(Act::honest().close_after(1_000)).then(Act::honest().only(1_000)).then(Act::honest().claim_length(100_001));
    let cut = client::get(up.address(), &path, &[]).await;
    assert_eq!(cut.end, End::Truncated { got: 1_000, expected: 100_000 });
    assert_eq!(cut.body, image.layers[0].bytes[..1_000]);
    let short = client::get(up.address(), &path, &[]).await;
    assert_eq!((short.end, short.body.len()), (End::Complete, 1_000));
    let lie = client::get(up.address(), &path, &[]).await;
    assert_eq!(lie.end, End::Truncated { got: 100_000, expected: 100_001 });
    assert_eq!(client::get(up.address(), &path, &[]).await.end, End::Complete, "the script is used up");
}

#[tokio::test]
async fn a_reset_is_told_from_a_close() {
    let (up, _, path) = with_image().await;
    up.on(&path).then(Act::honest().reset_after(500)).then(Act::raw("")).then(Act::raw("HTTP/1.1 200 OK\r\nConte"));
    let reset = client::get(up.address(), &path, &[]).await;
    assert_eq!((reset.end, reset.body.len()), (End::Reset, 500));
    assert_eq!(client::try_open(up.address(), &path, &[]).await.unwrap_err(), End::NoAnswer);
    assert_eq!(client::try_open(up.address(), &path, &[]).await.unwrap_err(), End::NoAnswer, "half a head");
}

#[tokio::test]
async fn chunked_bodies_end_cleanly_or_not() {
    let (up, image, path) = with_image().await;
    let chunked = || Act::honest().chunked();
    up.on(&path).then(chunked().drip(30_000, Duration::ZERO)).then(chunked().close_after(70_000)).then(chunked().only(9));
    let whole = client::get(up.address(), &path, &[]).await;
    assert_eq!((whole.end, whole.header("content-length")), (End::Complete, None));
    assert_eq!(whole.body, image.layers[0].bytes);
    assert_eq!(client::get(up.address(), &path, &[]).await.end, End::Cut { got: 70_000 });
    let short = client::get(up.address(), &path, &[]).await;
    assert_eq!((short.end, short.body.len()), (End::Complete, 9));
    up.on(&path).then(Act::honest().unframed());
    let unframed = client::get(up.address(), &path, &[]).await;
    assert_eq!((unframed.end, unframed.body.len()), (End::Closed, 100_000));
}

#[tokio::test]
async fn a_length_that_is_too_short_leaves_a_surplus_on_the_wire() {
    let (up, image, path) = with_image().await;
    up.on(&path).always(Act::honest().claim_length(10));
    let answer = client::get(up.address(), &path, &[]).await;
    assert_eq!((answer.end, &*answer.body), (End::Complete, &image.layers[0].bytes[..10]));
    let everything = client::raw(up.address(), format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await;
    assert!(everything.ends_with(&image.layers[0].bytes));
}

#[tokio::test]
async fn wrong_bytes_wrong_ranges_and_other_documents() {
    let (up, image, path) = with_image().await;
    let bytes = &image.layers[0].bytes;
    up.on(&path)
        .then(Act::honest().corrupt())
        .then(Act::honest().ignore_range())
        .then(Act::honest().header("Content-Range", "bytes 6-10/100000"))
        .then(Act::honest().gzip())
        .then(Act::html())
        .then(Act::status(429).header("Retry-After", "7").body("slow down"))
        .then(Act::honest().without("Docker-Content-Digest"));
    let wrong = client::get(up.address(), &path, &[]).await;
    assert_eq!(wrong.body.len(), bytes.len());
    assert_eq!(wrong.body.iter().zip(bytes).filter(|(got, right)| got != right).count(), 1);
    let ranged = [("Range", "bytes=5-9")];
    let whole = client::get(up.address(), &path, &ranged).await;
    assert_eq!((whole.status(), whole.header("content-range"), whole.body.len()), (200, None, 100_000));
    let shifted = client::get(up.address(), &path, &ranged).await;
    assert_eq!((shifted.status(), shifted.header("content-range")), (206, Some("bytes 6-10/100000")));
    assert_eq!(shifted.body, bytes[5..10]);
    let zipped = client::get(up.address(), &path, &[]).await;
    assert_eq!((zipped.header("content-encoding"), &zipped.body[..2]), (Some("gzip"), &[0x1f, 0x8b][..]));
    let page = client::get(up.address(), &path, &[]).await;
    assert_eq!((page.status(), page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    let limited = client::get(up.address(), &path, &[]).await;
    assert_eq!((limited.status(), limited.header("retry-after"), &*limited.text()), (429, Some("7"), "slow down"));
    let bare = client::get(up.address(), &path, &[]).await;
    assert_eq!((bare.status(), bare.header("docker-content-digest")), (200, None));
}

#[tokio::test]
async fn a_gate_holds_the_head_and_the_body_by_position() {
    let (up, image, path) = with_image().await;
    let bytes = &image.layers[0].bytes;
    let gate = up.gate_head(&path);
    let address = up.address();
    let asked = path.clone();
    let download = tokio::spawn(async move { client::open(address, &asked, &[]).await });
    gate.arrived(1).await;
    assert_eq!(up.requests()[0].status, None, "no head yet");
    gate.pass(1_000);
    let mut download = download.await.unwrap();
    assert_eq!(download.read(1_000).await, bytes[..1_000]);
    assert_eq!(up.sent(&path), 1_000, "and no more");
    let mut resumed = client::open(address, &path, &[("Range", "bytes=900-")]).await;
    assert_eq!(resumed.read(100).await, bytes[900..1_000], "the gate stands at the same byte");
    assert_eq!((up.sent(&path), gate.arrivals()), (1_100, 2));
    assert_eq!((up.journal().peak(&path), up.journal().peak_in_all(), up.journal().running()), (2, 2, 2));
    gate.open();
    let rest = download.rest().await;
    assert_eq!((rest.end, &*rest.body), (End::Complete, &bytes[1_000..]));
    assert_eq!(resumed.rest().await.end, End::Complete);
    until("both answers to be over", || up.journal().running() == 0).await;
}

#[tokio::test]
async fn a_stall_and_a_hang_last_until_the_client_leaves() {
    let (up, _, path) = with_image().await;
    up.on(&path).then(Act::honest().stall_after(10)).then(Act::hang());
    let mut stalled = client::open(up.address(), &path, &[]).await;
    stalled.read(10).await;
    let more = tokio::time::timeout(Duration::from_millis(30), stalled.read(1)).await;
    assert!(more.is_err(), "nothing more comes, and no end either");
    let mut hanging = Connection::open(up.address()).await;
    hanging.send("GET", &path, &[]).await;
    up.asked(&path, 2).await;
    assert_eq!(up.journal().running(), 2);
    assert!(up.requests().iter().all(|request| !request.over));
    drop((stalled, hanging));
    until("the upstream to see both leave", || up.journal().running() == 0).await;
    assert_eq!(up.requests()[1].status, None);
}

#[tokio::test]
async fn a_drip_and_a_delay_come_late_and_whole() {
    let (up, image, path) = with_image().await;
    up.on(&path).then(Act::honest().delay(Duration::from_millis(20)).drip(50_000, Duration::from_millis(5)));
    let answer = client::get(up.address(), &path, &[]).await;
    assert_eq!((answer.end, answer.body == image.layers[0].bytes), (End::Complete, true));
    assert!(answer.first_byte.unwrap() >= Duration::from_millis(20));
}

#[tokio::test]
async fn scripts_choose_by_method_and_pattern() {
    let (up, _, path) = with_image().await;
    let heads = up.on("HEAD /v2/*").always(Act::status(405));
    let blobs = up.on("/v2/*/blobs/*").times(2, Act::status(503));
    assert_eq!(client::head(up.address(), &path, &[]).await.status(), 405);
    assert_eq!(blobs.left(), 2, "the rule for HEAD was made first");
    assert_eq!(client::get(up.address(), "/v2/library/alpine/tags/list", &[]).await.status(), 200);
    for status in [503, 503, 200] {
        assert_eq!(client::get(up.address(), &path, &[]).await.status(), status);
    }
    blobs.used_up().await;
    heads.clear();
    assert_eq!(client::head(up.address(), &path, &[]).await.status(), 200);
}
