//! T30 to T33 and T41: challenges, tokens, and who gets the credentials.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

fn host(seen: &Seen) -> String {
    format!("http://{}", seen.header("host").unwrap())
}

fn bearer(seen: &Seen, token: &str) -> bool {
    seen.header("authorization") == Some(&format!("Bearer {token}"))
}

/// A registry that wants a token from its own `/token`, which `reply` gives.
async fn registry(challenge: &'static str, reply: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Server {
    Server::start(move |seen| match seen.path() {
        "/token" => reply(seen),
        _ if bearer(seen, "good") => manifest_reply(),
        _ => Reply::challenge(&challenge.replace("HOST", &host(seen))),
    })
    .await
}

#[tokio::test]
async fn t30_the_whole_round_and_none_after_it() {
    let server =
        registry(r#"Bearer realm="HOST/token?x=1",service="s e",scope="repository:a/b:pull,push""#, |_| Reply::token("good"))
            .await;
    let upstream = with_canary(&server);
    assert_eq!(resolve(&upstream).await.unwrap(), digest_of(MANIFEST.as_bytes()));
    resolve(&upstream).await.unwrap();
    let path = "HEAD /v2/a/b/manifests/latest";
    assert_eq!(server.lines(), [path, "GET /token", path, path], "the token is reused, without another challenge");
    let token = &server.seen()[1];
    assert_eq!(token.query("x"), ["1"]);
    assert_eq!(token.query("service"), ["s e"]);
    assert_eq!(token.query("scope"), ["repository:a/b:pull,push"]);
    assert_eq!(token.query("account"), ["mirror"]);
    assert_eq!(token.header("authorization"), Some(CANARY_BASIC));

    // Another repository: the realm is known, and the scope by its form.
    upstream.resolve(&repository("c"), &tag("latest")).await.unwrap();
    let seen = server.seen();
    assert_eq!(server.lines()[4..], ["GET /token", "HEAD /v2/c/manifests/latest"]);
    assert_eq!(seen[4].query("scope"), ["repository:c:pull,push"]);
    assert_silent(&upstream, None);
}

#[tokio::test]
async fn t30_without_service_and_scope_and_unquoted() {
    let server = registry("Bearer realm=HOST/token", |_| Reply::new(200).body(r#"{"token":"bad","access_token":"good"}"#)).await;
    resolve(&anonymous(&server)).await.unwrap();
    let token = &server.seen()[1];
    assert_eq!(token.query("scope"), ["repository:a/b:pull"], "what pulling needs");
    assert!(token.query("service").is_empty() && token.query("account").is_empty());
    assert_eq!(token.header("authorization"), None);
}

#[tokio::test]
async fn t30_several_challenges_and_scopes() {
    let server = Server::start(|seen| match seen.path() {
        "/token" => Reply::token("good"),
        _ if bearer(seen, "good") => manifest_reply(),
        _ => Reply::challenge("Negotiate").header("www-authenticate", "Basic realm=\"x\"").header(
            "www-authenticate",
            &format!("Bearer realm=\"{}/token\",scope=\"repository:z:pull aws repository:a/b:pull\"", host(seen)),
        ),
    })
    .await;
    resolve(&with_canary(&server)).await.unwrap();
    assert_eq!(server.seen()[1].query("scope"), ["aws", "repository:a/b:pull", "repository:z:pull"]);
}

/// A registry behind a proxy that writes names anew asks for scopes of names that nobody has asked for. They say nothing of
/// other repositories.
#[tokio::test]
async fn t30_a_scope_of_another_name_is_for_that_repository_alone() {
    let server = Server::start(|seen| {
        if seen.path() == "/token" {
            return Reply::token(&seen.query("scope").concat());
        }
        let name = seen.path().split('/').skip(2).take(2).collect::<Vec<_>>().join("/");
        let scope = format!("repository:dockerhub/{name}:pull");
        match bearer(seen, &scope) {
            true => manifest_reply(),
            // Whoever brings a token for something else is refused for good.
            false if seen.header("authorization").is_some() => Reply::new(403),
            false => Reply::challenge(&format!("Bearer realm=\"{}/token\",scope=\"{scope}\"", host(seen))),
        }
    })
    .await;
    let upstream = anonymous(&server);
    for name in ["library/a", "library/b", "library/a", "library/c", "library/b"] {
        upstream.resolve(&repository(name), &tag("latest")).await.unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    assert_eq!(server.count("/token"), 3, "each one's is remembered: {:?}", server.lines());
    assert_eq!(server.seen().len(), 3 + 3 + 5, "{:?}", server.lines());
    // A blob of the same repository needs no challenge of its own.
    let _ = upstream.blob_size(&repository("library/a"), &digest_of(b"")).await;
    assert_eq!(server.seen().len(), 12, "{:?}", server.lines());
}

#[tokio::test]
async fn t30_one_token_for_many_waiters() {
    let server = registry(r#"Bearer realm="HOST/token""#, |_| Reply::token("good")).await;
    let upstream = Arc::new(anonymous(&server));
    let tasks: Vec<_> = (0..20)
        .map(|_| {
            tokio::spawn({
                let upstream = Arc::clone(&upstream);
                async move { resolve(&upstream).await }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    assert_eq!(server.count("/token"), 1);
}

#[tokio::test]
async fn t30_a_token_that_expires_early_is_replaced_once() {
    let current = Arc::new(AtomicUsize::new(1));
    let server = Server::start({
        let current = Arc::clone(&current);
        move |seen| {
            let good = format!("token{}", current.load(Ordering::SeqCst));
            match seen.path() {
                "/token" => Reply::token(&good),
                _ if bearer(seen, &good) => manifest_reply(),
                _ => Reply::challenge(&format!("Bearer realm=\"{}/token\",error=\"invalid_token\"", host(seen))),
            }
        }
    })
    .await;
    let upstream = Arc::new(anonymous(&server));
    resolve(&upstream).await.unwrap();
    current.store(2, Ordering::SeqCst);
    let tasks: Vec<_> = (0..20)
        .map(|_| {
            tokio::spawn({
                let upstream = Arc::clone(&upstream);
                async move { resolve(&upstream).await }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    assert_eq!(server.count("/token"), 2);
}

#[tokio::test]
async fn t30_a_fresh_token_that_is_refused_is_the_end() {
    let server = registry(r#"Bearer realm="HOST/token",error="insufficient_scope""#, |_| Reply::token("worthless")).await;
    let upstream = anonymous(&server);
    let error = resolve(&upstream).await.unwrap_err();
    assert_eq!(error.class(), Class::Denied, "{error}");
    assert_eq!(server.seen().len(), 3, "{:?}", server.lines());
    // The next time the token comes from memory: refused, dropped, and one more round.
    assert_eq!(resolve(&upstream).await.unwrap_err().class(), Class::Denied);
    assert_eq!(server.seen().len(), 6, "{:?}", server.lines());
}

#[tokio::test]
async fn t30_nvcr_another_realm_after_expiry() {
    let elsewhere = Server::start(|_| Reply::new(401)).await;
    let other = elsewhere.url.clone();
    let current = Arc::new(AtomicUsize::new(1));
    let server = Server::start({
        let current = Arc::clone(&current);
        move |seen| {
            let good = format!("token{}", current.load(Ordering::SeqCst));
            match (seen.path(), seen.header("authorization")) {
                ("/proxy_auth", _) => Reply::token(&good),
                (_, Some(sent)) if sent == format!("Bearer {good}") => manifest_reply(),
                (_, Some(_)) => {
                    Reply::challenge(&format!("Bearer realm=\"{other}token\",service=\"registry\",error=\"invalid_token\""))
                }
                (_, None) => Reply::challenge(&format!("Bearer realm=\"{}/proxy_auth\"", host(seen))),
            }
        }
    })
    .await;
    let upstream = with_canary(&server);
    resolve(&upstream).await.unwrap();
    current.store(2, Ordering::SeqCst);
    resolve(&upstream).await.unwrap();
    assert_eq!(server.count("/proxy_auth"), 2);
    assert!(elsewhere.seen().is_empty());
}

#[tokio::test]
async fn i9_t31_a_foreign_realm_gets_no_credentials() {
    let attacker = Server::start(|_| Reply::token("good")).await;
    let realm = attacker.url.clone();
    let server = Server::start(move |seen| match bearer(seen, "good") {
        true => manifest_reply(),
        false => Reply::challenge(&format!("Bearer realm=\"{realm}token\",service=\"s\"")),
    })
    .await;
    let upstream = with_canary(&server);
    resolve(&upstream).await.unwrap();
    resolve(&upstream).await.unwrap();
    assert_eq!(attacker.lines(), ["GET /token"], "asked anonymously");
    assert_innocent(&attacker);
    assert_innocent(&server);

    let approved = config::Upstream { credentials: canary(), token_realms: vec![attacker.authority()], ..config(&[&server]) };
    resolve(&build(&approved)).await.unwrap();
    assert_eq!(attacker.seen()[1].header("authorization"), Some(CANARY_BASIC), "the operator said so");
}

#[tokio::test]
async fn i9_t31_a_realm_does_not_pass_credentials_on() {
    let attacker = Server::start(|_| Reply::token("good")).await;
    let target = attacker.url.to_string();
    let server = registry(r#"Bearer realm="HOST/token""#, move |_| Reply::redirect(&target)).await;
    let upstream = with_canary(&server);
    let error = resolve(&upstream).await.unwrap_err();
    assert!(matches!(error.reason(), Reason::Redirect(RedirectError::Credentials)), "{error}");
    assert!(attacker.seen().is_empty());
    assert_silent(&upstream, Some(&error));
    // Without credentials there is nothing to lose.
    resolve(&anonymous(&server)).await.unwrap();
    assert_eq!(attacker.seen().len(), 1);
}

#[tokio::test]
async fn i9_t31_a_metadata_service_is_no_realm() {
    let server = Server::start(|_| Reply::challenge("Bearer realm=\"http://169.254.169.254/latest/meta-data\"")).await;
    let error = resolve(&anonymous(&server)).await.unwrap_err();
    assert!(matches!(error.reason(), Reason::Forbidden(_)), "{error}");
    assert_eq!(error.class(), Class::Invalid);
}

#[tokio::test]
async fn t32_basic() {
    let server = Server::start(|seen| match seen.header("authorization") {
        Some(CANARY_BASIC) => manifest_reply(),
        _ => Reply::challenge("Basic realm=\"Registry\""),
    })
    .await;
    let upstream = with_canary(&server);
    resolve(&upstream).await.unwrap();
    resolve(&upstream).await.unwrap();
    assert_eq!(server.seen().len(), 3, "sent at once the second time");
    assert!(server.seen()[0].header("authorization").is_none(), "but not before it was asked for");

    let error = resolve(&anonymous(&server)).await.unwrap_err();
    assert!(matches!(error.reason(), Reason::CredentialsMissing), "{error}");
    let wrong = config::Credentials::Password { username: "mirror".into(), password: Secret::new("wrong") };
    let error = resolve(&build(&config::Upstream { credentials: wrong, ..config(&[&server]) })).await.unwrap_err();
    assert_eq!(error.class(), Class::Unavailable, "the mirror's fault, not the image's: {error}");
    assert!(!error.retry());
}

#[tokio::test]
async fn a_registry_that_changes_from_basic_to_bearer() {
    let changed = Arc::new(AtomicUsize::new(0));
    let server = Server::start({
        let changed = Arc::clone(&changed);
        move |seen| match (changed.load(Ordering::SeqCst), seen.header("authorization")) {
            (0, Some(CANARY_BASIC)) => manifest_reply(),
            (0, _) => Reply::challenge("Basic realm=\"r\""),
            _ if seen.path() == "/token" => Reply::token("good"),
            (_, Some("Bearer good")) => manifest_reply(),
            _ => Reply::challenge(&format!("Bearer realm=\"{}/token\"", host(seen))),
        }
    })
    .await;
    let upstream = with_canary(&server);
    for at in [0, 1, 0] {
        changed.store(at, Ordering::SeqCst);
        resolve(&upstream).await.unwrap();
    }
}

#[tokio::test]
async fn t41_a_rotated_password_is_taken_up_without_a_failure() {
    let server = Server::start(|seen| match seen.header("authorization") {
        Some("Basic dTpuZXc=") => manifest_reply(),
        _ => Reply::challenge("Basic realm=\"r\""),
    })
    .await;
    let (upstream, folder) = with_docker_config(&server, r#"{"auth":"dTpvbGQ="}"#).await;
    assert_eq!(resolve(&upstream).await.unwrap_err().class(), Class::Unavailable);
    let json = format!(r#"{{"auths":{{"{}":{{"username":"u","password":"new"}}}}}}"#, server.authority());
    std::fs::write(folder.path().join("config.json"), json).unwrap();
    tokio::time::sleep(Duration::from_millis(1100)).await;
    resolve(&upstream).await.unwrap();
}

#[tokio::test]
async fn refused_credentials_at_the_token_service_are_not_a_denial() {
    let server = registry(r#"Bearer realm="HOST/token""#, |seen| match seen.header("authorization") {
        Some(_) => Reply::new(401).body(format!("wrong: {CANARY}")),
        None => Reply::new(403),
    })
    .await;
    let upstream = with_canary(&server);
    let error = resolve(&upstream).await.unwrap_err();
    assert!(matches!(error.reason(), Reason::CredentialsRefused(_)), "{error}");
    assert_silent(&upstream, Some(&error));
    assert_eq!(resolve(&anonymous(&server)).await.unwrap_err().class(), Class::Denied);
}

#[tokio::test]
async fn t33_no_challenge_but_at_the_base() {
    let server = Server::start(|seen| match (seen.path(), bearer(seen, "good")) {
        ("/token", _) => Reply::token("good"),
        ("/v2/", _) => Reply::challenge(&format!("Bearer realm=\"{}/token\"", host(seen))),
        (_, true) => manifest_reply(),
        (_, false) => Reply::new(401),
    })
    .await;
    resolve(&anonymous(&server)).await.unwrap();
    let path = "HEAD /v2/a/b/manifests/latest";
    assert_eq!(server.lines(), [path, "GET /v2/", "GET /token", path]);

    let mute = Server::start(|_| Reply::new(401)).await;
    assert_eq!(resolve(&anonymous(&mute)).await.unwrap_err().class(), Class::Denied);
    assert_eq!(mute.seen().len(), 2);
}

#[tokio::test]
async fn t30_bad_answers_of_a_token_service() {
    for (reply, class) in [
        (Reply::new(200).body("<html>sign in</html>"), Class::Invalid),
        (Reply::new(200).body("{}"), Class::Invalid),
        (Reply::new(200).body(vec![b' '; 1024 * 1024 + 1]), Class::Invalid),
        (Reply::new(200).header("content-encoding", "gzip").body("x"), Class::Invalid),
        (Reply::new(404), Class::Invalid),
        (Reply::new(503), Class::Unavailable),
        (Reply::new(429).header("retry-after", "9"), Class::RateLimited { retry_after: Some(Duration::from_secs(9)) }),
        (Reply::new(200).body("{\"token\":").truncated(3), Class::Broken),
        (Reply::vanish(), Class::Unavailable),
    ] {
        let shown = format!("{reply:?}");
        let server = registry(r#"Bearer realm="HOST/token""#, move |_| reply.clone()).await;
        let error = resolve(&anonymous(&server)).await.unwrap_err();
        assert_eq!(error.class(), class, "{error} {:.200}", shown);
    }
}

#[tokio::test]
async fn t30_tokens_are_renewed_early_and_survive_an_outage() {
    use super::super::token::{Tokens, Wanted};
    let count = Arc::new(AtomicUsize::new(0));
    let server = Server::start({
        let count = Arc::clone(&count);
        move |_| match count.fetch_add(1, Ordering::SeqCst) {
            1 => Reply::new(503),
            n => Reply::new(200).body(format!(r#"{{"token":"t{n}","expires_in":4}}"#)),
        }
    })
    .await;
    let upstream = anonymous(&server);
    let client = &upstream.origins[0].client;
    let tokens = Tokens::with_min_life(Duration::from_secs(4));
    let wanted =
        Wanted { realm: server.url.clone(), service: None, scopes: vec!["s".into()], credential: None, not_before: None };
    let get = async || tokens.get(client, &wanted).await.map(|token| token.authorization.to_str().unwrap().to_owned());
    assert_eq!(get().await.unwrap(), "Bearer t0");
    assert_eq!(get().await.unwrap(), "Bearer t0");
    tokio::time::sleep(Duration::from_millis(3500)).await;
    assert_eq!(get().await.unwrap(), "Bearer t0", "renewing fails, and it still lives");
    assert_eq!(get().await.unwrap(), "Bearer t0");
    assert_eq!(count.load(Ordering::SeqCst), 2, "the failed renewal is not repeated at once");
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(get().await.unwrap(), "Bearer t2", "dead is dead");
}

/// A registry whose credentials come from a Docker configuration file.
async fn with_docker_config(server: &Server, entry: &str) -> (Upstream, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    std::fs::write(&path, format!(r#"{{"auths":{{"{}":{entry}}}}}"#, server.authority())).unwrap();
    let upstream = build(&config::Upstream { credentials: config::Credentials::DockerConfig(path), ..config(&[server]) });
    (upstream, folder)
}

#[tokio::test]
async fn t41_an_identity_token_is_posted() {
    let server =
        registry(r#"Bearer realm="HOST/token",service="s",scope="repository:a/b:pull aws""#, |_| Reply::token("good")).await;
    let (upstream, _folder) = with_docker_config(&server, r#"{"auth":"MDAwMDo=","identitytoken":"canary-secret"}"#).await;
    resolve(&upstream).await.unwrap();
    let token = &server.seen()[1];
    assert_eq!((token.method.as_str(), token.header("authorization")), ("POST", None));
    assert_eq!(
        token.body,
        "grant_type=refresh_token&refresh_token=canary-secret&client_id=roadstead&service=s&scope=aws+repository%3Aa%2Fb%3Apull"
    );
    assert_eq!(token.target, "/token", "nothing of it in the URL");
    assert_silent(&upstream, None);
}

#[tokio::test]
async fn t41_an_identity_token_as_a_password_where_post_is_unknown() {
    let server = registry(r#"Bearer realm="HOST/token""#, |seen| match seen.method.as_str() {
        "POST" => Reply::new(404),
        _ => Reply::token("good"),
    })
    .await;
    let (upstream, _folder) = with_docker_config(&server, r#"{"auth":"MDAwMDo=","identitytoken":"refresh"}"#).await;
    resolve(&upstream).await.unwrap();
    assert_eq!(server.seen()[2].header("authorization"), Some("Basic MDAwMDpyZWZyZXNo"));

    // Without an account there is no such form, and no silent fall to anonymous.
    let (upstream, _folder) = with_docker_config(&server, r#"{"identitytoken":"refresh"}"#).await;
    assert!(resolve(&upstream).await.is_err());
}

#[tokio::test]
async fn i9_t41_an_identity_token_does_not_follow_a_redirect() {
    let attacker = Server::start(|_| Reply::token("good")).await;
    let target = attacker.url.to_string();
    let server = registry(r#"Bearer realm="HOST/token""#, move |_| Reply::redirect(&target)).await;
    let (upstream, _folder) = with_docker_config(&server, r#"{"identitytoken":"canary-secret"}"#).await;
    let error = resolve(&upstream).await.unwrap_err();
    assert!(matches!(error.reason(), Reason::Redirect(RedirectError::Credentials)), "{error}");
    assert!(attacker.seen().is_empty(), "{error}");
}

#[tokio::test]
async fn t41_a_docker_configuration_that_cannot_be_read_is_said_not_ignored() {
    let server = Server::start(|_| Reply::challenge("Basic realm=x")).await;
    let missing = config::Credentials::DockerConfig("/nonexistent/config.json".into());
    let error = resolve(&build(&config::Upstream { credentials: missing, ..config(&[&server]) })).await.unwrap_err();
    assert_eq!(error.class(), Class::Unavailable);
    assert!(error.to_string().contains("/nonexistent/config.json"), "{error}");
}
