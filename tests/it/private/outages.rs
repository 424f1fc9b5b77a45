//! Private content when the upstream cannot be asked, and when rights and tokens end.

use std::time::Duration;

use super::{Private, SECRET, assert_nothing_of, basic, forms, get_as};
use crate::support::client;
use crate::support::mirror::Mirror;
use crate::support::upstream::{blob_path, manifest_path};

async fn offline(mirror: &Mirror, offline: bool) {
    let body = format!("{{\"offline\":{offline},\"upstream\":\"priv.example\"}}");
    let text = format!(
        "POST /api/v1/offline HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        mirror.admin_address(),
        body.len()
    );
    let answer = String::from_utf8(client::raw(mirror.admin_address(), text.as_bytes()).await).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

/// Offline, or with the upstream down: whoever has a verdict is served, nobody else.
#[tokio::test]
async fn without_the_upstream_only_verdicts_count() {
    let this = Private::warm(|settings| {
        settings.set("freshness", "fresh_for", "0s");
    })
    .await;
    // Refused while it could be asked.
    assert_eq!(get_as(&this.mirror, "mallory", &manifest_path(SECRET, "latest")).await.status(), 403);
    for down in [true, false] {
        if down {
            this.up.down().await;
        } else {
            offline(&this.mirror, true).await;
        }
        this.pull_as("alice").await;
        let tags = get_as(&this.mirror, "alice", &format!("/v2/{SECRET}/tags/list")).await;
        assert_eq!(tags.json()["tags"][0], "latest");
        for (method, path, headers) in forms(SECRET, &this.secret) {
            for user in ["mallory", "bob"] {
                let login = basic(user, "word");
                let mut all = vec![("Authorization", login.as_str())];
                all.extend(headers.iter().map(|(name, value)| (*name, value.as_str())));
                let answer = match method {
                    "HEAD" => client::head(this.mirror.address(), &path, &all).await,
                    _ => client::get(this.mirror.address(), &path, &all).await,
                };
                assert_nothing_of(&answer, &this.secret, &path);
                assert!([403, 503].contains(&answer.status()), "{user} {path}: {}", answer.text());
                // Something that is not cached looks the same.
                if user == "bob" {
                    assert_eq!(answer.status(), 503, "{path}: {}", answer.text());
                    let hint = !down && method == "GET" && path.contains("/manifests/");
                    assert_eq!(answer.text().contains("roadstead prefetch "), hint, "{path}: {}", answer.text());
                    let cold = path.replace("team/secret", "team/cold");
                    let cold = match method {
                        "HEAD" => client::head(this.mirror.address(), &cold, &all).await,
                        _ => client::get(this.mirror.address(), &cold, &all).await,
                    };
                    assert_eq!(cold.status(), 503, "{path}");
                    assert_eq!(cold.header("cache-status"), answer.header("cache-status"), "{path}");
                }
            }
        }
        if down {
            this.up.up().await;
        }
    }
    // The list of what clients want in vain is for those who were let in.
    offline(&this.mirror, false).await;
    let files = this.mirror.stop().await;
    let wanted = std::fs::read_to_string(files.root().join("wanted.json")).unwrap_or_default();
    assert!(!wanted.contains("team/cold"), "{wanted}");
}

/// That there is no signature is told to whoever has a verdict, too, and looks to all others like anything else.
#[tokio::test]
async fn without_the_upstream_absences_are_for_verdicts() {
    let this = Private::warm(|settings| {
        settings.set("freshness", "negative", "0s");
    })
    .await;
    let signature = |repository| manifest_path(repository, format!("sha256-{}.sig", this.secret.manifest.digest.hex()));
    // bob's question is no verdict, and nothing is kept of what he was told.
    assert_eq!(get_as(&this.mirror, "bob", &signature(SECRET)).await.status(), 404);
    assert!(!this.mirror.files().root().join("repos").join(SECRET).join("_absent").exists());
    assert_eq!(get_as(&this.mirror, "mallory", &signature(SECRET)).await.status(), 403);
    assert_eq!(get_as(&this.mirror, "alice", &signature(SECRET)).await.status(), 404);
    this.up.down().await;
    let answer = get_as(&this.mirror, "alice", &signature(SECRET)).await;
    assert_eq!((answer.status(), answer.header("warning").is_some()), (404, true), "{}", answer.text());
    assert_eq!(get_as(&this.mirror, "mallory", &signature(SECRET)).await.status(), 403);
    let answer = get_as(&this.mirror, "bob", &signature(SECRET)).await;
    let cold = get_as(&this.mirror, "bob", &signature("priv.example/team/cold")).await;
    assert_eq!((answer.status(), cold.status()), (503, 503), "{}", answer.text());
    assert_eq!(answer.header("cache-status"), cold.header("cache-status"));
    assert_eq!(answer.text().replace("team/secret", "team/cold"), cold.text());
    let public = get_as(&this.mirror, "alice", &signature("library/base")).await;
    assert_eq!((public.status(), public.header("warning")), (404, None), "another upstream's");
}

/// Access that was taken away ends with the verdict, whatever tokens live on.
#[tokio::test]
async fn revoked_access_ends() {
    let this = Private::warm(|settings| {
        settings.upstream("priv.example", "verdict_for", "1ms");
    })
    .await;
    this.accounts.set("alice", "word", &["team/cold"]);
    tokio::time::sleep(Duration::from_millis(5)).await;
    for (n, form) in forms(SECRET, &this.secret).iter().enumerate() {
        let answer = super::ask(&this.mirror, &basic("alice", "word"), form).await;
        assert_nothing_of(&answer, &this.secret, &format!("{n} {}", form.1));
        assert_eq!(answer.status(), 403, "{n} {}", form.1);
    }
    this.accounts.remove("bob");
    let answer = get_as(&this.mirror, "bob", &blob_path(SECRET, &this.secret.layers[0])).await;
    assert_eq!((answer.status(), answer.error_code()), (401, "UNAUTHORIZED".into()));
}

/// A token that has ended is replaced with the same login; a login that has ended within its verdict fetches nothing.
#[tokio::test]
async fn tokens_end_and_logins_end() {
    let this = Private::new(|_| {}).await;
    let manifest = manifest_path(SECRET, "latest");
    assert_eq!(get_as(&this.mirror, "alice", &manifest).await.status(), 200);
    this.up.with_tokens(|tokens| tokens.revoke());
    get_as(&this.mirror, "alice", &blob_path(SECRET, &this.secret.layers[0])).await.assert_is(&this.secret.layers[0]);
    this.accounts.remove("alice");
    this.up.with_tokens(|tokens| tokens.revoke());
    let miss = get_as(&this.mirror, "alice", &blob_path(SECRET, &this.secret.layers[1])).await;
    assert_nothing_of(&miss, &this.secret, "a miss");
    assert_eq!(miss.status(), 401, "{}", miss.text());
    // The refusal ended the verdict.
    let hit = get_as(&this.mirror, "alice", &blob_path(SECRET, &this.secret.layers[0])).await;
    assert_nothing_of(&hit, &this.secret, "a hit");
    assert_eq!(hit.status(), 401, "{}", hit.text());
}

/// After a restart nobody has a verdict: it was never written down.
#[tokio::test]
async fn verdicts_do_not_outlive_the_process() {
    let this = Private::warm(|_| {}).await;
    this.up.down().await;
    let mirror = this.mirror.restart().await;
    let answer = get_as(&mirror, "alice", &manifest_path(SECRET, "latest")).await;
    assert_eq!(answer.status(), 503, "{}", answer.text());
    this.up.up().await;
    let files = mirror.stop().await;
    for entry in std::fs::read_dir(files.root()).unwrap() {
        let path = entry.unwrap().path();
        let text = if path.is_file() { std::fs::read(&path).unwrap() } else { Vec::new() };
        for word in ["alice", "word"] {
            assert!(!String::from_utf8_lossy(&text).contains(word), "{} holds a login", path.display());
        }
    }
}
