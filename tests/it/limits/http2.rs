//! What an HTTP/2 client may not do.

use super::frames::{self, Frame, RST_STREAM, Raw};
use super::{REPOSITORY, all_closed, mirror, refused};
use crate::support::image::Blob;
use crate::support::upstream::{blob_path, manifest_path};
use crate::support::within;

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

/// SETTINGS_INITIAL_WINDOW_SIZE 0: an answer that may never leave is reset, and the connection goes as an idle one does.
#[tokio::test]
async fn a_client_that_opens_no_window_is_let_go() {
    let (up, _, mirror) = mirror(|settings| {
        settings.set("server", "write_timeout", "300ms").set("server", "header_timeout", "600ms");
    })
    .await;
    let large = Blob::random(9, 3 << 20);
    up.push_blob(REPOSITORY, &large);
    mirror.pull_blob(REPOSITORY, &large).await;
    let mut raw = Raw::open(mirror.address(), &[(4, 0)]).await;
    raw.send(&frames::request(1, &blob_path(REPOSITORY, &large))).await;
    within("the stream to be reset", async { while raw.next().await.expect("the stream is reset").kind != RST_STREAM {} }).await;
    refused(&mirror, "stalled", 1.0).await;
    assert_eq!(raw.end().await, Some(NO_ERROR));
    all_closed(&mirror).await;
}

/// One stream without a window among busy ones: it alone is reset, however busy they are.
#[tokio::test]
async fn a_stalled_stream_is_reset_and_the_others_go_on() {
    let (up, image, mirror) = mirror(|settings| {
        // Longer than a busy machine keeps the slow one waiting.
        settings.set("server", "write_timeout", "2s");
    })
    .await;
    let large = Blob::random(9, 3 << 20);
    up.push_blob(REPOSITORY, &large);
    mirror.pull(REPOSITORY, "latest", &image).await;
    mirror.pull_blob(REPOSITORY, &large).await;
    let tcp = tokio::net::TcpStream::connect(mirror.address()).await.unwrap();
    // Room for all on the connection, so that the stream's own window is what the stalled one lacks.
    let mut builder = h2::client::Builder::new();
    builder.initial_connection_window_size(16 << 20).initial_window_size(64 << 10);
    let (mut requests, connection) = builder.handshake::<_, bytes::Bytes>(tcp).await.unwrap();
    tokio::spawn(connection);
    let get = |path: &str| http::Request::get(format!("http://a.example{path}")).body(()).unwrap();
    let (stalled, _) = requests.send_request(get(&blob_path(REPOSITORY, &large)), true).unwrap();
    let mut stalled = within("the stalled answer's head", stalled).await.unwrap().into_body();
    // Busy the while: hundreds of answers on the same connection, and a slow one that takes a little now and then.
    let (slow, _) = requests.send_request(get(&blob_path(REPOSITORY, &large)), true).unwrap();
    let mut slow = within("the slow answer's head", slow).await.unwrap().into_body();
    let (mut answered, mut taken) = (0, 0);
    while mirror.metric("roadstead_connections_refused_total", &[("reason", "stalled")]).await < 1.0 {
        requests = within("the connection", requests.ready()).await.unwrap();
        let (answer, _) = requests.send_request(get(&manifest_path(REPOSITORY, "latest")), true).unwrap();
        let mut body = within("a busy answer", answer).await.unwrap().into_body();
        while let Some(data) = within("a busy answer", body.data()).await {
            body.flow_control().release_capacity(data.unwrap().len()).unwrap();
        }
        answered += 1;
        assert!(answered < 20_000, "the stalled stream is never reset");
        if answered % 4 == 0 && taken < large.bytes.len() {
            let data = within("the slow answer", slow.data()).await.unwrap().unwrap();
            slow.flow_control().release_capacity(data.len()).unwrap();
            taken += data.len();
        }
    }
    assert!(answered > 10, "{answered}");
    // What had come before its window was full is there; then the reset.
    let ended = loop {
        match within("the stalled answer", stalled.data()).await {
            Some(Ok(_)) => {}
            Some(Err(error)) => break error,
            None => panic!("a short body that ends well"),
        }
    };
    assert!(ended.is_reset() && ended.is_remote(), "{ended}");
    // The others, and the connection, live.
    while taken < large.bytes.len() {
        let data = within("the slow answer", slow.data()).await.expect("more").expect("no reset");
        slow.flow_control().release_capacity(data.len()).unwrap();
        taken += data.len();
    }
    assert!(within("its end", slow.data()).await.is_none());
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

/// What a head may have is a number of bytes, in which each header counts for 32 more (RFC 9113, 6.5.2), and no number of
/// headers. More is refused, and the connection goes on.
#[tokio::test]
async fn a_head_is_measured_in_bytes_of_which_each_header_has_32_more() {
    let (_up, _, mirror) = mirror(|_| {}).await;
    let tcp = tokio::net::TcpStream::connect(mirror.address()).await.unwrap();
    let (mut requests, connection) = h2::client::handshake(tcp).await.unwrap();
    tokio::spawn(connection);
    let mut get = async |headers: usize| {
        let mut request = http::Request::get("http://a.example/v2/").body(()).unwrap();
        for _ in 0..headers {
            request.headers_mut().append("x", http::HeaderValue::from_static(""));
        }
        requests = within("the connection", requests.clone().ready()).await.unwrap();
        let (answer, _) = requests.send_request(request, true).unwrap();
        within("an answer", answer).await.unwrap().status().as_u16()
    };
    // 33 bytes each.
    for (headers, status) in [(0, 200), (150, 200), (1900, 200), (2000, 431), (7000, 431), (0, 200)] {
        assert_eq!(get(headers).await, status, "{headers}");
    }
    assert_eq!(mirror.metric("roadstead_connections_refused_total", &[]).await, 0.0);
}
