//! TLS towards clients, and the other ways in: unix sockets and sockets of the service manager.

pub mod authority;
mod certificates;
pub mod client;
mod reload;
mod sockets;
mod upstreams;

use http::Method;
use roadstead::oci::{Algorithm, Digest};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::image::{Blob, Builder, Image};
use crate::support::mirror::Mirror;
use crate::support::upstream::{Upstream, blob_path, manifest_path};
use crate::support::within;
use authority::{Authority, Folder};
use client::{Client, Requests};

const REPOSITORY: &str = "library/alpine";

/// A mirror that speaks TLS as `a.example`, configured further by `change`.
async fn mirror(up: &Upstream, folder: &Folder, change: impl FnOnce(&mut toml::Table)) -> Mirror {
    let mut tls = folder.table("a");
    change(&mut tls);
    Mirror::with(up, |settings| {
        settings.set("server", "tls", tls);
    })
    .await
}

/// An upstream with an image that has a layer of 20 MiB, an authority, and a folder with the certificate of `a.example`.
async fn everything() -> (Upstream, Image, Authority, Folder) {
    let up = Upstream::start().await;
    let image = Builder::new(1).layer(20 << 20).layer(300).build();
    up.push_image(REPOSITORY, "latest", &image);
    let (authority, folder) = (Authority::new("test root"), Folder::new());
    folder.write("a", &authority.server(&["a.example"]));
    (up, image, authority, folder)
}

fn assert_is(body: &[u8], blob: &Blob) {
    assert_eq!(Digest::of(Algorithm::Sha256, body), blob.digest, "{} bytes", body.len());
}

/// What a client does to one image: cold, again from the cache, HEAD, a range, several ranges.
async fn pull(requests: &mut Requests, image: &Image) {
    let manifest = requests.send(Method::GET, &manifest_path(REPOSITORY, "latest"), &[]).await;
    assert_eq!((manifest.status().as_u16(), manifest.body()), (200, &image.manifest.bytes));
    let layer = &image.layers[0];
    let path = blob_path(REPOSITORY, layer);
    for _ in 0..2 {
        assert_is(requests.send(Method::GET, &path, &[]).await.body(), layer);
    }
    let head = requests.send(Method::HEAD, &path, &[]).await;
    assert_eq!((head.status().as_u16(), head.body().len()), (200, 0));
    assert_eq!(head.headers()["content-length"], layer.bytes.len().to_string().as_str());
    let range = requests.send(Method::GET, &path, &[("Range", "bytes=1000000-9999999")]).await;
    assert_eq!((range.status().as_u16(), range.body() == &layer.bytes[1_000_000..10_000_000]), (206, true));
    let two = requests.send(Method::GET, &path, &[("Range", "bytes=0-9,5000000-5099999")]).await;
    assert_eq!(two.status().as_u16(), 206);
    assert!(two.body().windows(100_000).any(|window| window == &layer.bytes[5_000_000..5_100_000]));
    assert_eq!(requests.send(Method::GET, "/v2/library/alpine/blobs/x", &[]).await.status().as_u16(), 400);
}

#[tokio::test]
async fn an_image_over_http1() {
    let (up, image, authority, folder) = everything().await;
    let mirror = mirror(&up, &folder, |_| {}).await;
    let stream = Client::of(&authority).dial(mirror.address()).await.unwrap();
    assert_eq!(stream.get_ref().1.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
    pull(&mut Requests::http1(stream).await, &image).await;
    let stream = Client::with(&authority, None, &[&rustls::version::TLS12]).dial(mirror.address()).await.unwrap();
    assert_eq!(stream.get_ref().1.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_2));
    pull(&mut Requests::http1(stream).await, &image).await;
}

#[tokio::test]
async fn an_image_over_http2() {
    let (up, image, authority, folder) = everything().await;
    let mirror = mirror(&up, &folder, |_| {}).await;
    let client = Client::of(&authority).alpn(&["h2", "http/1.1"]);
    let stream = client.dial(mirror.address()).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let mut requests = Requests::http2(stream).await;
    pull(&mut requests, &image).await;
    // Several at one time over one connection.
    let path = blob_path(REPOSITORY, &image.layers[0]);
    let Requests::Http2(sender) = &requests else { unreachable!() };
    let several = (0..8).map(|_| {
        let (mut requests, path) = (Requests::Http2(sender.clone()), path.clone());
        async move { requests.send(Method::GET, &path, &[]).await }
    });
    for answer in crate::support::join_all(several).await {
        assert_is(answer.body(), &image.layers[0]);
    }
}

/// Without TLS a client may know that HTTP/2 is spoken (RFC 9113, 3.3).
#[tokio::test]
async fn an_image_over_plain_http2() {
    let (up, image, _, _) = everything().await;
    let mirror = Mirror::of(&up).await;
    let stream = tokio::net::TcpStream::connect(mirror.address()).await.unwrap();
    pull(&mut Requests::http2(stream).await, &image).await;
}

