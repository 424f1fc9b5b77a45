//! Registries that people run: Harbor, Artifactory, Nexus, GitLab of one's own, distribution.

use super::*;

#[tokio::test]
async fn i9_harbor_robot_accounts() {
    for robot in ["robot$project+mirror", "robot$mirror"] {
        let internet = Internet::start(move |_, seen| match (seen.path(), authorization(seen)) {
            ("/service/token", Some(sent)) if sent == basic(robot) => {
                Reply::new(200).body(r#"{"token":"harbor","access_token":"","expires_in":1800,"issued_at":"2026-01-01T00:00:00Z"}"#)
            }
            ("/service/token", _) => Reply::new(401),
            (path, Some("Bearer harbor")) if path.contains("missing") => {
                Reply::new(404).body(r#"{"errors":[{"code":"UNKNOWN","message":"unknown: not found"}]}"#)
            }
            (_, Some("Bearer harbor")) => content(seen),
            _ => Reply::challenge(r#"Bearer realm="https://harbor.example/service/token",service="harbor-registry",scope="repository:project/app:pull""#)
                .header("set-cookie", "sid=abc; Path=/; HttpOnly"),
        })
        .await;
        let upstream = internet.signed_in("https://harbor.example", robot);
        pull(&upstream, "project/app").await.unwrap();
        let error = upstream.resolve(&repository("project/app"), &tag("missing")).await.unwrap_err();
        assert_eq!(error.class(), Class::NotFound);
        let token = internet.at("harbor.example").into_iter().find(|seen| seen.path() == "/service/token").unwrap();
        assert_eq!(token.query("account"), [robot], "encoded, and decoded to itself");
        assert!(internet.at("harbor.example").iter().all(|seen| seen.header("cookie").is_none()));
    }
}

/// HEAD as Artifactory answers it: neither a digest nor a type.
fn bare_head(seen: &Seen) -> Reply {
    if seen.method == "HEAD" {
        return Reply::new(200)
            .header("content-type", "application/octet-stream")
            .header("content-length", &MANIFEST.len().to_string());
    }
    content(seen)
}

#[tokio::test]
async fn i9_artifactory_by_path() {
    let internet = Internet::start(move |host, seen| match (host, seen.path(), authorization(seen)) {
        ("art.example", "/artifactory/api/docker/docker-remote/v2/token", Some(sent))
            if seen.method == "GET" && sent == basic("reader") =>
        {
            Reply::token("art")
        }
        ("art.example", _, Some("Bearer art")) if seen.path().contains("/blobs/") => {
            Reply::new(302).header("location", "https://art-s3.example/bucket/data?X-Amz-Signature=presigned")
        }
        ("art.example", _, Some("Bearer art")) => bare_head(seen),
        // Without a scope.
        ("art.example", _, None) => Reply::challenge(
            r#"Bearer realm="https://art.example/artifactory/api/docker/docker-remote/v2/token",service="art.example""#,
        ),
        ("art-s3.example", _, None) => blob_reply(),
        other => panic!("{other:?}"),
    })
    .await;
    let upstream = internet.signed_in("https://art.example/artifactory/api/docker/docker-remote", "reader");
    pull(&upstream, "library/alpine").await.unwrap();
    let lines = internet.lines("art.example");
    assert!(lines[0].starts_with("HEAD /artifactory/api/docker/docker-remote/v2/library/alpine/manifests/"), "{lines:?}");
    internet.assert_heard_only_at(&[CANARY, &basic("reader")[6..], "Bearer"], &["art.example"]);
}

#[tokio::test]
async fn i9_artifactory_and_nexus_by_port_with_basic() {
    for challenge in [r#"Basic realm="Artifactory Realm""#, r#"BASIC realm="Sonatype Nexus Repository Manager""#] {
        let internet = Internet::start(move |host, seen| match authorization(seen) {
            Some(sent) if host == "repo.example:8443" && sent == basic("reader") => bare_head(seen),
            _ => Reply::challenge(challenge),
        })
        .await;
        let upstream = internet.signed_in("https://repo.example:8443", "reader");
        pull(&upstream, "library/alpine").await.unwrap();
        pull(&upstream, "library/busybox").await.unwrap();
        let unsigned = internet.at("repo.example:8443").iter().filter(|seen| authorization(seen).is_none()).count();
        assert_eq!(unsigned, 1, "challenged once, then signed in at once");
    }
}

#[tokio::test]
async fn nexus_bearer_without_scope_on_a_path() {
    let internet = Internet::start(move |_, seen| match (seen.path(), authorization(seen)) {
        ("/repository/docker-group/v2/token", None) => Reply::new(200).body(r#"{"token":"DockerToken.7d2f"}"#),
        (path, Some("Bearer DockerToken.7d2f")) if path.starts_with("/repository/docker-group/v2/") => content(seen),
        _ => Reply::challenge(
            r#"Bearer realm="https://nexus.example/repository/docker-group/v2/token",service="https://nexus.example/repository/docker-group/v2/token""#,
        ),
    })
    .await;
    let upstream = internet.upstream("https://nexus.example/repository/docker-group", config::Credentials::Anonymous, &[]);
    pull(&upstream, "library/alpine").await.unwrap();
    let token = internet.at("nexus.example").into_iter().find(|seen| seen.path().ends_with("/token")).unwrap();
    assert_eq!(token.query("scope"), ["repository:library/alpine:pull"], "made up, because nobody said");
}

#[tokio::test]
async fn i9_gitlab_of_ones_own_needs_its_realm_named() {
    let answer = |host: &str, seen: &Seen| match (host, authorization(seen)) {
        ("gitlab.example", Some(sent)) if sent == basic("mirror") => Reply::token("jwt"),
        ("gitlab.example", _) => Reply::token("anonymous"),
        ("registry.other.example", Some("Bearer jwt")) => content(seen),
        _ => Reply::challenge(
            r#"Bearer realm="https://gitlab.example/jwt/auth",service="container_registry",scope="repository:a/b:pull""#,
        ),
    };
    let internet = Internet::start(answer).await;
    let error = pull(&internet.signed_in("https://registry.other.example", "mirror"), "a/b").await.unwrap_err();
    assert_eq!(error.class(), Class::Denied, "{error}");
    internet.assert_heard_only_at(&[CANARY, &basic("mirror")[6..]], &[]);

    let credentials = config::Credentials::Password { username: "mirror".into(), password: Secret::new(CANARY) };
    let config = config::Upstream {
        token_realms: vec!["gitlab.example".into()],
        ..internet.config("https://registry.other.example", credentials)
    };
    pull(&internet.within(&config), "a/b").await.unwrap();
}

#[tokio::test]
async fn i9_several_accounts_by_repository() {
    let internet = Internet::start(|_, seen| {
        let team = seen.path().split('/').nth(2).unwrap_or_default().to_owned();
        match (seen.path(), authorization(seen)) {
            ("/token", Some(sent)) => {
                let scope = seen.query("scope").concat();
                let team = scope.split([':', '/']).nth(1).unwrap();
                if sent == basic(team) { Reply::token(&format!("token-of-{team}")) } else { Reply::new(401) }
            }
            ("/token", None) => Reply::token("anonymous"),
            (_, Some(sent)) if sent == format!("Bearer token-of-{team}") => content(seen),
            (_, Some("Bearer anonymous")) if team == "public" => content(seen),
            (path, _) => {
                let name = path.trim_start_matches("/v2/").split("/manifests/").next().unwrap().split("/blobs/").next().unwrap();
                Reply::challenge(&format!("Bearer realm=\"https://r.example/token\",scope=\"repository:{name}:pull\""))
            }
        }
    })
    .await;
    let account = |prefix: &str| config::ScopedCredentials {
        prefix: prefix.into(),
        credentials: config::Credentials::Password { username: prefix.into(), password: Secret::new(CANARY) },
    };
    let credentials = config::Credentials::ByRepository(vec![account("red"), account("blue")]);
    let upstream = internet.upstream("https://r.example", credentials, &[]);
    for name in ["red/app", "blue/app", "public/app", "red/other"] {
        pull(&upstream, name).await.unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    // `redder` is not below `red`: nobody's password is tried.
    let error = pull(&upstream, "redder/app").await.unwrap_err();
    assert_eq!(error.class(), Class::Denied, "{error}");
}
