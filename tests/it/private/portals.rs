//! Somebody between the mirror and an upstream who has a cheerful answer to everything, as a sign-in page of a hotel has: what
//! he says opens nothing.

use super::{Private, SECRET, ask, assert_nothing_of, basic, forms};
use crate::support::upstream::{Act, blob_path, manifest_path};

fn portals() -> [Act; 4] {
    let message = Act::html().body(r#"{"code":302,"msg":"please sign in"}"#);
    let untyped = message.clone().without("Content-Type");
    [Act::html(), message.header("Content-Type", "application/json"), untyped.clone(), untyped.chunked()]
}

/// No caller is let in by it.
#[tokio::test]
async fn a_sign_in_page_lets_nobody_in() {
    for portal in portals() {
        let this = Private::warm(|settings| {
            settings.upstream("priv.example", "breaker", breaker());
        })
        .await;
        this.up.on("/*").always(portal);
        for user in ["mallory", "nobody"] {
            // A list of tags is what is said now, and shows nothing of what is here.
            for form in forms(SECRET, &this.secret).iter().filter(|form| !form.1.ends_with("/tags/list")) {
                let answer = ask(&this.mirror, &basic(user, "word"), form).await;
                assert_nothing_of(&answer, &this.secret, &format!("{user} {} {}", form.0, form.1));
            }
        }
        // Whoever has been let in before stays so.
        this.pull_as("alice").await;
    }
}

/// What is one upstream's becomes nobody else's by it, neither now nor when it has gone.
#[tokio::test]
async fn a_sign_in_page_owns_nothing() {
    for portal in portals() {
        let this = Private::warm(|settings| {
            settings.hub("breaker", breaker()).set("freshness", "negative", "0s");
        })
        .await;
        let paths: Vec<String> = this.secret.blobs().map(|blob| blob_path("library/base", blob)).collect();
        let paths = [paths, vec![manifest_path("library/base", this.secret.manifest.digest)]].concat();
        this.hub.on("/v2/*").always(portal);
        for path in &paths {
            let answer = this.mirror.get(path).await;
            assert_nothing_of(&answer, &this.secret, path);
        }
        this.hub.on("/v2/*").clear();
        for path in &paths {
            assert_eq!(this.mirror.get(path).await.status(), 404, "{path}");
        }
    }
}

/// Nothing rests: each question is asked.
fn breaker() -> toml::Table {
    toml::toml! { failures = 1000 }
}
