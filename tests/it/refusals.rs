//! The table of refusals in docs/OPERATIONS.md, row by row: each is provoked by a real request, and answered as it says.
//!
//! A new class needs a row there and an arm in [`provoke`]; a new [`ErrorCode`] that no row has fails here, too.

mod access;

use std::collections::BTreeSet;

use roadstead::oci::ErrorCode;
use serde_json::Value;

use crate::support::client::{self, Response};
use crate::support::image::{Blob, Image};
use crate::support::join_all;
use crate::support::mirror::{Mirror, Settings};
use crate::support::upstream::{Act, Auth, Upstream, blob_path, manifest_path};

const REPOSITORY: &str = "library/alpine";
const TAG: &str = "/v2/library/alpine/manifests/latest";
const TOKEN: &str = "0123456789abcdef";

/// Rows that no request is known to cause.
const UNPROVOKED: [&str; 1] = ["internal"];

struct Row {
    class: String,
    status: u16,
    code: Option<String>,
    message: Option<String>,
}

/// The rows of the table under "Every refusal".
fn rows() -> Vec<Row> {
    let text = include_str!("../../docs/OPERATIONS.md");
    let table = text.split("### Every refusal").nth(1).expect("the section").split("\n## ").next().unwrap();
    let row = |line: &str| {
        let cells: Vec<_> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let [class, _, status, code, message] = cells[..] else { panic!("not five cells: {line}") };
        let given = |cell: &str| (cell != "–").then(|| cell.to_owned());
        Row {
            class: class.trim_matches('`').to_owned(),
            status: status.parse().unwrap_or_else(|_| panic!("a status: {line}")),
            code: given(code.trim_matches('`')),
            message: given(message),
        }
    };
    table.lines().filter(|line| line.starts_with("| `")).map(row).collect()
}

/// Whether `text` is `pattern`, in which `…` stands for anything.
fn fits(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('…');
    let Some(mut rest) = text.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let parts: Vec<_> = parts.collect();
    for (number, part) in parts.iter().enumerate() {
        if number + 1 == parts.len() {
            return rest.ends_with(part);
        }
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.is_empty()
}

#[test]
fn patterns() {
    for (pattern, text, yes) in [
        ("a … c", "a b c", true),
        ("…", "", true),
        ("… b", "a b", true),
        ("a …", "a ", true),
        ("a", "a", true),
        ("a", "ab", false),
        ("a … c", "a c", false),
        ("… b … d", "a b c d", true),
        ("… b", "b", false),
    ] {
        assert_eq!(fits(pattern, text), yes, "{pattern} {text}");
    }
}

/// A mirror of an upstream with an image.
struct Site {
    up: Upstream,
    image: Image,
    mirror: Mirror,
}

impl Site {
    async fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let up = Upstream::start().await;
        let image = Image::small(1);
        up.push_image(REPOSITORY, "latest", &image);
        let mirror = Mirror::with(&up, change).await;
        Self { up, image, mirror }
    }

    fn layer(&self) -> String {
        blob_path(REPOSITORY, &self.image.layers[0])
    }

    /// What the mirror says while the upstream says this.
    async fn while_upstream(&self, act: Act, path: &str) -> Response {
        self.up.on("*").always(act);
        self.mirror.get(path).await
    }
}

/// What the HTTP layer answers to these bytes.
async fn raw(bytes: &[u8]) -> (u16, Option<String>, Option<String>) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let site = Site::with(|_| {}).await;
    let mut stream = tokio::net::TcpStream::connect(site.mirror.address()).await.unwrap();
    // It may be refused before it is read to its end.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let _ = crate::support::within("the server to close", stream.read_to_end(&mut answer)).await;
    let text = String::from_utf8_lossy(&answer);
    let status = text.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
    assert_eq!(site.up.count("*"), 0);
    (status.unwrap_or_else(|| panic!("no status: {text:?}")), None, None)
}

