//! Blobs: ranges, breaks, stalls and slots (T9, T10, T14, T36).

use super::*;

const DATA: &[u8] = b"0123456789";

async fn always(reply: Reply) -> Server {
    Server::start(move |_| reply.clone()).await
}

/// The bytes that came, and the error that ended them.
async fn read(answer: &mut BlobAnswer) -> (Vec<u8>, Option<UpstreamError>) {
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.body.chunk().await {
        match chunk {
            Ok(chunk) => bytes.extend_from_slice(&chunk),
            Err(error) => {
                assert!(answer.body.chunk().await.is_none(), "an error is the end");
                return (bytes, Some(error));
            }
        }
    }
    (bytes, None)
}

async fn blob(server: &Server, from: u64) -> Result<BlobAnswer, UpstreamError> {
    anonymous(server).blob(&repository("a/b"), &digest_of(DATA), from).await
}

#[tokio::test]
async fn t10_a_broken_body_is_continued() {
    let server = Server::start(|seen| match seen.header("range") {
        None => Reply::new(200).body(DATA).truncated(4),
        Some("bytes=4-") => Reply::new(206).header("content-range", "bytes 4-9/10").body(&DATA[4..]),
        Some(other) => panic!("{other}"),
    })
    .await;
    let upstream = anonymous(&server);
    let (repository, digest) = (repository("a/b"), digest_of(DATA));
    let mut first = upstream.blob(&repository, &digest, 0).await.unwrap();
    assert_eq!((first.start, first.total), (0, Some(10)));
    let (bytes, error) = read(&mut first).await;
    assert_eq!(bytes, b"0123");
    let error = error.unwrap();
    assert_eq!(error.class(), Class::Broken, "{error}");
    assert!(error.retry());
    let mut second = upstream.blob(&repository, &digest, 4).await.unwrap();
    assert_eq!((second.start, second.total), (4, Some(10)));
    assert_eq!(read(&mut second).await.0, b"456789");
    assert!(server.lines().iter().all(|line| *line == format!("GET /v2/a/b/blobs/{digest}")), "T36: {:?}", server.lines());
    assert_eq!(server.seen()[0].header("accept"), Some("*/*"));
    let counted = r#"roadstead_upstream_bytes_total{upstream="registry.example"}"#;
    assert_eq!(metric(&upstream, counted).as_deref(), Some("10"));
}

#[tokio::test]
async fn t10_an_ignored_range_begins_at_zero() {
    let mut answer = blob(&always(Reply::new(200).body(DATA)).await, 4).await.unwrap();
    assert_eq!((answer.start, answer.total), (0, Some(10)));
    assert_eq!(read(&mut answer).await.0, DATA);
}

#[tokio::test]
async fn ranges_that_lie() {
    let partial = |range: &str, body: &[u8]| Reply::new(206).header("content-range", range).body(body);
    for reply in [
        partial("bytes 0-9/10", DATA),
        partial("bytes 5-9/10", &DATA[5..]),
        partial("bytes 4-9/10", &DATA[5..]),
        partial("bytes 4-10/10", &DATA[4..]),
        partial("bytes */10", b""),
        partial("nonsense", &DATA[4..]),
        partial("bytes 4-9/10", &DATA[4..]).header("content-range", "bytes 4-9/10"),
        Reply::new(206).body(&DATA[4..]),
        Reply::new(206).header("content-type", "multipart/byteranges; boundary=x").body("--x"),
        Reply::new(416).header("content-range", "bytes */4"),
        Reply::new(204),
    ] {
        let error = blob(&always(reply.clone()).await, 4).await.unwrap_err();
        assert_eq!(error.class(), Class::Invalid, "{reply:?}: {error}");
    }
    // Only of what had no known end, and broke, the rest may be nothing.
    for (range, is_end) in [("bytes */4", true), ("bytes */3", false), ("bytes */5", false)] {
        let server = always(Reply::new(416).header("content-range", range).body("{}")).await;
        match anonymous(&server).resume_blob(&repository("a/b"), &digest_of(DATA), 4).await {
            Ok(mut answer) => {
                assert!(is_end, "{range}");
                assert_eq!((answer.start, answer.total, read(&mut answer).await.0.len()), (4, Some(4), 0));
            }
            Err(error) => assert!(!is_end && error.class() == Class::Invalid, "{range}: {error}"),
        }
    }
    // Less than asked for, honestly said, is a shorter body.
    let mut answer = blob(&always(partial("bytes 4-6/10", &DATA[4..7])).await, 4).await.unwrap();
    assert_eq!(answer.total, Some(10));
    assert!(matches!(read(&mut answer).await, (bytes, None) if bytes == b"456"));
}

