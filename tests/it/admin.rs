//! The admin interface's lock, from outside: token, names, pages, limits, and the commands that have the key.

mod api;
pub mod certificates;
pub mod metrics;

use std::process::{Command, Output};
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpSocket;

use crate::support::client::{self, Connection, End, Response};
use crate::support::image::{Blob, Image};
use crate::support::mirror::{Mirror, Process};
use crate::support::upstream::{Upstream, manifest_path};
use crate::support::{join_all, within};

const TOKEN: &str = "canary-0123456789abcdef";

async fn locked() -> (Upstream, Mirror) {
    let up = Upstream::start().await;
    up.push_image("library/alpine", "latest", &Image::small(1));
    let mirror = Mirror::with(&up, |settings| {
        settings.set("admin", "token", TOKEN);
    })
    .await;
    (up, mirror)
}

async fn ask(mirror: &Mirror, method: &str, path: &str, headers: &[(&str, &str)]) -> Response {
    client::request(mirror.admin_address(), method, path, headers).await
}

/// Everything but health and the empty page wants the token; what it protects is everything.
#[tokio::test]
async fn a_token_locks_all_but_health_and_the_page() {
    let (_up, mirror) = locked().await;
    let bearer = format!("Bearer {TOKEN}");
    for path in ["/healthz", "/readyz", "/"] {
        let answer = ask(&mirror, "GET", path, &[]).await;
        assert_eq!(answer.status(), 200, "{path}");
        assert!(!answer.text().contains("canary"));
    }
    for (method, path) in [
        ("GET", "/metrics"),
        ("GET", "/api/v1/stats"),
        ("GET", "/api/v1/images"),
        ("GET", "/api/v1/served"),
        ("GET", "/api/v1/upstreams"),
        ("POST", "/api/v1/gc"),
        ("POST", "/api/v1/purge?ref=alpine"),
        ("POST", "/api/v1/prefetch"),
        ("POST", "/api/v1/import"),
        ("POST", "/api/v1/offline"),
        ("GET", "/no/such"),
    ] {
        let answer = ask(&mirror, method, path, &[]).await;
        assert_eq!((answer.status(), answer.header("connection")), (401, Some("close")), "{method} {path}");
        let wrong = ask(&mirror, method, path, &[("Authorization", "Bearer canary-0123456789abcdeg")]).await;
        assert_eq!(wrong.status(), 401, "{method} {path}");
        assert!(!format!("{wrong:?}{}", wrong.text()).contains("canary"), "says nothing of what was shown");
        let right = ask(&mirror, method, path, &[("Authorization", &bearer), ("Host", "any.name")]).await;
        assert!(![401, 403].contains(&right.status()), "{method} {path}: {}", right.status());
    }
}

/// Whoever asks the API is answered as the API answers, whatever they ask for; beside it are words for people.
#[tokio::test]
async fn what_there_is_not_is_told_in_json_below_api() {
    let up = Upstream::start().await;
    let mirror = Mirror::of(&up).await;
    for (method, path, status) in [
        ("GET", "/api/v1/none", 404),
        ("POST", "/api/v1/none", 404),
        ("GET", "/api/v1/", 404),
        ("GET", "/api/v2/stats", 404),
        ("GET", "/api", 404),
        ("POST", "/api/v1/stats", 405),
        ("DELETE", "/api/v1/gc", 405),
    ] {
        let answer = ask(&mirror, method, path, &[]).await;
        assert_eq!((answer.status(), answer.header("content-type")), (status, Some("application/json")), "{method} {path}");
        assert!(answer.json()["error"].is_string(), "{method} {path}: {}", answer.text());
    }
    for (method, path, status) in [("GET", "/none", 404), ("GET", "/apis", 404), ("POST", "/metrics", 405)] {
        let answer = ask(&mirror, method, path, &[]).await;
        assert_eq!((answer.status(), answer.header("content-type")), (status, Some("text/plain; charset=utf-8")), "{path}");
    }
}

async fn prefetch(mirror: &Mirror, order: String) -> Response {
    let mut connection = Connection::open(mirror.admin_address()).await;
    let head = format!("POST /api/v1/prefetch HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n", order.len());
    connection.send_raw(format!("{head}{order}").as_bytes()).await;
    connection.answer("POST").await.unwrap().rest().await
}

/// The last thing that is told of an order.
fn outcome(answer: &Response) -> serde_json::Value {
    let text = answer.text();
    text.lines().last().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["done"].clone()).unwrap_or_default()
}