/// A request to an admin interface that has a token, or none.
async fn admin(token: bool, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Response {
    let site = Site::with(|settings| {
        if token {
            settings.set("admin", "token", TOKEN);
        }
    })
    .await;
    let mut request = client::Connection::open(site.mirror.admin_address()).await;
    let length = body.len().to_string();
    let mut headers = headers.to_vec();
    if !body.is_empty() {
        headers.push(("Content-Length", &length));
    }
    request.send(method, path, &headers).await;
    request.send_raw(body.as_bytes()).await;
    request.answer(method).await.expect("an answer").rest().await
}

/// Does what a row speaks of, and gives what came back.
async fn provoke(class: &str) -> Option<(u16, Option<String>, Option<String>)> {
    let plain = || Site::with(|_| {});
    let get = async |path: &str| plain().await.mirror.get(path).await;
    let upstream = async |act: Act| plain().await.while_upstream(act, TAG).await;
    let hub = async |key: &str, value: toml::Value| {
        Site::with(|settings| {
            settings.hub(key, value);
        })
        .await
    };
    let missing = Blob::random(99, 10);
    let answer = match class {
        "malformed" => return Some(raw(b"this is no HTTP\r\n\r\n").await),
        "head-too-large" => {
            let head = format!("GET /v2/ HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "x".repeat(80 << 10));
            let many: String = (0..150).map(|number| format!("X-{number}: x\r\n")).collect();
            let (long, many) = (raw(head.as_bytes()).await, raw(format!("GET /v2/ HTTP/1.1\r\n{many}\r\n").as_bytes()).await);
            assert_eq!(long, many);
            return Some(long);
        }
        "method" => client::request(plain().await.mirror.address(), "DELETE", TAG, &[]).await,
        "catalog" => get("/v2/_catalog").await,
        "host" => {
            let twice = [("Host", "a.example"), ("Host", "b.example")];
            client::request(plain().await.mirror.address(), "GET", TAG, &twice).await
        }
        "body" => {
            let site = plain().await;
            let mut connection = client::Connection::open(site.mirror.address()).await;
            connection.send("GET", TAG, &[("Content-Length", "2")]).await;
            connection.send_raw(b"{}").await;
            let answer = connection.answer("GET").await.unwrap().rest().await;
            assert_eq!(answer.header("connection"), Some("close"));
            answer
        }
        "path" => get("/index.html").await,
        "endpoint" => get("/v2/library/alpine/uploads").await,
        "name" => get("/v2/UPPER/manifests/latest").await,
        "digest" => get("/v2/library/alpine/blobs/sha256:beef").await,
        "algorithm" => get("/v2/library/alpine/blobs/md5:beef").await,
        "tag" => get("/v2/library/alpine/manifests/-x").await,
        "ns-unknown" => get(&format!("{TAG}?ns=registry.unknown")).await,
        "ns-twice" => get(&format!("{TAG}?ns=docker.io&ns=ghcr.io")).await,
        "ns-and-path" => get("/ghcr.io/v2/library/alpine/manifests/latest?ns=docker.io").await,
        "page" => get("/v2/library/alpine/tags/list?n=many").await,
        "range" | "ranges" => {
            let site = plain().await;
            let many = (0..1025).map(|at| format!("{at}-{at}")).collect::<Vec<_>>().join(",");
            let range = if class == "range" { "bytes=99999999-".to_owned() } else { format!("bytes={many}") };
            site.mirror.pull_blob(REPOSITORY, &site.image.layers[0]).await;
            site.mirror.get_with(&site.layer(), &[("Range", &range)]).await
        }
        "denied" => hub("deny", "library/*".into()).await.mirror.get(TAG).await,
        "sign-in" | "wrong-password" | "bad-token" | "forbidden" | "nothing" | "guessing" | "passwords-busy" | "pace" => {
            access::refused(class).await
        }
        "fills" => access::fills().await,
        "token-method" => client::request(plain().await.mirror.address(), "PUT", "/token", &[]).await,
        "token-grant" => access::form("grant_type=refresh_token&refresh_token=x").await,
        "token-form" => access::form(&format!("grant_type=password&username={}", "x".repeat(40_000))).await,
        "manifest-unknown" => get("/v2/library/alpine/manifests/none").await,
        "blob-unknown" => get(&blob_path(REPOSITORY, &missing)).await,
        "tags-unknown" => get("/v2/library/none/tags/list").await,
        "upstream-denies" => upstream(Act::status(403)).await,
        "upstream-challenges" => {
            let site = plain().await;
            site.up.require(Auth::basic("ann", "right"));
            site.mirror.get(TAG).await
        }
        "credentials-refused" => {
            let credentials = toml::toml! { username = "ann" password = "wrong" };
            let site = hub("credentials", toml::Value::Table(credentials)).await;
            site.up.require(Auth::basic("ann", "right"));
            site.mirror.get(TAG).await
        }
        "credentials-unreadable" => {
            let credentials = toml::toml! { helper = "roadstead-has-no-such-helper" };
            let site = hub("credentials", toml::Value::Table(credentials)).await;
            site.up.require(Auth::basic("ann", "right"));
            site.mirror.get(TAG).await
        }
        "login-needed" => hub("visibility", "caller".into()).await.mirror.get(TAG).await,
        "login-needed-ping" => hub("visibility", "caller".into()).await.mirror.get("/v2/").await,
        "login-refused" => {
            let site = hub("visibility", "caller".into()).await;
            site.up.require(Auth::basic("ann", "right"));
            site.mirror.get_with(TAG, &[("Authorization", "Basic YW5uOndyb25n")]).await
        }
        "unverified" => {
            let site = hub("visibility", "caller".into()).await;
            site.up.down().await;
            site.mirror.get_with(TAG, &[("Authorization", "Basic YW5uOnJpZ2h0")]).await
        }
        "refused-too-often" => {
            use base64::Engine as _;
            let site = hub("visibility", "caller".into()).await;
            site.up.require(Auth::basic("ann", "right"));
            let guess = |n| format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("ann:{n}")));
            for n in 0..20 {
                assert_eq!(site.mirror.get_with(TAG, &[("Authorization", &guess(n))]).await.status(), 401);
            }
            site.mirror.get_with(TAG, &[("Authorization", &guess(20))]).await
        }
        "quota-blob" => {
            let site = plain().await;
            site.while_upstream(Act::status(429), &site.layer()).await
        }
        "quota-manifest" => upstream(Act::status(429)).await,
        "held-back" => {
            let site = plain().await;
            site.while_upstream(Act::status(429).header("Retry-After", "60"), TAG).await;
            site.mirror.get("/v2/library/alpine/manifests/other").await
        }
        "offline" | "offline-blob" | "offline-referrers" => {
            let site = Site::with(|settings| {
                settings.set("cache", "offline", true);
            })
            .await;
            let path = match class {
                "offline" => TAG.to_owned(),
                "offline-blob" => site.layer(),
                _ => format!("/v2/{REPOSITORY}/referrers/{}", site.image.manifest.digest),
            };
            let answer = site.mirror.get(&path).await;
            assert_eq!(site.up.count("*"), 0);
            answer
        }
        "connect" => {
            let site = plain().await;
            site.up.down().await;
            site.mirror.get(TAG).await
        }
        "silent" => hub("response_timeout", "200ms".into()).await.while_upstream(Act::hang(), TAG).await,
        "failing" => upstream(Act::status(502)).await,
        "resting" => {
            let site = hub("breaker", toml::Value::Table(toml::toml! { failures = 1 })).await;
            site.while_upstream(Act::status(502), TAG).await;
            site.mirror.get("/v2/library/alpine/manifests/other").await
        }
        "queue-full" => {
            let site = Site::with(|settings| {
                settings.hub("max_connections", 1).hub("max_queue", 1).hub("response_timeout", "300ms");
            })
            .await;
            site.up.on("*").always(Act::hang());
            let paths: Vec<_> = (0..8).map(|number| blob_path(REPOSITORY, &Blob::random(number, 10))).collect();
            let answers = join_all(paths.iter().map(|path| site.mirror.get(path))).await;
            let full = answers.into_iter().find(|answer| answer.text().contains("too many requests wait"));
            full.expect("one of them found the queue full")
        }
        "manifest-too-large" => {
            let site = hub("max_manifest", "4MiB".into()).await;
            let named = Act::status(200).header("Docker-Content-Digest", &missing.digest.to_string());
            let answer = site.while_upstream(named.clone().body(vec![b' '; (4 << 20) + 1]), TAG).await;
            let larger = plain().await.while_upstream(named.body(vec![b' '; (8 << 20) + 1]), TAG).await;
            assert!(
                answer.text().contains("4.0 MiB") && larger.text().contains("8.0 MiB"),
                "{} {}",
                answer.text(),
                larger.text()
            );
            answer
        }
        "manifest-refused" => {
            let site = plain().await;
            let schema1 = Blob::new("application/vnd.docker.distribution.manifest.v1+json", r#"{"schemaVersion":1}"#);
            site.up.push_manifest(REPOSITORY, &schema1);
            site.up.tag(REPOSITORY, "latest", &schema1.digest);
            site.mirror.get(TAG).await
        }
        "tags-page" => plain().await.while_upstream(Act::status(400), "/v2/library/alpine/tags/list?n=5000").await,
        "tags-unsupported" => plain().await.while_upstream(Act::status(405), "/v2/library/alpine/tags/list").await,
        "not-http" => upstream(Act::raw(&b"220 mail.example ESMTP\r\n"[..])).await,
        "html" => upstream(Act::html()).await,
        "wrong-content" => {
            let site = plain().await;
            let path = manifest_path(REPOSITORY, site.image.manifest.digest);
            site.while_upstream(Act::honest().corrupt(), &path).await
        }
        "no-length" => {
            let site = Site::with(|settings| {
                settings.set("cache", "max_size", "4KiB").set("cache", "memory", "1KiB");
            })
            .await;
            site.up.on("/v2/*/blobs/*").always(Act::honest().chunked().ignore_range());
            let mut connection = client::Connection::open(site.mirror.address()).await;
            connection.send_raw(format!("GET {} HTTP/1.0\r\nHost: x\r\n\r\n", site.layer()).as_bytes()).await;
            connection.answer("GET").await.unwrap().rest().await
        }
        "redirects" => {
            let site = plain().await;
            let circle = Act::location(307, &format!("{}/circle", site.up.url()));
            site.while_upstream(circle, TAG).await
        }
        "redirect-scheme" => upstream(Act::location(307, "file:///etc/passwd")).await,
        "outage-429" | "outage-404" => {
            let status: i64 = class[7..].parse().unwrap();
            let site = hub("blob_outage_status", status.into()).await;
            site.while_upstream(Act::status(502), &site.layer()).await
        }
        "admin-host" => admin(false, "GET", "/api/v1/stats", &[("Host", "evil.example:5001")], "").await,
        "admin-token" => {
            let answer = admin(true, "GET", "/api/v1/stats", &[], "").await;
            assert!(answer.header("www-authenticate").is_some_and(|value| value.starts_with("Bearer ")));
            answer
        }
        "admin-certificate" => return Some(crate::admin::certificates::refused().await),
        "admin-foreign" => admin(false, "POST", "/api/v1/purge?ref=x", &[("Origin", "http://evil.example")], "").await,
        "admin-method" => {
            for path in ["purge?ref=x", "pin?ref=x", "unpin?ref=x", "prefetch", "import"] {
                assert_eq!(admin(false, "GET", &format!("/api/v1/{path}"), &[], "").await.status(), 405, "{path}");
            }
            admin(false, "POST", "/api/v1/images", &[], "").await
        }
        "admin-path" => admin(false, "GET", "/api/v1/none", &[], "").await,
        "admin-body" => {
            admin(false, "POST", "/api/v1/offline", &[("Content-Type", "application/json")], &" ".repeat(70_000)).await
        }
        _ => return None,
    };
    let document: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let first = &document["errors"][0];
    let (code, message) = (first["code"].as_str(), first["message"].as_str().or(document["error"].as_str()));
    Some((answer.status(), code.map(str::to_owned), message.map(str::to_owned)))
}

#[tokio::test]
async fn every_row_of_the_table_is_true() {
    let rows = rows();
    assert!(rows.len() > 40, "the table is not found: {}", rows.len());
    let tried: Vec<_> = rows.iter().filter(|row| !UNPROVOKED.contains(&&*row.class)).collect();
    let (mut wrong, mut provoked) = (Vec::new(), Vec::new());
    // Each row has a mirror of its own: some at a time.
    for some in tried.chunks(4) {
        provoked.extend(join_all(some.iter().map(|row| provoke(&row.class))).await);
    }
    for (row, provoked) in tried.iter().zip(provoked) {
        let Some((status, code, message)) = provoked else {
            wrong.push(format!("{}: no test provokes it", row.class));
            continue;
        };
        let said = match (&row.message, &message) {
            (Some(pattern), Some(message)) => fits(pattern, message),
            (None, None) => true,
            _ => false,
        };
        if (status, &code) != (row.status, &row.code) || !said {
            wrong.push(format!(
                "{}: {status} {code:?} {message:?}, the table says {} {:?} {:?}",
                row.class, row.status, row.code, row.message
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_code_is_in_the_table() {
    let shown: BTreeSet<_> = rows().into_iter().filter_map(|row| Some((row.status, row.code?))).collect();
    let known: BTreeSet<_> = ErrorCode::ALL.iter().map(|code| (code.status().as_u16(), code.as_str().to_owned())).collect();
    assert_eq!(shown, known);
    let classes: Vec<_> = rows().into_iter().map(|row| row.class).collect();
    assert_eq!(classes.iter().collect::<BTreeSet<_>>().len(), classes.len(), "a class stands there twice: {classes:?}");
}