#[tokio::test]
async fn chunked_bodies_are_held_to_the_range() {
    let chunked =
        |body: &str| Reply::new(206).header("content-range", "bytes 4-9/10").header("transfer-encoding", "chunked").body(body);
    for (body, bytes, class) in [
        ("6\r\n456789\r\n0\r\n\r\n", "456789", None),
        ("3\r\n456\r\n0\r\n\r\n", "456", Some(Class::Broken)),
        ("6\r\n456789\r\n1\r\nX\r\n0\r\n\r\n", "456789", Some(Class::Invalid)),
    ] {
        let mut answer = blob(&always(chunked(body)).await, 4).await.unwrap();
        let (got, error) = read(&mut answer).await;
        assert_eq!((got.as_slice(), error.map(|error| error.class())), (bytes.as_bytes(), class), "{body}");
    }
    // Without any length the end of the connection is the end: the digest decides.
    let close_delimited = Reply::new(200).header("transfer-encoding", "chunked").body("a\r\n0123456789\r\n0\r\n\r\n");
    let mut answer = blob(&always(close_delimited).await, 0).await.unwrap();
    assert_eq!(answer.total, None);
    assert!(matches!(read(&mut answer).await, (bytes, None) if bytes == DATA));
}

#[tokio::test]
async fn t9_an_encoded_blob_is_refused_before_any_byte() {
    let server = always(Reply::new(200).header("content-encoding", "gzip").body(DATA)).await;
    let error = blob(&server, 0).await.unwrap_err();
    assert_eq!(error.class(), Class::Invalid, "{error}");
    assert_eq!(server.seen()[0].header("accept-encoding"), Some("identity"));
}

#[tokio::test]
async fn t14_a_stalled_body() {
    let server = always(Reply::new(200).body(DATA).stalled(4)).await;
    let upstream = build(&config::Upstream { stall_timeout: Duration::from_millis(200), ..config(&[&server]) });
    let mut answer = upstream.blob(&repository("a/b"), &digest_of(DATA), 0).await.unwrap();
    let (bytes, error) = read(&mut answer).await;
    assert_eq!(bytes, b"0123");
    let error = error.unwrap();
    assert!(matches!(error.reason(), Reason::Stalled(Stall::Silent(_))) && error.class() == Class::Broken, "{error}");
}

#[tokio::test]
async fn sizes_without_bytes() {
    for (reply, expected) in [
        (Reply::new(206).header("content-range", "bytes 0-0/1000").body("0"), Some(1000)),
        (Reply::new(206).header("content-range", "bytes 0-0/*").body("0"), None),
        (Reply::new(200).header("content-length", "123456789").stalled(0), Some(123_456_789)),
        (Reply::new(200).header("transfer-encoding", "chunked").body("0\r\n\r\n"), None),
        (Reply::new(416).header("content-range", "bytes */0"), Some(0)),
    ] {
        let server = always(reply.clone()).await;
        let size = anonymous(&server).blob_size(&repository("a/b"), &digest_of(b"")).await.unwrap();
        assert_eq!(size, expected, "{reply:?}");
        let seen = &server.seen()[0];
        assert_eq!((seen.method.as_str(), seen.header("range")), ("GET", Some("bytes=0-0")), "T36");
    }
    let missing = always(Reply::new(404)).await;
    assert_eq!(anonymous(&missing).blob_size(&repository("a/b"), &digest_of(b"")).await.unwrap_err().class(), Class::NotFound);
}

