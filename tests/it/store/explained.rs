//! `explain` says what a pull does: each time it is asked first, and then there is a pull.

use serde_json::Value;

use super::REPOSITORY;
use crate::outages::reason;
use crate::support::image::Image;
use crate::support::mirror::{Mirror, Settings};
use crate::support::upstream::{Act, Upstream, manifest_path};

/// An upstream and a mirror with one image, by two tags.
async fn mirror(change: impl FnOnce(&mut Settings)) -> (Upstream, Image, Mirror) {
    let up = Upstream::start().await;
    let image = Image::small(1);
    for tag in ["latest", "v1"] {
        up.push_image(REPOSITORY, tag, &image);
    }
    let mirror = Mirror::with(&up, |settings| {
        settings.set("freshness", "fresh_for", "0s");
        change(settings);
    })
    .await;
    for tag in ["latest", "v1"] {
        mirror.pull(REPOSITORY, tag, &image).await;
    }
    for blob in image.blobs() {
        mirror.files().get(blob).await;
    }
    (up, image, mirror)
}

fn latest() -> String {
    manifest_path(REPOSITORY, "latest")
}

/// Whether the tag is fresh, and what a pull would do.
async fn explain(mirror: &Mirror, tag: &str) -> (bool, String, Value) {
    let told = mirror.admin(&format!("/api/v1/explain?ref=alpine:{tag}")).await.json();
    let pull = told["pull"].as_str().unwrap_or_default().to_owned();
    (told["tag"]["fresh"] == true, pull, told)
}

#[tokio::test]
async fn a_rule_of_its_own_is_what_holds_for_a_tag() {
    let (up, _, mirror) = mirror(|settings| {
        let rule = toml::Value::from(toml::toml! { tags = ["^v"] fresh_for = "forever" });
        settings.set("freshness", "rule", vec![rule]);
    })
    .await;
    let (fresh, pull, told) = explain(&mirror, "v1").await;
    assert_eq!((fresh, &*pull), (true, "a pull would serve all of it from here"), "{told}");
    assert!(told["tag"]["why"].as_str().unwrap().ends_with(" ago, fresh for ever"), "{told}");
    let before = up.count("*");
    assert_eq!(mirror.get(&manifest_path(REPOSITORY, "v1")).await.status(), 200);
    assert_eq!(up.count("*"), before, "nobody was asked");
    let (fresh, pull, told) = explain(&mirror, "latest").await;
    let asks = "a pull would ask docker.io by HEAD whether the tag has moved, then serve all of it from here";
    assert_eq!((fresh, &*pull), (false, asks), "{told}");
    mirror.get(&latest()).await;
    assert_eq!(up.count("HEAD *"), 1 + before - up.count("GET *"));
}

/// `stale_if_error` is what a tag's age is held against when nobody can be asked.
#[tokio::test]
async fn a_tag_that_is_too_old_is_not_promised() {
    let (up, _, mirror) = mirror(|settings| {
        let down = toml::toml! { failures = 1 probe_every = "1h" };
        settings.hub("breaker", down);
        let rule = toml::Value::from(toml::toml! { tags = ["^v"] stale_if_error = "0s" });
        settings.set("freshness", "rule", vec![rule]);
    })
    .await;
    up.down().await;
    let first = mirror.get(&latest()).await;
    assert_eq!((first.status(), first.header("warning").is_some()), (200, true));
    let (fresh, pull, told) = explain(&mirror, "latest").await;
    assert_eq!(told["upstream_state"], "down");
    assert!(!fresh && pull.starts_with("a pull would take the tag as it was, because docker.io does not answer ("), "{told}");
    assert!(pull.ends_with(", then serve all of it from here"), "{told}");
    assert_eq!(mirror.get(&latest()).await.status(), 200);
    let (fresh, pull, told) = explain(&mirror, "v1").await;
    assert!(!fresh && pull.starts_with("a pull would fail: docker.io does not answer ("), "{told}");
    assert!(pull.ends_with("; the tag is older than stale_if_error allows"), "{told}");
    let answer = mirror.get(&manifest_path(REPOSITORY, "v1")).await;
    assert_eq!(answer.status(), 503, "{}", answer.text());
}

