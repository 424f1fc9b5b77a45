//! I9: no secret is in a log line of any level, a metric, an answer, or the admin interface.
//!
//! The real program runs with everything it and its libraries can log, signs in to upstreams in each of the ways there
//! are, is lied to by them, and is asked by clients with secrets of their own. Each secret holds the word `canary`,
//! which then must be nowhere; neither may be what Basic makes of it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::support::client::{self, Response};
use crate::support::image::Image;
use crate::support::mirror::Process;
use crate::support::upstream::{Act, Auth, Upstream, blob_path, manifest_path};
use crate::support::{until, within};

const ADMIN: &str = "canary-admin-0123456789";
/// A name that labels of metrics must not hold.
const PRIVATE: &str = "confidential/app";

/// An executable that answers as a credential helper does.
fn helper(folder: &std::path::Path, name: &str, answer: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    let file = folder.join(format!("docker-credential-{name}"));
    std::fs::write(&file, format!("#!/bin/sh\ncat > /dev/null\necho '{answer}'\n")).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// One request over HTTP/2 without TLS, with a secret in it; the headers and the body as text.
async fn http2(address: std::net::SocketAddr, path: &str, authorization: &str) -> String {
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let connection = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (mut sender, connection) = connection.unwrap();
    tokio::spawn(connection);
    let request = http::Request::get(format!("http://{address}{path}")).header("authorization", authorization);
    let answer = sender.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await.unwrap();
    let head = format!("{:?}", answer.headers());
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    format!("{head}{}", String::from_utf8_lossy(&body))
}

async fn mirror_with_every_secret(format: &str) {
    let folder = tempfile::tempdir().unwrap();
    let ups = [(); 8].map(|()| ());
    let mut registries = Vec::new();
    for () in ups {
        let up = Upstream::start().await;
        up.push_image(PRIVATE, "1", &Image::small(registries.len() as u64 + 1));
        registries.push(up);
    }
    let cdn = Upstream::start().await;
    let [basic, bearer, identity, docker, variable, wrong, loses, strays] = &registries[..] else { unreachable!() };
    basic.require(Auth::basic("ann", "canary-basic"));
    bearer.require(Auth::bearer(bearer).user("ann", "canary-bearer"));
    // Redirects to addresses that are themselves a secret: one that works, one that does not, one that names a user.
    bearer.on("GET /v2/confidential/app/blobs/*").always(Act::redirect(&cdn));
    identity.require(Auth::bearer(identity));
    docker.require(Auth::basic("ann", "canary-docker"));
    variable.require(Auth::basic("canary-user", "canary-variable"));
    wrong.require(Auth::basic("ann", "right"));
    loses.on("GET /v2/confidential/app/blobs/*").always(Act::location(307, "http://127.0.0.1:1/x?X-Amz-Signature=canary-lost"));
    loses
        .on("* /v2/confidential/app/manifests/lost")
        .always(Act::location(307, "http://127.0.0.1:1/canary-path?sig=canary-lost"));
    strays.on("GET /v2/confidential/app/blobs/*").always(Act::location(307, "http://canary-user:canary-info@127.0.0.1:1/"));
    strays.on("* /v2/confidential/app/manifests/echo").always(
        Act::status(403)
            .body("{\"canary-body\":1}")
            .header("WWW-Authenticate", "Bearer realm=\"http://127.0.0.1:1/?canary-realm\",service=\"canary-service\""),
    );
    helper(folder.path(), "identity", r#"{"Username":"<token>","Secret":"canary-identity"}"#);
    helper(folder.path(), "broken", "canary-broken");
    let auth = STANDARD.encode("ann:canary-docker");
    let file = folder.path().join("config.json");
    std::fs::write(&file, format!("{{\"auths\":{{\"{}\":{{\"auth\":\"{auth}\"}}}}}}", docker.address())).unwrap();
    let file = file.display().to_string();

    let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap_or_default());
    let env = [
        ("PATH", path),
        ("CANARY_NAME", "canary-user".to_owned()),
        ("CANARY", "canary-variable".to_owned()),
        ("RUST_LOG", "trace".to_owned()),
    ];
    let mirror = Process::with_env(basic, &env, |settings| {
        settings.set("log", "format", format).set("admin", "token", ADMIN).set("freshness", "fresh_for", "0s");
        for (name, up) in [
            ("bearer", bearer),
            ("identity", identity),
            ("docker", docker),
            ("variable", variable),
            ("wrong", wrong),
            ("loses", loses),
            ("strays", strays),
        ] {
            settings.add(&format!("{name}.example"), up);
        }
        settings.hub("credentials", toml::toml! { username = "ann" password = "canary-basic" });
        settings.upstream("bearer.example", "credentials", toml::toml! { username = "ann" password = "canary-bearer" });
        settings.upstream("identity.example", "credentials", toml::toml! { helper = "identity" });
        let mut table = toml::Table::new();
        table.insert("docker_config".into(), file.clone().into());
        settings.upstream("docker.example", "credentials", table);
        settings.upstream(
            "variable.example",
            "credentials",
            toml::toml! { username = "env:CANARY_NAME" password = "env:CANARY" },
        );
        settings.upstream("wrong.example", "credentials", toml::toml! { username = "ann" password = "canary-wrong" });
        settings.upstream("loses.example", "credentials", toml::toml! { username = "ann" password = "canary-loses" });
        settings.upstream("strays.example", "credentials", toml::toml! { helper = "broken" });
    })
    .await;

    let mut said = String::new();
    let heard = |answer: &Response| format!("{:?}\n{}\n", answer.head, answer.text());
    let secrets = [
        ("Authorization", "Bearer canary-client"),
        ("Proxy-Authorization", "Basic Y2FuYXJ5OmNhbmFyeQ=="),
        ("Cookie", "session=canary-cookie"),
        ("X-Registry-Auth", "canary-header"),
    ];
    for (number, name) in
        ["docker.io", "bearer.example", "identity.example", "docker.example", "variable.example"].iter().enumerate()
    {
        let image = Image::small(number as u64 + 1);
        for _ in 0..2 {
            let manifest = client::get(mirror.address(), &format!("{}?ns={name}", manifest_path(PRIVATE, "1")), &secrets).await;
            assert_eq!(manifest.status(), 200, "{name}: {}\n{}", manifest.text(), mirror.log());
            said += &heard(&manifest);
        }
        let blob = client::get(
            mirror.address(),
            &format!("{}?ns={name}&token=canary-query", blob_path(PRIVATE, &image.layers[0])),
            &secrets,
        )
        .await;
        blob.assert_is(&image.layers[0]);
        said.push_str(
            &http2(mirror.address(), &format!("{}?ns={name}", manifest_path(PRIVATE, "1")), "Bearer canary-http2").await,
        );
    }
    for (number, name) in [(5, "wrong.example"), (6, "loses.example"), (7, "strays.example")] {
        let image = Image::small(number + 1);
        for path in [
            manifest_path(PRIVATE, "1"),
            manifest_path(PRIVATE, "lost"),
            manifest_path(PRIVATE, "echo"),
            blob_path(PRIVATE, &image.layers[0]),
            format!("/v2/{PRIVATE}/tags/list"),
        ] {
            said += &heard(&client::get(mirror.address(), &format!("{path}?ns={name}"), &secrets).await);
        }
    }
    for path in ["/v2/UPPER/manifests/x", "/nothing", "/v2/a/manifests/-"] {
        said += &heard(&client::get(mirror.address(), path, &secrets).await);
    }
    let mut metrics = String::new();
    let bearer_token = format!("Bearer {ADMIN}");
    for path in [
        "/metrics",
        "/api/v1/stats",
        "/api/v1/upstreams",
        "/api/v1/offline",
        "/api/v1/cache",
        "/api/v1/images",
        "/api/v1/served",
        "/api/v1/pins",
        "/",
    ] {
        let answer = client::get(mirror.admin_address(), path, &[("Authorization", &bearer_token)]).await;
        assert_eq!(answer.status(), 200, "{path}");
        said += &heard(&answer);
        if path == "/metrics" {
            metrics = answer.text();
        }
    }
    said +=
        &heard(&client::get(mirror.admin_address(), "/api/v1/stats", &[("Authorization", "Bearer canary-not-the-token")]).await);

    // The secrets did travel, and the log did say everything it could.
    assert!(cdn.count("GET /signed/*") > 0);
    let seen: Vec<String> =
        registries.iter().flat_map(Upstream::requests).filter_map(|request| request.header("authorization")).collect();
    for credential in
        ["ann:canary-basic", "ann:canary-bearer", "ann:canary-docker", "canary-user:canary-variable", "ann:canary-wrong"]
    {
        let basic = format!("Basic {}", STANDARD.encode(credential));
        assert!(seen.contains(&basic), "{credential} was never used: {seen:?}");
    }
    let identities = identity.requests().iter().any(|request| String::from_utf8_lossy(&request.body).contains("canary-identity"));
    assert!(identities, "the identity token was never used");
    until("every request to be in the log", || {
        mirror.log().matches("canary").count() > 0 || mirror.log().contains("/nothing") || mirror.log().contains("TRACE")
    })
    .await;
    // Lines are written by a thread of their own.
    within("the log to come to rest", async {
        let mut length = 0;
        while mirror.log().len() != length {
            length = mirror.log().len();
            tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        }
    })
    .await;
    let log = mirror.log();
    for target in ["hyper", "roadstead", "access"] {
        assert!(log.contains(target), "nothing of {target} in the log");
    }
    assert!(log.contains("TRACE") && log.contains("DEBUG"));

    let mut secret: Vec<String> =
        ["canary", "Y2FuYXJ5", "scripted-token-", "X-Amz-Signature", "Signature="].map(str::to_owned).to_vec();
    for credential in [
        "ann:canary-basic",
        "ann:canary-bearer",
        "ann:canary-docker",
        "canary-user:canary-variable",
        "ann:canary-wrong",
        "ann:canary-loses",
    ] {
        secret.push(STANDARD.encode(credential));
    }
    for secret in &secret {
        for (place, text) in [("the log", &log), ("an answer", &said)] {
            if let Some(at) = text.find(secret.as_str()) {
                let start = text[..at].rfind('\n').map_or(0, |line| line + 1);
                panic!("{secret:?} is in {place}: {}", text[start..].lines().next().unwrap_or_default());
            }
        }
    }
    assert!(!metrics.contains("confidential"), "labels hold no repository");
    assert!(metrics.contains("bearer.example"));
    let kept = std::process::Command::new("grep")
        .args(["-rla", "-e", "canary", "-e", "scripted-token"])
        .arg(mirror.files().root())
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&kept.stdout), "", "the cache keeps none either");
}

#[tokio::test]
async fn i9_canaries_in_text() {
    mirror_with_every_secret("text").await;
}

#[tokio::test]
async fn i9_canaries_in_json() {
    mirror_with_every_secret("json").await;
}

/// No secret on the command line or in the environment that the mirror hands to others; `check` prints none.
#[test]
fn i9_check_prints_no_admin_token() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.toml");
    std::fs::write(&file, format!("[admin]\nlisten = \"0.0.0.0:5001\"\ntoken = \"{ADMIN}\"\n")).unwrap();
    let mut command = std::process::Command::new(assert_cmd::cargo::cargo_bin!("roadstead"));
    let ran = command.args(["check", "--config"]).arg(&file).output().unwrap();
    assert!(ran.status.success());
    let out = format!("{}{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(!out.contains("canary") && out.contains("0.0.0.0:5001"), "{out}");
}