/// Whoever stands between and is cheerful about everything has said nothing of a blob, and nor has who speaks of another one.
#[tokio::test]
async fn what_is_no_word_on_a_blob() {
    let (repository, digest) = (repository("a/b"), digest_of(DATA));
    let typed = |kind: &str| Reply::new(200).header("content-type", kind).body(DATA);
    let good = always(Reply::new(206).header("content-range", "bytes 0-0/10").body("0")).await;
    for (reply, known) in [
        (typed("text/html; charset=utf-8"), None),
        (typed("application/json"), None),
        (typed("application/json"), Some(11)),
        (typed("application/octet-stream"), Some(11)),
        (Reply::new(206).header("content-range", "bytes 0-0/9").body("0"), Some(10)),
        (Reply::new(416).header("content-range", "bytes */0"), Some(10)),
        (Reply::new(200).body(DATA), None),
        (Reply::new(200).header("transfer-encoding", "chunked").body("0\r\n\r\n"), None),
        (Reply::new(200).header("transfer-encoding", "chunked").body("0\r\n\r\n"), Some(10)),
        (Reply::new(206).body("0"), Some(10)),
        (Reply::new(416), None),
    ] {
        let server = always(reply.clone()).await;
        let error = anonymous(&server).has_blob(&repository, &digest, known).await.unwrap_err();
        assert_eq!(error.class(), Class::Invalid, "{reply:?}: {error}");
        if known.is_none_or(|known| known == 10) {
            let both = build(&config(&[&server, &good]));
            both.has_blob(&repository, &digest, known)
                .await
                .unwrap_or_else(|error| panic!("{reply:?}: the other address: {error}"));
        }
    }
    // A config may be sent as what it is; of the right size it need not say it.
    for reply in [typed("application/octet-stream"), typed("application/json"), Reply::new(200).body(DATA)] {
        let server = always(reply).await;
        anonymous(&server).has_blob(&repository, &digest, Some(10)).await.unwrap();
    }
}

#[tokio::test]
async fn slots_are_held_by_open_bodies_and_by_nothing_else() {
    let server =
        Server::start(|seen| if seen.path().contains("/blobs/") { Reply::new(200).body(DATA) } else { manifest_reply() }).await;
    let upstream = build(&config::Upstream { max_connections: 1, ..config(&[&server]) });
    let (repository, digest) = (repository("a/b"), digest_of(DATA));
    let first = upstream.blob(&repository, &digest, 0).await.unwrap();
    let mut second = std::pin::pin!(upstream.blob(&repository, &digest, 0));
    assert!(tokio::time::timeout(Duration::from_millis(100), &mut second).await.is_err(), "waits");
    resolve(&upstream).await.unwrap();
    upstream.blob_size(&repository, &digest).await.unwrap();
    drop(first);
    tokio::time::timeout(Duration::from_secs(5), second).await.unwrap().unwrap();
    // A failure gives its slot back.
    let failing = always(Reply::new(500)).await;
    let upstream = build(&config::Upstream { max_connections: 1, ..config(&[&failing]) });
    for _ in 0..3 {
        assert!(upstream.blob(&repository, &digest, 0).await.is_err());
    }
}

#[tokio::test]
async fn a_blob_of_the_next_address() {
    let (first, second) = (always(Reply::new(503)).await, always(Reply::new(200).body(DATA)).await);
    let upstream = build(&config(&[&first, &second]));
    let mut answer = upstream.blob(&repository("a/b"), &digest_of(DATA), 0).await.unwrap();
    assert_eq!(read(&mut answer).await.0, DATA);
    assert_eq!(first.seen().len(), 1);
}
