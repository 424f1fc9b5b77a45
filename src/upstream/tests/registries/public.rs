//! Docker Hub, GHCR, Quay, registry.k8s.io, MCR, nvcr.io, GitLab.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

const HUB: &str = "https://registry-1.docker.io";
const CDN: &str = "docker-images-prod.6aa30f8b08e16409b46e0173d6de2f56.r2.cloudflarestorage.com";

/// Docker Hub. `account` is the `Authorization` that gets a token for a user; anybody gets an anonymous one.
async fn hub(account: Option<String>) -> Internet {
    Internet::start(move |host, seen| match host {
        "auth.docker.io" => match (seen.path(), authorization(seen)) {
            ("/token", None) => Reply::new(200).body(r#"{"token":"hub-anonymous","access_token":"hub-anonymous","expires_in":300,"issued_at":"2026-01-01T00:00:00Z"}"#),
            ("/token", sent) if sent == account.as_deref() => Reply::new(200).body(r#"{"token":"hub-user","expires_in":300}"#),
            _ => Reply::new(401).body(r#"{"details":"incorrect username or password"}"#),
        },
        CDN => match authorization(seen) {
            // R2, as it answers what it does not expect.
            Some(_) => Reply::new(400).body("<Error><Code>InvalidRequest</Code><Message>Missing x-amz-content-sha256</Message></Error>"),
            None => blob_reply(),
        },
        "registry-1.docker.io" => {
            let source = match authorization(seen) {
                Some("Bearer hub-anonymous") => "203.0.113.7",
                Some("Bearer hub-user") => "0f8fad5b-d9cb-469f-a165-70867728950e",
                _ => {
                    let name = seen.path().trim_start_matches("/v2/").split("/manifests/").next().unwrap().split("/blobs/").next().unwrap();
                    return Reply::challenge(&format!(
                        "Bearer realm=\"https://auth.docker.io/token\",service=\"registry.docker.io\",scope=\"repository:{name}:pull\""
                    ))
                    .header("docker-distribution-api-version", "registry/2.0")
                    .header("strict-transport-security", "max-age=31536000")
                    .body(r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required","detail":[]}]}"#);
                }
            };
            if seen.path().contains("/blobs/") {
                return Reply::redirect(&format!("https://{CDN}/registry-v2/docker/registry/v2/blobs/data?X-Amz-Signature=presigned"));
            }
            manifest_reply()
                .header("ratelimit-limit", "100;w=21600")
                .header("ratelimit-remaining", "76;w=21600")
                .header("docker-ratelimit-source", source)
        }
        other => panic!("{other}"),
    })
    .await
}

#[tokio::test]
async fn hub_anonymous() {
    let internet = hub(None).await;
    let upstream = internet.upstream(HUB, config::Credentials::Anonymous, &[]);
    pull(&upstream, "library/alpine").await.unwrap();
    assert_eq!(internet.lines("auth.docker.io"), ["GET /token"], "one token does for the manifest and the blob");
    let token = &internet.at("auth.docker.io")[0];
    assert_eq!(
        (token.query("service"), token.query("scope")),
        (vec!["registry.docker.io".into()], vec!["repository:library/alpine:pull".into()])
    );
    assert_eq!(internet.lines("registry-1.docker.io").len(), 4, "one challenge, HEAD, GET, blob");
    assert_eq!(internet.lines(CDN).len(), 1);
    let quota = upstream.quota().unwrap();
    assert_eq!((quota.limit, quota.remaining, quota.window), (Some(100), 76, Some(Duration::from_secs(21600))));
    assert_silent(&upstream, None);
}

#[tokio::test]
async fn i9_hub_access_token_of_a_user_or_an_organisation() {
    // A PAT belongs to a user, an OAT to the organisation's name; both are passwords of the token service.
    for user in ["someone", "an-organisation"] {
        let internet = hub(Some(basic(user))).await;
        let upstream = internet.signed_in(HUB, user);
        pull(&upstream, "library/alpine").await.unwrap();
        let token = &internet.at("auth.docker.io")[0];
        assert_eq!((authorization(token), token.query("account")), (Some(basic(user).as_str()), vec![user.to_owned()]));
        internet.assert_heard_only_at(&[CANARY, &basic(user)[6..], user], &["auth.docker.io"]);
        internet.assert_heard_only_at(&["hub-user"], &["registry-1.docker.io"]);
        assert_silent(&upstream, None);
    }
}

#[tokio::test]
async fn hub_an_expired_access_token_is_the_mirrors_fault_and_says_so() {
    let internet = hub(Some("Basic else".into())).await;
    let upstream = internet.signed_in(HUB, "someone");
    let error = pull(&upstream, "library/alpine").await.unwrap_err();
    assert_eq!(error.class(), Class::Unavailable, "cached content goes on being served");
    assert!(error.to_string().contains("check `credentials`") && error.to_string().contains("auth.docker.io"), "{error}");
    assert_silent(&upstream, Some(&error));
}

#[tokio::test]
async fn hub_over_its_quota() {
    let body = r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your unauthenticated pull rate limit. https://www.docker.com/increase-rate-limit"}]}"#;
    let internet = Internet::start(move |host, seen| match (host, authorization(seen)) {
        ("auth.docker.io", _) => Reply::token("t"),
        (_, None) => Reply::challenge(r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io""#),
        _ if seen.method == "HEAD" => {
            manifest_reply().header("ratelimit-limit", "100;w=21600").header("ratelimit-remaining", "0;w=21600")
        }
        _ => Reply::new(429).body(body),
    })
    .await;
    let upstream = internet.upstream(HUB, config::Credentials::Anonymous, &[]);
    // HEADs go on when the GETs are spent.
    resolve(&upstream).await.unwrap();
    assert_eq!(upstream.quota().unwrap().remaining, 0);
    let error = upstream.manifest(&repository("a/b"), &tag("latest")).await.unwrap_err();
    assert!(matches!(error.class(), Class::RateLimited { .. }), "{error}");
}

#[tokio::test]
async fn ghcr_its_429_and_its_tokens() {
    let count = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&count);
    let internet = Internet::start(move |_, seen| match (seen.path(), authorization(seen)) {
        ("/token", _) => Reply::new(200).body(r#"{"token":"djE6bWlycm9y"}"#),
        (_, Some("Bearer djE6bWlycm9y")) if counter.fetch_add(1, Ordering::SeqCst) == 3 => {
            Reply::new(429).body("toomanyrequests: retry-after: 880.092µs, allowed: 44000/minute")
        }
        (_, Some("Bearer djE6bWlycm9y")) => content(seen),
        (path, _) => {
            let name = path.trim_start_matches("/v2/").split("/manifests/").next().unwrap();
            Reply::challenge(&format!(r#"Bearer realm="https://ghcr.io/token",service="ghcr.io",scope="repository:{name}:pull""#))
                .body(r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#)
        }
    })
    .await;
    let upstream = internet.upstream("https://ghcr.io", config::Credentials::Anonymous, &[]);
    pull(&upstream, "team/app").await.unwrap();
    assert_eq!(internet.at("ghcr.io").iter().filter(|seen| seen.path() == "/token").count(), 1);
    // `repository:user/image:pull`, which its challenge at `/v2/` always names, is nobody's repository: it is kept as it
    // is, so that its one token, which is bound to none, serves all of them.
    // And its 429 of microseconds, which comes first, is nobody's business.
    upstream.manifest(&repository("team/other"), &tag("latest")).await.unwrap();
    assert_eq!(count.load(Ordering::SeqCst), 5);
    resolve(&upstream).await.unwrap();
    assert_eq!(internet.at("ghcr.io").iter().filter(|seen| seen.path() == "/token").count(), 1, "reused across repositories");
}

#[tokio::test]
async fn i9_ghcr_signed_in() {
    let internet = Internet::start(move |_, seen| match (seen.path(), authorization(seen)) {
        ("/token", Some(sent)) if sent == basic("user") => Reply::token("private"),
        ("/token", _) => {
            Reply::new(403).body(r#"{"errors":[{"code":"DENIED","message":"requested access to the resource is denied"}]}"#)
        }
        (_, Some("Bearer private")) => content(seen),
        _ => Reply::challenge(r#"Bearer realm="https://ghcr.io/token",service="ghcr.io",scope="repository:team/app:pull""#),
    })
    .await;
    pull(&internet.signed_in("https://ghcr.io", "user"), "team/app").await.unwrap();
    // Without an account what is private is denied, as what is not there.
    let upstream = internet.upstream("https://ghcr.io", config::Credentials::Anonymous, &[]);
    let error = pull(&upstream, "team/app").await.unwrap_err();
    assert_eq!(error.class(), Class::Denied, "{error}");
}

#[tokio::test]
async fn i9_quay_robot_scopeless_challenge_and_signed_redirects() {
    let internet = Internet::start(move |host, seen| match (host, seen.path(), authorization(seen)) {
        ("cdn01.quay.io", _, None) => blob_reply(),
        ("quay.io", "/v2/auth", Some(sent)) if sent == basic("org+mirror") => Reply::token("quay"),
        ("quay.io", _, Some("Bearer quay")) if seen.path().contains("/blobs/") => Reply::new(302)
            .header("location", "https://cdn01.quay.io/sha256/data?Signature=presigned")
            .header("cache-control", "max-age=31536000"),
        ("quay.io", _, Some("Bearer quay")) => manifest_reply(),
        ("quay.io", _, None) => Reply::challenge(r#"Bearer realm="https://quay.io/v2/auth",service="quay.io""#),
        other => panic!("{other:?}"),
    })
    .await;
    let upstream = internet.signed_in("https://quay.io", "org+mirror");
    pull(&upstream, "org/app").await.unwrap();
    let token = internet.at("quay.io").into_iter().find(|seen| seen.path() == "/v2/auth").unwrap();
    assert_eq!(
        (token.query("account"), token.query("scope")),
        (vec!["org+mirror".into()], vec!["repository:org/app:pull".into()])
    );
    internet.assert_heard_only_at(&[CANARY, &basic("org+mirror")[6..], "Bearer"], &["quay.io"]);
}

#[tokio::test]
async fn k8s_redirects_manifests_and_blobs() {
    let regional = "europe-west1-docker.pkg.dev";
    let bucket = "prod-registry-k8s-io-eu-central-1.s3.dualstack.eu-central-1.amazonaws.com";
    let internet = Internet::start(move |host, seen| match host {
        "registry.k8s.io" if seen.path() == "/v2/" => Reply::new(200),
        "registry.k8s.io" if seen.path().contains("/blobs/") => {
            Reply::redirect(&format!("https://{bucket}/containers/images/sha256/blobs/data"))
        }
        "registry.k8s.io" => {
            Reply::redirect(&format!("https://{regional}{}", seen.path().replacen("/v2/", "/v2/k8s-artifacts-prod/images/", 1)))
        }
        _ if authorization(seen).is_some() => panic!("nobody asked for that"),
        _ => content(seen),
    })
    .await;
    let upstream = internet.upstream("https://registry.k8s.io", config::Credentials::Anonymous, &[]);
    pull(&upstream, "pause").await.unwrap();
    let digest = digest_of(MANIFEST.as_bytes());
    let path = "/v2/k8s-artifacts-prod/images/pause/manifests/";
    assert_eq!(internet.lines(regional), [format!("HEAD {path}latest"), format!("GET {path}{digest}")]);
    assert_eq!(internet.lines(bucket).len(), 1);
}

#[tokio::test]
async fn mcr_without_any_token() {
    let internet = Internet::start(move |host, seen| match host {
        "mcr.microsoft.com" if seen.path().ends_with("/tags/list") => {
            Reply::new(200).body(r#"{"name":"dotnet/sdk","tags":["9.0"]}"#)
        }
        "mcr.microsoft.com" if seen.path().contains("/blobs/") => {
            Reply::redirect("https://westeurope.data.mcr.microsoft.com/data?se=x&sig=presigned")
        }
        "mcr.microsoft.com" => manifest_reply(),
        _ => blob_reply(),
    })
    .await;
    let upstream = internet.upstream("https://mcr.microsoft.com", config::Credentials::Anonymous, &[]);
    pull(&upstream, "dotnet/sdk").await.unwrap();
    upstream.tags(&repository("dotnet/sdk"), "").await.unwrap();
    assert_eq!(internet.hosts(), ["mcr.microsoft.com", "westeurope.data.mcr.microsoft.com"]);
}

#[tokio::test]
async fn i9_nvcr_no_service_and_another_realm_after_expiry() {
    let expired = Arc::new(AtomicUsize::new(0));
    let state = Arc::clone(&expired);
    let internet = Internet::start(move |host, seen| match (host, seen.path(), authorization(seen)) {
        ("nvcr.io", "/proxy_auth", Some(sent)) if sent == basic("$oauthtoken") => {
            Reply::new(200).body(format!(r#"{{"token":"nv{}","expires_in":600}}"#, state.load(Ordering::SeqCst)))
        }
        ("nvcr.io", _, Some(sent)) if sent == format!("Bearer nv{}", state.load(Ordering::SeqCst)) => content(seen),
        ("nvcr.io", _, None) => Reply::challenge(r#"Bearer realm="https://nvcr.io/proxy_auth",scope="repository:nvidia/cuda:pull,push""#),
        ("nvcr.io", _, Some(_)) => {
            Reply::challenge(r#"Bearer realm="https://authn.nvidia.com/token",service="registry",scope="repository:nvidia/cuda:pull",error="invalid_token""#)
                .header("content-type", "text/html")
                .body("<html><head><title>401 Authorization Required</title></head></html>")
        }
        other => panic!("{other:?}"),
    })
    .await;
    let upstream = internet.signed_in("https://nvcr.io", "$oauthtoken");
    pull(&upstream, "nvidia/cuda").await.unwrap();
    let token = internet.at("nvcr.io").into_iter().find(|seen| seen.path() == "/proxy_auth").unwrap();
    assert!(token.query("service").is_empty());
    expired.store(1, Ordering::SeqCst);
    pull(&upstream, "nvidia/cuda").await.unwrap();
    assert_eq!(internet.hosts(), ["nvcr.io"], "the other realm gives nothing, and gets nothing");
}

#[tokio::test]
async fn i9_gitlab_realm_of_the_application_and_manifests_in_object_storage() {
    let storage = "gitlab-registry.storage.googleapis.com";
    let internet = Internet::start(move |host, seen| match (host, seen.path(), authorization(seen)) {
        ("gitlab.com", "/jwt/auth", Some(sent)) if sent == basic("deploy-token") => Reply::token("jwt"),
        ("registry.gitlab.com", _, Some("Bearer jwt")) => Reply::redirect(&format!("https://{storage}{}?X-Goog-Signature=presigned", seen.path())),
        ("registry.gitlab.com", ..) => {
            Reply::challenge(r#"Bearer realm="https://gitlab.com/jwt/auth",service="container_registry",scope="repository:group/app:pull",error="invalid_token""#)
        }
        // A URL that was signed for GET, to which HEAD is another thing.
        (_, _, None) if seen.method == "HEAD" => Reply::new(403).body("<Error><Code>SignatureDoesNotMatch</Code></Error>"),
        (_, _, None) => content(seen),
        other => panic!("{other:?}"),
    })
    .await;
    let upstream = internet.signed_in("https://registry.gitlab.com", "deploy-token");
    pull(&upstream, "group/app").await.unwrap();
    internet.assert_heard_only_at(&[CANARY, &basic("deploy-token")[6..]], &["gitlab.com"]);
    internet.assert_heard_only_at(&["Bearer"], &["registry.gitlab.com"]);
}
