//! The heads of answers, byte for byte: what clients have been seen to rely on does not change unnoticed.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::*;
use crate::support::within;

/// Sends `request` and gives the head of its answer, with the date taken out.
async fn head(mirror: &Mirror, line: &str, headers: &str) -> String {
    let mut stream = TcpStream::connect(mirror.address()).await.unwrap();
    let request = format!("{line} HTTP/1.1\r\nHost: mirror\r\nX-Request-Id: seven\r\nConnection: close\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut all = Vec::new();
    within("the answer", stream.read_to_end(&mut all)).await.unwrap();
    let end = all.windows(4).position(|bytes| bytes == b"\r\n\r\n").expect("an end of the head");
    let head = String::from_utf8(all[..end].to_vec()).unwrap();
    let undated = head.split("\r\n").map(|line| if line.starts_with("date: ") { "date: now" } else { line });
    undated.collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn heads_are_these_bytes() {
    let (_up, image, mirror) = with_image().await;
    mirror.pull(REPOSITORY, "latest", &image).await;
    let layer = &image.layers[0];
    let (manifest, media_type) = (&image.manifest.digest, &image.manifest.media_type);
    let (by_tag, by_digest) = (manifest_path(REPOSITORY, "latest"), manifest_path(REPOSITORY, manifest));
    let blob = blob_path(REPOSITORY, layer);
    let (size, blob_size, digest) = (image.manifest.size(), layer.size(), &layer.digest);
    let common = "docker-distribution-api-version: registry/2.0\ncache-status: roadstead; hit; detail=memory";

    let whole = format!(
        "HTTP/1.1 200 OK\n{common}\ncontent-type: {media_type}\ndocker-content-digest: {manifest}\netag: \"{manifest}\"\n\
         content-length: {size}\nx-request-id: seven\nconnection: close\ndate: now"
    );
    for line in [format!("GET {by_tag}"), format!("GET {by_digest}"), format!("HEAD {by_tag}"), format!("HEAD {by_digest}")] {
        assert_eq!(head(&mirror, &line, "").await, whole, "{line}");
    }
    let named = whole.replacen("detail=memory\n", "detail=memory\noci-namespace: docker.io\n", 1);
    assert_eq!(head(&mirror, &format!("GET {by_tag}?ns=docker.io"), "").await, named);
    let unchanged = format!(
        "HTTP/1.1 304 Not Modified\n{common}\ncontent-type: {media_type}\ndocker-content-digest: {manifest}\netag: \"{manifest}\"\n\
         x-request-id: seven\nconnection: close\ndate: now"
    );
    assert_eq!(head(&mirror, &format!("GET {by_tag}"), &format!("If-None-Match: \"{manifest}\"\r\n")).await, unchanged);

    let octets = format!(
        "{common}\ncontent-type: application/octet-stream\ndocker-content-digest: {digest}\netag: \"{digest}\"\n\
         accept-ranges: bytes"
    );
    let whole =
        format!("HTTP/1.1 200 OK\n{octets}\ncontent-length: {blob_size}\nx-request-id: seven\nconnection: close\ndate: now");
    assert_eq!(head(&mirror, &format!("GET {blob}"), "").await, whole);
    assert_eq!(head(&mirror, &format!("HEAD {blob}"), "").await, whole);
    let part = format!(
        "HTTP/1.1 206 Partial Content\n{octets}\ncontent-length: 10\ncontent-range: bytes 5-14/{blob_size}\nx-request-id: seven\n\
         connection: close\ndate: now"
    );
    assert_eq!(head(&mirror, &format!("GET {blob}"), "Range: bytes=5-14\r\n").await, part);
    let unchanged = format!("HTTP/1.1 304 Not Modified\n{octets}\nx-request-id: seven\nconnection: close\ndate: now");
    assert_eq!(head(&mirror, &format!("GET {blob}"), &format!("If-None-Match: {digest}\r\n")).await, unchanged);
    // The condition comes before the range (RFC 9110, 13.2.2).
    let both = format!("If-None-Match: {digest}\r\nRange: bytes=0-1\r\n");
    assert_eq!(head(&mirror, &format!("GET {blob}"), &both).await, unchanged);

    let base = "HTTP/1.1 200 OK\ndocker-distribution-api-version: registry/2.0\ncontent-type: application/json\n\
                content-length: 2\nx-request-id: seven\nconnection: close\ndate: now";
    assert_eq!(head(&mirror, "GET /v2/", "").await, base);
    let refused = "HTTP/1.1 405 Method Not Allowed\ncontent-type: application/json\ncontent-length: 102\n\
                   docker-distribution-api-version: registry/2.0\nallow: GET, HEAD\nx-request-id: seven\nconnection: close\ndate: now";
    assert_eq!(head(&mirror, "DELETE /v2/", "").await, refused);
}