#[tokio::test]
async fn requests_in_one_go_are_answered_in_order() {
    let (up, image, authority, folder) = everything().await;
    let mirror = mirror(&up, &folder, |_| {}).await;
    let mut stream = Client::of(&authority).dial(mirror.address()).await.unwrap();
    let (small, large) = (&image.layers[1], &image.layers[0]);
    let mut text = String::new();
    for blob in [small, large, small] {
        text += &format!("GET {} HTTP/1.1\r\nHost: a.example\r\n\r\n", blob_path(REPOSITORY, blob));
    }
    text += "GET /v2/ HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n\r\n";
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    within("all answers", stream.read_to_end(&mut answer)).await.unwrap();
    let mut rest = &answer[..];
    for blob in [small, large, small] {
        let end = rest.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
        assert!(rest.starts_with(b"HTTP/1.1 200"));
        let size = blob.bytes.len();
        assert_is(&rest[end..end + size], blob);
        rest = &rest[end + size..];
    }
    assert!(rest.starts_with(b"HTTP/1.1 200"));
}

#[tokio::test]
async fn a_client_is_shown_the_certificate_for_the_name_it_asks_for() {
    let (up, _, authority, folder) = everything().await;
    folder.write("b", &authority.server(&["b.example", "*.b.example"]));
    let mirror = mirror(&up, &folder, |tls| {
        tls.insert("certificates".to_owned(), vec![folder.table("b")].into());
    })
    .await;
    let client = Client::of(&authority);
    for name in ["a.example", "b.example", "x.b.example"] {
        assert_eq!(client.clone().named(name).ping(mirror.address()).await, Ok(200), "{name}");
    }
    // The first one, which is not theirs.
    for name in ["c.example", "x.y.b.example"] {
        let error = client.clone().named(name).ping(mirror.address()).await.unwrap_err();
        assert!(error.contains("not valid for name"), "{error}");
    }
    mirror.metric_becomes("roadstead_connections_refused_total", &[("reason", "handshake")], 2.0).await;
    assert_eq!(client.without_sni().ping(mirror.address()).await, Ok(200));
    assert!(mirror.metric("roadstead_tls_certificate_expiry_seconds", &[("certificate", "1")]).await > 1e9);
}

#[tokio::test]
async fn versions_and_protocols_that_are_switched_off() {
    let (up, _, authority, folder) = everything().await;
    let mut mirror = mirror(&up, &folder, |tls| {
        tls.insert("min_version".to_owned(), "1.3".into());
    })
    .await;
    let old = Client::with(&authority, None, &[&rustls::version::TLS12]);
    let error = old.ping(mirror.address()).await.unwrap_err();
    assert!(error.contains("ProtocolVersion"), "{error}");
    assert_eq!(Client::of(&authority).ping(mirror.address()).await, Ok(200));
    mirror.metric_becomes("roadstead_connections_refused_total", &[("reason", "handshake")], 1.0).await;

    mirror = mirror
        .restart_with(|settings| {
            settings.set("server", "http2", false);
        })
        .await;
    let stream = Client::of(&authority).alpn(&["h2", "http/1.1"]).dial(mirror.address()).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    let error = Client::of(&authority).alpn(&["h2"]).ping(mirror.address()).await.unwrap_err();
    assert!(error.contains("NoApplicationProtocol"), "{error}");
}

#[tokio::test]
async fn clients_with_and_without_certificates() {
    let (up, _, authority, folder) = everything().await;
    let (clients, strangers) = (Authority::new("clients"), Authority::new("strangers"));
    std::fs::write(folder.path("clients.pem"), clients.pem()).unwrap();
    let own = |pair| Client::with(&authority, pair, &[&rustls::version::TLS13, &rustls::version::TLS12]);
    let (good, wrong) = (clients.client("node 1"), strangers.client("node 1"));
    for (auth, without) in [(None, false), (Some("required"), false), (Some("optional"), true)] {
        let mirror = mirror(&up, &folder, |tls| {
            tls.insert("client_ca".to_owned(), folder.path("clients.pem").to_str().unwrap().into());
            tls.extend(auth.map(|auth| ("client_auth".to_owned(), auth.into())));
        })
        .await;
        assert_eq!(own(Some(&good)).ping(mirror.address()).await, Ok(200), "{auth:?}");
        assert_eq!(own(None).ping(mirror.address()).await.is_ok(), without, "{auth:?}");
        assert!(own(Some(&wrong)).ping(mirror.address()).await.is_err(), "{auth:?}");
        let refused = if without { 1.0 } else { 2.0 };
        mirror.metric_becomes("roadstead_connections_refused_total", &[("reason", "certificate")], refused).await;
    }
}

/// A handshake that is resumed shows the same client.
#[tokio::test]
async fn sessions_are_resumed() {
    let (up, _, authority, folder) = everything().await;
    let mirror = mirror(&up, &folder, |_| {}).await;
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let client = Client::with(&authority, None, &[version]);
        let mut kinds = Vec::new();
        for _ in 0..2 {
            let stream = client.dial(mirror.address()).await.unwrap();
            kinds.push(stream.get_ref().1.handshake_kind().unwrap());
            // A ticket comes with the first answer.
            let mut requests = Requests::http1(stream).await;
            assert_eq!(requests.send(Method::GET, "/v2/", &[]).await.status().as_u16(), 200);
        }
        assert_eq!(kinds, [rustls::HandshakeKind::Full, rustls::HandshakeKind::Resumed], "{version:?}");
    }
}