/// A manifest may say of what it names that it is as large as a number can be, more than once.
#[tokio::test]
async fn made_up_sizes_do_not_confuse_the_api() {
    let up = Upstream::start().await;
    let image = Image::small(1);
    let mut manifest: serde_json::Value = serde_json::from_slice(&image.manifest.bytes).unwrap();
    for layer in manifest["layers"].as_array_mut().unwrap() {
        layer["size"] = u64::MAX.into();
    }
    let manifest = Blob::new(&image.manifest.media_type, manifest.to_string());
    up.push_image("library/alpine", "latest", &image);
    up.push_manifest("library/alpine", &manifest);
    up.tag("library/alpine", "latest", &manifest.digest);
    let mirror = Mirror::of(&up).await;
    assert_eq!(mirror.get(&manifest_path("library/alpine", "latest")).await.status(), 200);
    for path in ["/api/v1/images", "/api/v1/explain?ref=alpine", "/api/v1/cache"] {
        let answer = mirror.admin(path).await;
        assert_eq!(answer.status(), 200, "{path}: {}", answer.text());
    }
    let listed = mirror.admin("/api/v1/images").await.json();
    assert_eq!(listed["images"][0]["missing_bytes"], u64::MAX, "{listed}");
    let done = outcome(&prefetch(&mirror, r#"{"images":["alpine"]}"#.into()).await);
    assert_eq!((&done["error"], &done["bytes"]), (&serde_json::Value::Null, &u64::MAX.into()), "{done}");
    assert_eq!(done["fetched"], image.blobs().map(Blob::size).sum::<u64>(), "{done}");
}

/// What the command line refuses, the API refuses too, and does not begin.
#[tokio::test]
async fn an_order_is_within_the_bounds_of_the_command() {
    let up = Upstream::start().await;
    let image = Image::small(1);
    up.push_image("library/alpine", "latest", &image);
    let mirror = Mirror::of(&up).await;
    let order = |parallel: &str| prefetch(&mirror, format!(r#"{{"images":["alpine"],"options":{{"parallel":{parallel}}}}}"#));
    for (parallel, why) in [
        ("0", "0 is not a whole number from 1 to 256"),
        ("257", "257 is not"),
        ("65537", "65537 is not"),
        ("18446744073709551615", "18446744073709551615 is not"),
        ("-1", "this is no order"),
        ("1.5", "this is no order"),
    ] {
        let answer = order(parallel).await;
        assert_eq!(answer.status(), 400, "{parallel}: {}", answer.text());
        assert!(answer.json()["error"].as_str().unwrap().contains(why), "{}", answer.text());
    }
    assert_eq!(up.count("*"), 0);
    let answer = order("256").await;
    assert_eq!(answer.status(), 200);
    let done = outcome(&answer);
    assert!(done["error"].is_null() && done["digest"].is_string(), "{done}");
}

/// The page protects itself: nothing foreign in it, nowhere to be framed, nothing kept.
#[tokio::test]
async fn the_page_is_for_itself_alone() {
    let (_up, mirror) = locked().await;
    let page = ask(&mirror, "GET", "/", &[]).await;
    let policy = page.header("content-security-policy").unwrap();
    for rule in ["default-src 'none'", "connect-src 'self'", "frame-ancestors 'none'", "base-uri 'none'"] {
        assert!(policy.contains(rule), "{policy}");
    }
    let (served, cache) = (ask(&mirror, "GET", "/api/v1/served", &[]).await, ask(&mirror, "GET", "/api/v1/cache", &[]).await);
    for answer in [&page, &served, &cache] {
        let headers = (answer.header("cache-control"), answer.header("x-content-type-options"));
        assert_eq!(headers, (Some("no-store"), Some("nosniff")), "{:?}", answer.head);
    }
    let text = page.text();
    assert!(text.contains("Authorization") && text.contains("type=\"password\""));
    for kept in ["localStorage", "sessionStorage", "document.cookie", "location.search", "innerHTML", "//cdn", "src="] {
        assert!(!text.contains(kept), "{kept}");
    }
}

/// Not one GET, on any path, with any parameters, changes what is cached, pinned or switched.
#[tokio::test]
async fn a_get_changes_nothing() {
    let up = Upstream::start().await;
    let image = Image::small(1);
    up.push_image("library/alpine", "latest", &image);
    let mirror = Mirror::of(&up).await;
    mirror.pull("library/alpine", "latest", &image).await;
    for blob in image.blobs() {
        mirror.files().get(blob).await;
    }
    let state = async || {
        let (images, pins) = (mirror.admin("/api/v1/images").await.json(), mirror.admin("/api/v1/pins").await.json());
        let names: Vec<_> = images["images"].as_array().unwrap().iter().map(|image| image["image"].to_string()).collect();
        (names, pins.to_string(), mirror.admin("/api/v1/offline").await.text(), mirror.files().blobs().len())
    };
    let before = state().await;
    assert_eq!(before.0.len(), 1, "{before:?}");
    for path in ["purge", "pin", "unpin", "gc", "verify", "images", "explain", "offline", "prefetch", "import", "upstreams"] {
        for query in ["?ref=alpine", "?ref=alpine&free=99999999999", "?offline=true&dry_run=false&ref=**"] {
            for method in ["GET", "HEAD"] {
                ask(&mirror, method, &format!("/api/v1/{path}{query}"), &[]).await;
            }
        }
    }
    assert_eq!(state().await, before);
    assert_eq!(mirror.admin("/api/v1/verify").await.json()["running"], false);
}

/// A head that does not end, and one that is too long, keep no place for long.
#[tokio::test]
async fn slow_and_long_heads_are_cut_off() {
    let (_up, mirror) = locked().await;
    let long = format!("GET / HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "x".repeat(20 << 10));
    let answer = client::raw(mirror.admin_address(), long.as_bytes()).await;
    assert!(answer.starts_with(b"HTTP/1.1 431"), "{}", String::from_utf8_lossy(&answer));
    let mut slow = Connection::open(mirror.admin_address()).await;
    slow.send_raw(b"GET /healthz HTTP/1.1\r\nHost: x\r\n").await;
    let ended = within("a head that never ends to be cut off", slow.answer("GET")).await;
    assert!(matches!(ended.map(|answer| answer.head.status), Err(End::NoAnswer | End::Reset) | Ok(408)));
}

/// More connections than it takes wait, and are served when others have gone.
#[tokio::test]
async fn connections_have_a_limit_and_wait() {
    let (_up, mirror) = locked().await;
    let mut held = Vec::new();
    for _ in 0..128 {
        let mut connection = Connection::open(mirror.admin_address()).await;
        connection.send_raw(b"GET /healthz HT").await;
        held.push(connection);
    }
    let mut late = Connection::open(mirror.admin_address()).await;
    late.send("GET", "/healthz", &[]).await;
    let answer = tokio::spawn(async move { late.answer("GET").await.unwrap().rest().await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!answer.is_finished(), "there was room for one more");
    drop(held.pop());
    assert_eq!(within("the next one to be served", answer).await.unwrap().status(), 200);
}

/// Whoever asks and reads nothing keeps no place for long.
#[tokio::test]
async fn connections_that_read_nothing_are_let_go() {
    let (_up, mirror) = locked().await;
    let requests = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(10_000);
    let _stuck = join_all((0..128).map(async |_| {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        socket.set_send_buffer_size(4096).unwrap();
        let mut stream = within("a connection", socket.connect(mirror.admin_address())).await.unwrap();
        // Until the mirror takes no more, because it cannot send.
        let mut left = requests.as_bytes();
        while let Ok(sent) = tokio::time::timeout(Duration::from_millis(500), stream.write(left)).await {
            let sent = sent.expect("the mirror reads on");
            left = if sent == left.len() { requests.as_bytes() } else { &left[sent..] };
        }
        stream
    }))
    .await;
    let mut late = Connection::open(mirror.admin_address()).await;
    late.send("GET", "/healthz", &[]).await;
    let answer = within("health to be told again", late.answer("GET")).await.expect("an answer").rest().await;
    assert_eq!(answer.status(), 200);
}

fn roadstead(arguments: &[&str]) -> Output {
    Command::new(assert_cmd::cargo::cargo_bin!("roadstead")).args(arguments).env_remove("RUST_LOG").output().unwrap()
}

/// The commands take the token from the configuration, or from a file; they show it to nobody.
#[tokio::test]
async fn commands_have_the_key() {
    let up = Upstream::start().await;
    let mirror = Process::with(&up, |settings| {
        settings.set("admin", "token", TOKEN);
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, format!("{TOKEN}\n")).unwrap();
    let (file, admin) = (file.to_str().unwrap(), mirror.admin_address().to_string());
    let config = mirror.config();
    let config = config.to_str().unwrap();
    for arguments in [
        &["stats", "--config", config][..],
        &["ls", "--config", config, "--admin", &admin],
        &["ls", "--admin", &admin, "--token-file", file],
        &["purge", "alpine", "--config", config],
        &[
            "prefetch",
            "--from-server",
            &format!("http://{admin}"),
            "--from-token-file",
            file,
            "--config",
            config,
            "library/none:1",
        ],
    ] {
        let ran = roadstead(arguments);
        let (out, error) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
        assert!(ran.status.success() || arguments[0] == "prefetch", "{arguments:?}: {error}");
        assert!(!error.contains("needs the token"), "{arguments:?}: {error}");
        assert!(!out.contains("canary") && !error.contains("canary"), "{arguments:?}");
    }
    let ran = roadstead(&["ls", "--admin", &admin]);
    assert_eq!(ran.status.code(), Some(1));
    let error = String::from_utf8_lossy(&ran.stderr);
    assert!(error.contains("admin.token_file") && !error.contains("canary"), "{error}");
    assert!(!mirror.log().contains("canary"), "{}", mirror.log());
}

/// Neither the file nor a flag opens it to other machines without a token.
#[test]
fn an_open_admin_interface_does_not_start() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let cache = cache.to_str().unwrap();
    let arguments = ["serve", "--listen", "127.0.0.1:0", "--admin-listen", "0.0.0.0:0", "--cache-dir", cache];
    let ran = roadstead(&arguments);
    assert_eq!(ran.status.code(), Some(78));
    let error = String::from_utf8_lossy(&ran.stderr);
    assert!(error.contains("--admin-listen: 0.0.0.0:0") && error.contains("admin.token_file"), "{error}");
    assert!(!folder.path().join("cache").exists(), "refused before anything is touched");
}
