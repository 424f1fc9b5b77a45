//! Proxies and TLS: a tiny proxy that speaks CONNECT and absolute-form, and an https registry with a root of its own.

use std::sync::Mutex;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::server::{read_request, serve};
use super::*;

/// Starts a proxy that sends everything to `target`, whatever it is asked for; what it was asked is in the list.
async fn proxy(target: String) -> (String, Arc<Mutex<Vec<Seen>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let log = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&log);
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let (seen, target) = (Arc::clone(&seen), target.clone());
            tokio::spawn(async move {
                let mut buffer = Vec::new();
                let request = read_request(&mut client, &mut buffer, 0).await.unwrap();
                seen.lock().unwrap().push(request.clone());
                if request.header("proxy-authorization") != Some("Basic cHJveHk6cEBzcw==") {
                    client.write_all(b"HTTP/1.1 407 No\r\ncontent-length: 0\r\n\r\n").await.unwrap();
                    return;
                }
                let mut server = TcpStream::connect(target).await.unwrap();
                if request.method == "CONNECT" {
                    client.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").await.unwrap();
                } else {
                    let line = format!("{} {} HTTP/1.1\r\nhost: x\r\n\r\n", request.method, request.target);
                    server.write_all(line.as_bytes()).await.unwrap();
                }
                let _ = copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    (address, log)
}

fn proxied(config: &config::Upstream, matcher: Matcher) -> Upstream {
    within(config, matcher, &[])
}

/// An https registry for `name` and the PEM file of its root.
async fn tls_registry(name: &str) -> (String, Arc<Mutex<Vec<Seen>>>, tempfile::NamedTempFile) {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(vec![name.to_owned()]).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), cert.pem()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let log = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&log);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (seen, acceptor) = (Arc::clone(&seen), acceptor.clone());
            tokio::spawn(async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(b"http/1.1".as_slice()), "HTTP/1.1 alone is offered");
                    serve(stream, 0, seen, Arc::new(|_: &Seen| manifest_reply())).await;
                }
            });
        }
    });
    (address, log, file)
}

#[tokio::test]
async fn i9_a_plain_target_goes_to_the_proxy_in_absolute_form() {
    let server = Server::start(|_| manifest_reply()).await;
    let (address, seen) = proxy(server.authority()).await;
    let matcher = || Matcher::builder().http(format!("http://proxy:p%40ss@{address}"));
    let mut config = config(&[&server]);
    // A name that only the proxy can resolve.
    config.urls = vec!["http://registry.invalid:8080/".parse().unwrap()];
    let upstream = proxied(&config, matcher().build());
    resolve(&upstream).await.unwrap();
    assert_eq!(seen.lock().unwrap()[0].target, "http://registry.invalid:8080/v2/a/b/manifests/latest");
    assert!(!format!("{upstream:?}").contains("p@ss") && !format!("{upstream:?}").contains("cHJveHk6"));

    // NO_PROXY: straight, and without the proxy's password.
    config.urls = vec![server.url.clone()];
    resolve(&proxied(&config, matcher().no("127.0.0.0/8").build())).await.unwrap();
    assert_eq!(seen.lock().unwrap().len(), 1);
    assert_eq!(server.seen().last().unwrap().header("proxy-authorization"), None);

    // What the proxy refuses is said, and the proxy is no way around the address rules.
    config.urls = vec!["http://registry.invalid:8080/".parse().unwrap()];
    let error = resolve(&proxied(&config, Matcher::builder().http(format!("http://{address}")).build())).await.unwrap_err();
    assert!(error.to_string().contains("407"), "{error}");
    let sly = Server::start(|_| Reply::redirect("http://10.0.0.1/")).await;
    let (address, seen) = proxy(sly.authority()).await;
    let error =
        resolve(&proxied(&config, Matcher::builder().http(format!("http://proxy:p%40ss@{address}")).build())).await.unwrap_err();
    assert!(matches!(error.reason(), Reason::Forbidden(_)), "{error}");
    assert_eq!(seen.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn i9_an_https_target_is_tunnelled_with_its_own_root() {
    let (registry, log, ca) = tls_registry("registry.invalid").await;
    let (address, seen) = proxy(registry).await;
    let mut config = config(&[]);
    config.urls = vec!["https://registry.invalid/".parse().unwrap()];
    let matcher = || Matcher::builder().https(format!("http://proxy:p%40ss@{address}")).build();
    let error = resolve(&proxied(&config, matcher())).await.unwrap_err();
    assert!(
        matches!(error.reason(), Reason::Connect(_)) && error.to_string().contains("certificate"),
        "an unknown root: {error}"
    );

    config.ca = Some(ca.path().to_owned());
    resolve(&proxied(&config, matcher())).await.unwrap();
    let asked = seen.lock().unwrap().last().unwrap().clone();
    assert_eq!((asked.method.as_str(), asked.target.as_str()), ("CONNECT", "registry.invalid:443"));
    let arrived = log.lock().unwrap().last().unwrap().clone();
    assert_eq!(arrived.target, "/v2/a/b/manifests/latest");
    assert_eq!(arrived.header("proxy-authorization"), None, "that was the proxy's");

    // No password for the proxy: an error that says so, and that can be retried.
    let error = resolve(&proxied(&config, Matcher::builder().https(format!("http://{address}")).build())).await.unwrap_err();
    assert!(error.to_string().contains("proxy authorization required"), "{error}");
    let error = resolve(&proxied(&config, Matcher::builder().all("socks5://127.0.0.1:1").build())).await.unwrap_err();
    assert!(error.to_string().contains("neither http nor https"), "{error}");
}

#[tokio::test]
async fn tls_without_a_proxy_and_a_handshake_that_hangs() {
    let (registry, _log, ca) = tls_registry("127.0.0.1").await;
    let mut config = config(&[]);
    config.urls = vec![format!("https://{registry}/").parse().unwrap()];
    config.ca = Some(ca.path().to_owned());
    resolve(&build(&config)).await.unwrap();

    // A listener that accepts and says nothing: the connect time-out covers the handshake.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    config.urls = vec![format!("https://{}/", listener.local_addr().unwrap()).parse().unwrap()];
    config.connect_timeout = Duration::from_millis(200);
    let error = resolve(&build(&config)).await.unwrap_err();
    assert!(error.to_string().contains("no connection within 200ms"), "{error}");
    assert_eq!(error.class(), Class::Unavailable);
}