/// One failure is no outage, and yet nobody who has the tag waits for the upstream.
#[tokio::test]
async fn an_upstream_that_is_left_alone_is_not_said_to_be_asked() {
    let (up, _, mirror) = mirror(|settings| {
        settings.hub("breaker", toml::toml! { failures = 9 probe_every = "1h" });
    })
    .await;
    up.down().await;
    mirror.get(&latest()).await;
    let (_, pull, told) = explain(&mirror, "v1").await;
    assert!(pull.starts_with("a pull would take the tag as it was, because "), "{told}");
    assert_eq!(reason(&mirror.get(&manifest_path(REPOSITORY, "v1")).await), Some("breaker"));
}

#[tokio::test]
async fn a_check_behind_the_answer_is_told() {
    let (_up, _, mirror) = mirror(|settings| {
        settings.set("freshness", "stale_while_revalidate", "1h");
    })
    .await;
    let (fresh, pull, told) = explain(&mirror, "latest").await;
    assert!(!fresh, "{told}");
    assert_eq!(pull, "a pull would take the tag as it was and ask docker.io by HEAD meanwhile, then serve all of it from here");
    assert_eq!(reason(&mirror.get(&latest()).await), Some("revalidating"));
}

/// At the end of a quota there is one check a minute, and it is the pull's: whoever looks on takes nothing from it.
#[tokio::test]
async fn to_explain_takes_nothing_from_the_pull() {
    let (up, _, mirror) = mirror(|settings| {
        settings.set("freshness", "stale_while_revalidate", "1h");
    })
    .await;
    up.on("*").always(Act::honest().header("RateLimit-Limit", "100;w=21600").header("RateLimit-Remaining", "5;w=21600"));
    let asked = || up.count("HEAD *");
    let (first, told) = (asked() + 1, "a pull would take the tag as it was and ask docker.io by HEAD meanwhile, then serve");
    // Of this check on the mirror knows that the quota is at its end.
    assert_eq!(reason(&mirror.get(&manifest_path(REPOSITORY, "v1")).await), Some("revalidating"));
    crate::support::until("the check behind", || asked() == first).await;
    mirror.metric_becomes("roadstead_upstream_ratelimit_remaining", &[], 5.0).await;
    for _ in 0..3 {
        let (_, pull, document) = explain(&mirror, "latest").await;
        assert!(pull.starts_with(told), "{document}");
    }
    assert_eq!(reason(&mirror.get(&latest()).await), Some("revalidating"));
    crate::support::until("the pull's own check", || asked() == first + 1).await;
    // Now the minute's turn is taken.
    let (_, pull, document) = explain(&mirror, "v1").await;
    assert!(pull.contains("is kept for clients (quota_reserve)") && !pull.contains("HEAD"), "{document}");
}

/// A tag without its manifest is as good as none.
#[tokio::test]
async fn a_manifest_that_is_gone_is_asked_for() {
    let (_up, image, mirror) = mirror(|settings| {
        settings.set("freshness", "fresh_for", "1h");
    })
    .await;
    std::fs::remove_file(mirror.files().path(&image.manifest.digest)).expect("it was there");
    let mirror = mirror.restart().await;
    crate::support::within("the catalog", async {
        while mirror.admin("/api/v1/cache").await.json()["complete"] != true {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    })
    .await;
    let told = mirror.admin("/api/v1/explain?ref=alpine").await.json();
    let pull = told["pull"].as_str().unwrap();
    assert!(told["cached"] == false && told["tag"]["fresh"] != true && pull.contains("docker.io"), "{told}");
}
