//! What a client may not do, how it is stopped, that it is counted, and that the others do not notice.

mod accounts;
mod descriptors;
mod frames;
mod http2;

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use crate::support::client;
use crate::support::image::{Blob, Image};
use crate::support::mirror::{Mirror, Settings};
use crate::support::upstream::{Upstream, blob_path};
use crate::support::within;

const REPOSITORY: &str = "library/alpine";

async fn mirror(change: impl FnOnce(&mut Settings)) -> (Upstream, Image, Mirror) {
    let up = Upstream::start().await;
    let image = Image::small(1);
    up.push_image(REPOSITORY, "latest", &image);
    let mirror = Mirror::with(&up, change).await;
    (up, image, mirror)
}

/// Waits until so many connections were refused for this reason.
async fn refused(mirror: &Mirror, reason: &str, count: f64) {
    mirror.metric_becomes("roadstead_connections_refused_total", &[("reason", reason)], count).await;
}

/// Waits until no connection is open.
async fn all_closed(mirror: &Mirror) {
    within("all connections to be closed", async {
        while mirror.metric("roadstead_connections", &[]).await > 0.0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// A connection from an address of one's own, on loopback.
async fn from(own: &str, address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{own}:0").parse().unwrap()).unwrap();
    within("a connection", socket.connect(address)).await.unwrap()
}

/// Everything until the other side closes.
async fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = within("the other side to close", stream.read_to_end(&mut bytes)).await;
    bytes
}

async fn answers(stream: &mut TcpStream) -> bool {
    let mut bytes = [0; 12];
    let asked = stream.write_all(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n").await.is_ok();
    asked && within("an answer", stream.read_exact(&mut bytes)).await.is_ok() && bytes == *b"HTTP/1.1 200"
}

#[tokio::test]
async fn one_client_may_hold_so_many_connections() {
    let (_up, _, mirror) = mirror(|settings| {
        settings.set("server", "max_connections_per_client", 2);
    })
    .await;
    let mut held = [from("127.0.0.1", mirror.address()).await, from("127.0.0.1", mirror.address()).await];
    for stream in &mut held {
        assert!(answers(stream).await);
    }
    assert!(rest(&mut from("127.0.0.1", mirror.address()).await).await.is_empty());
    refused(&mirror, "per_client", 1.0).await;
    assert!(answers(&mut from("127.0.0.2", mirror.address()).await).await, "another client has its own");
    let [first, _second] = held;
    drop(first);
    // Once the mirror has seen that.
    within("a place", async {
        while !answers(&mut from("127.0.0.1", mirror.address()).await).await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_client_too_many_waits_and_that_is_shown() {
    let (_up, _, mirror) = mirror(|settings| {
        settings.set("server", "max_connections", 1);
    })
    .await;
    let mut first = from("127.0.0.1", mirror.address()).await;
    assert!(answers(&mut first).await);
    let mut second = from("127.0.0.1", mirror.address()).await;
    mirror.metric_becomes("roadstead_connections_waits_total", &[], 1.0).await;
    assert_eq!(mirror.metric("roadstead_connections", &[]).await, 1.0);
    assert_eq!(mirror.metric("roadstead_connections_limit", &[]).await, 1.0);
    drop(first);
    assert!(answers(&mut second).await);
}

/// Slowloris: a head, byte by byte.
#[tokio::test]
async fn a_head_that_takes_too_long_ends_the_connection() {
    let (_up, image, mirror) = mirror(|settings| {
        settings.set("server", "header_timeout", "500ms");
    })
    .await;
    for http2_possible in [true, false] {
        // The second one begins as HTTP/2 does.
        let text: &[u8] = if http2_possible { b"GET /v2/ HTTP/1.1\r\nHost: x\r\nA: " } else { b"PRI * HTTP/2.0\r\n\r\nS" };
        let mut stream = from("127.0.0.1", mirror.address()).await;
        for byte in text.iter().chain([b'x'; 10_000].iter()) {
            if stream.write_all(&[*byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
            if !http2_possible && *byte == b'S' {
                break;
            }
        }
        rest(&mut stream).await;
    }
    refused(&mirror, "head_timeout", 2.0).await;
    mirror.pull(REPOSITORY, "latest", &image).await;
}

#[tokio::test]
async fn an_idle_connection_is_closed_and_that_is_no_refusal() {
    let (_up, _, mirror) = mirror(|settings| {
        settings.set("server", "header_timeout", "300ms");
    })
    .await;
    let mut silent = from("127.0.0.1", mirror.address()).await;
    let mut used = from("127.0.0.1", mirror.address()).await;
    assert!(answers(&mut used).await);
    rest(&mut used).await;
    rest(&mut silent).await;
    all_closed(&mirror).await;
    assert_eq!(mirror.metric("roadstead_connections_refused_total", &[]).await, 0.0);
}

/// Connections that have asked for nothing hold up no shutdown.
#[tokio::test]
async fn silent_connections_do_not_delay_the_end() {
    let (_up, _, mirror) = mirror(|settings| {
        settings.set("server", "shutdown_timeout", "10m").set("server", "header_timeout", "10m");
    })
    .await;
    let mut silent = from("127.0.0.1", mirror.address()).await;
    let mut begun = from("127.0.0.1", mirror.address()).await;
    begun.write_all(b"PRI").await.unwrap();
    let mut used = from("127.0.0.1", mirror.address()).await;
    assert!(answers(&mut used).await);
    mirror.metric_becomes("roadstead_connections", &[], 3.0).await;
    mirror.stop().await;
    for stream in [&mut silent, &mut begun, &mut used] {
        rest(stream).await;
    }
}

#[tokio::test]
async fn heads_that_are_too_large_or_no_heads() {
    let (_up, image, mirror) = mirror(|_| {}).await;
    let large = format!("GET /v2/ HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\r\n", "x".repeat(70_000));
    let many = format!("GET /v2/ HTTP/1.1\r\nHost: x\r\n{}\r\n", "A: b\r\n".repeat(101));
    for (text, status) in [(&large, "431"), (&many, "431")] {
        let answer = client::raw(mirror.address(), text.as_bytes()).await;
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer:?}");
    }
    refused(&mirror, "head_size", 2.0).await;
    let answer = client::raw(mirror.address(), b"\x16\x03\x01 this is not HTTP\r\n\r\n").await;
    assert!(answer.starts_with(b"HTTP/1.1 400 "), "{answer:?}");
    refused(&mirror, "malformed", 1.0).await;
    // A token of 16 KiB is one that registries give.
    let token = format!("Bearer {}", "x".repeat(16_000));
    assert_eq!(mirror.get_with("/v2/", &[("Authorization", &token)]).await.status(), 200);
    mirror.pull(REPOSITORY, "latest", &image).await;
}

#[tokio::test]
async fn a_reader_that_stalls_is_let_go() {
    let (up, image, mirror) = mirror(|settings| {
        settings.set("server", "write_timeout", "300ms");
    })
    .await;
    // More than the kernel's buffers hold.
    let large = Blob::random(7, 40 << 20);
    up.push_blob(REPOSITORY, &large);
    let path = blob_path(REPOSITORY, &large);
    let mut stalled = client::open(mirror.address(), &path, &[]).await;
    stalled.read(1000).await;
    refused(&mirror, "stalled", 1.0).await;
    drop(stalled);
    mirror.pull(REPOSITORY, "latest", &image).await;
    mirror.pull_blob(REPOSITORY, &large).await;
}

/// Bytes that the kernel holds for the client of this connection, as the mirror has sent them. Both ends name it: the
/// client's port alone may be that of another test's connection too, or of one that was closed a minute ago.
fn held_for(client: &TcpStream) -> usize {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let end = |address: SocketAddr| format!("0100007F:{:04X}", address.port());
    let (mirror, client) = (end(client.peer_addr().unwrap()), end(client.local_addr().unwrap()));
    let line = table.lines().find(|line| line.split_whitespace().skip(1).take(2).eq([&mirror, &client]));
    let queues = line.and_then(|line| line.split_whitespace().nth(4)?.split_once(':'));
    queues.map_or(0, |(sending, _)| usize::from_str_radix(sending, 16).unwrap())
}

/// Who reads nothing is not given the kernel's memory; who reads is, and gets all of it.
#[tokio::test]
async fn a_client_that_reads_nothing_is_given_little() {
    let (up, _, mirror) = mirror(|_| {}).await;
    let large = Blob::random(7, 40 << 20);
    up.push_blob(REPOSITORY, &large);
    mirror.pull_blob(REPOSITORY, &large).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = within("a connection", socket.connect(mirror.address())).await.unwrap();
    let request = format!("GET {} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", blob_path(REPOSITORY, &large));
    stream.write_all(request.as_bytes()).await.unwrap();
    let (mut held, mut quiet) = (0, 0);
    while quiet < 20 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let now = held_for(&stream);
        quiet = if now == held && now > 0 { quiet + 1 } else { 0 };
        held = now;
    }
    assert!((1..512 << 10).contains(&held), "{held} bytes are held for a client that reads nothing");
    let answer = rest(&mut stream).await;
    assert!(answer.ends_with(&large.bytes), "{} bytes", answer.len());
}

#[tokio::test]
async fn handshakes_that_fail_or_do_not_end() {
    let folder = tempfile::tempdir().unwrap();
    let own = rcgen::generate_simple_self_signed(["a.example".to_owned()]).unwrap();
    let (cert, key) = (folder.path().join("crt"), folder.path().join("key"));
    std::fs::write(&cert, own.cert.pem()).unwrap();
    std::fs::write(&key, own.signing_key.serialize_pem()).unwrap();
    let (_up, _, mirror) = mirror(|settings| {
        let text = |path: &std::path::Path| toml::Value::from(path.to_str().unwrap());
        let tls = toml::Table::from_iter([("cert".to_owned(), text(&cert)), ("key".to_owned(), text(&key))]);
        settings.set("server", "tls", tls).set("server", "handshake_timeout", "300ms");
    })
    .await;
    let mut silent = from("127.0.0.1", mirror.address()).await;
    let mut slow = from("127.0.0.1", mirror.address()).await;
    // The first bytes of a ClientHello.
    slow.write_all(b"\x16\x03\x01\x02").await.unwrap();
    assert!(rest(&mut silent).await.is_empty() && rest(&mut slow).await.is_empty());
    refused(&mirror, "handshake_timeout", 2.0).await;
    let mut plain = from("127.0.0.1", mirror.address()).await;
    plain.write_all(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let answer = rest(&mut plain).await;
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    refused(&mirror, "handshake", 1.0).await;
    all_closed(&mirror).await;
}
