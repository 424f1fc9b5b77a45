//! Several addresses, quotas, rules, absences: who is asked, and how often.

use std::time::Duration;

use roadstead::oci::route::ReferrersQuery;
use roadstead::oci::{Reference, Wanted};
use serde_json::json;

use super::simulated::{Sim, pass, still, ticking};
use super::{images, reason, tag, warm};
use crate::support::image::{Blob, Image};
use crate::support::mirror::Mirror;
use crate::support::upstream::{Act, Upstream, blob_path, manifest_path};
use crate::support::{join_all, until};

/// A download that breaks at one address goes on at the next, from where it was; the client sees nothing.
#[tokio::test]
async fn a_fill_that_breaks_at_one_address_goes_on_at_the_next() {
    let (first, second) = (Upstream::start().await, Upstream::start().await);
    let blob = Blob::random(5, 300_000);
    first.push_blob("team/a", &blob);
    second.push_blob("team/a", &blob);
    first.on(&blob_path("team/a", &blob)).then(Act::honest().reset_after(100_000));
    let mirror = Mirror::with(&first, |settings| {
        settings.hub("url", toml::Value::Array(vec![first.url().into(), second.url().into()]));
    })
    .await;
    mirror.pull_blob("team/a", &blob).await;
    assert_eq!((first.count("GET *"), second.count("GET *")), (1, 1));
    let range = second.requests()[0].header("range");
    assert!(range.is_some_and(|range| range != "bytes=0-"), "only the rest is asked for");
    let (a, b) = (first.sent("*"), second.sent("*"));
    assert_eq!(a + b, 300_000, "{a} + {b}: no byte twice");
}

/// Failures open the breaker: cold pulls are refused at once with the reason, one request an interval is let through.
#[tokio::test(start_paused = true)]
async fn an_open_breaker_refuses_at_once_and_probes() {
    let _still = still();
    let cold = images(30);
    let (up, mirror) = Sim::warm(&cold[..1], |settings| {
        settings.hub("breaker", toml::toml! { failures = 3 window = "30s" probe_every = "5s" });
    })
    .await;
    cold.iter().for_each(|(repository, image)| up.push_image(repository, "latest", image));
    up.on("*").always(Act::status(503));
    for (repository, _) in &cold[1..4] {
        assert_eq!(ticking(mirror.tag(repository)).await.0.status, 503);
    }
    let before = up.count("*");
    for (repository, _) in &cold[4..14] {
        let (answer, waited) = ticking(mirror.tag(repository)).await;
        assert_eq!((answer.status, waited, answer.reason()), (503, Duration::ZERO, Some("breaker")));
        assert!(answer.text().contains("503 Service Unavailable"), "says why: {}", answer.text());
        let wait: u64 = answer.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=5).contains(&wait), "{wait}");
    }
    assert_eq!(up.count("*"), before, "nobody asked");
    assert_eq!(mirror.upstream.status()["addresses"][0]["state"], json!("open"));
    assert_eq!(mirror.metric("roadstead_upstream_breaker{"), 2.0);
    up.on("*").clear();
    pass(Duration::from_secs(5)).await;
    let (repository, image) = &cold[20];
    let (answer, _) = ticking(mirror.tag(repository)).await;
    assert!(answer.is(image), "the probe is a client's own request");
    assert_eq!(mirror.metric("roadstead_upstream_breaker{"), 0.0);
}

/// A passing failure is not the client's business.
#[tokio::test]
async fn a_passing_failure_is_retried_and_a_final_one_is_not() {
    let up = Upstream::start().await;
    let images = images(3);
    images.iter().for_each(|(repository, image)| up.push_image(repository, "latest", image));
    let mirror = Mirror::of(&up).await;
    up.on(&format!("HEAD {}", manifest_path("team/image-0", "latest"))).times(2, Act::status(502));
    mirror.pull("team/image-0", "latest", &images[0].1).await;
    assert_eq!(mirror.metric("roadstead_upstream_retries_total", &[]).await, 2.0);
    for (number, (status, told)) in [(404, 404), (403, 403)].into_iter().enumerate() {
        let path = manifest_path(&images[number + 1].0, "latest");
        up.on(&path).always(Act::status(status));
        assert_eq!(mirror.get(&path).await.status(), told);
        assert_eq!(up.count(&path), 1, "{status} is final");
    }
}

/// T40: HEADs go on where only pulls are counted; a 429 of a pull holds further pulls back and nothing else.
#[tokio::test(start_paused = true)]
async fn t40_a_spent_quota_stops_pulls_and_not_checks() {
    let _still = still();
    let images = images(3);
    let (up, mirror) = Sim::warm(&images[..1], |settings| {
        settings.set("freshness", "fresh_for", "0s");
    })
    .await;
    let limited = Act::status(429)
        .header("RateLimit-Limit", "100;w=21600")
        .header("RateLimit-Remaining", "0;w=21600")
        .header("Docker-RateLimit-Source", "203.0.113.9")
        .header("Retry-After", "7");
    up.on("GET /v2/*/manifests/*").always(limited);
    images.iter().for_each(|(repository, image)| up.push_image(repository, "latest", image));
    let cold = ticking(mirror.tag(&images[1].0)).await.0;
    assert_eq!((cold.status, cold.reason(), cold.header("retry-after")), (503, Some("rate_limited"), Some("7")));
    let gets = up.count("GET /v2/*/manifests/*");
    let (second, waited) = ticking(mirror.tag(&images[2].0)).await;
    assert_eq!((second.status, waited, second.reason()), (503, Duration::ZERO, Some("held_back")));
    let (answer, _) = ticking(mirror.tag(&images[0].0)).await;
    assert_eq!(answer.header("cache-status"), Some("roadstead; fwd=stale; detail=revalidated"), "HEAD is not counted");
    assert_eq!(up.count("GET /v2/*/manifests/*"), gets, "no GET meanwhile");
    let held = mirror.metric("roadstead_upstream_held_back_seconds{");
    assert!((5.0..=7.0).contains(&held), "{held}");
    for (metric, told) in [("limit", 100.0), ("remaining", 0.0)] {
        assert_eq!(mirror.metric(&format!("roadstead_upstream_ratelimit_{metric}{{")), told);
    }
    let state = mirror.upstream.status().to_string();
    assert!(state.contains("203.0.113.9"), "{state}");
    up.on("GET /v2/*/manifests/*").clear();
    pass(Duration::from_secs(7)).await;
    assert_eq!(ticking(mirror.tag(&images[1].0)).await.0.status, 200);
}

/// An hour is not believed: whether the limit is wrong, or lifted, is seen by one request a minute.
#[tokio::test(start_paused = true)]
async fn t40_a_long_silence_is_probed_each_minute() {
    let _still = still();
    let images = images(1);
    let (up, mirror) = Sim::warm(&[], |_| {}).await;
    let (repository, image) = &images[0];
    up.push_image(repository, "latest", image);
    let gets = "GET /v2/*/manifests/*";
    up.on(gets).always(Act::status(429).header("Retry-After", "3600"));
    for minute in 1..=5 {
        for _ in 0..3 {
            let cold = ticking(mirror.tag(repository)).await.0;
            assert_eq!((cold.status, up.count(gets)), (503, minute), "one a minute");
        }
        pass(Duration::from_secs(60)).await;
    }
    up.on(gets).clear();
    assert!(ticking(mirror.tag(repository)).await.0.is(image));
}

/// A spent quota puts background checks off; what a client waits for is asked all the same.
#[tokio::test(start_paused = true)]
async fn the_reserve_is_for_clients() {
    let _still = still();
    let images = images(1);
    let repository = &images[0].0;
    let (up, mirror) = Sim::warm(&images, |settings| {
        settings.set("freshness", "fresh_for", "1s").set("freshness", "stale_while_revalidate", "1h");
    })
    .await;
    up.on("*").always(Act::honest().header("RateLimit-Limit", "100;w=21600").header("RateLimit-Remaining", "5;w=21600"));
    let before = up.count("HEAD *");
    for _ in 0..120 {
        pass(Duration::from_secs(2)).await;
        assert_eq!(mirror.tag(repository).await.status, 200);
        // The check is behind; give it its turn.
        ticking(tokio::task::spawn_blocking(|| std::thread::sleep(Duration::from_millis(5)))).await.0.unwrap();
    }
    let asked = up.count("HEAD *") - before;
    assert!((3..=6).contains(&asked), "{asked} in four minutes: one a minute");
    let cold = Image::small(77);
    up.push_image("team/cold", "latest", &cold);
    assert_eq!(ticking(mirror.tag("team/cold")).await.0.status, 200);
}

/// What HEAD cannot tell is asked by GET; that is learned, counted, and HEAD is left alone.
#[tokio::test]
async fn a_registry_without_head_is_learned() {
    for act in [Act::status(405), Act::honest().without("Docker-Content-Digest")] {
        let up = Upstream::start().await;
        let image = Image::small(1);
        up.push_image("team/a", "latest", &image);
        up.on("HEAD *").always(act);
        let mirror = Mirror::with(&up, |settings| {
            settings.set("freshness", "fresh_for", "0s");
        })
        .await;
        for _ in 0..5 {
            mirror.pull("team/a", "latest", &image).await;
        }
        assert_eq!((up.count("HEAD *"), up.count("GET /v2/*/manifests/*")), (1, 5));
        assert_eq!(mirror.metric("roadstead_upstream_head_fallbacks_total", &[]).await, 5.0);
    }
}

/// A page in the place of one answer, as a proxy shows it to be signed in to, teaches nothing about HEAD.
#[tokio::test]
async fn a_page_is_no_registry_without_head() {
    let up = Upstream::start().await;
    let image = Image::small(1);
    up.push_image("team/a", "latest", &image);
    let mirror = Mirror::with(&up, |settings| {
        settings.set("freshness", "fresh_for", "0s").set("freshness", "revalidate_within", "20s");
    })
    .await;
    mirror.pull("team/a", "latest", &image).await;
    // The first time for both, the second time for the HEAD alone.
    for acts in [vec!["HEAD *", "GET /v2/*/manifests/*"], vec!["HEAD *"]] {
        acts.iter().for_each(|pattern| drop(up.on(pattern).then(Act::html())));
        mirror.pull("team/a", "latest", &image).await;
    }
    let (heads, gets) = (up.count("HEAD *"), up.count("GET /v2/*/manifests/*"));
    for _ in 0..3 {
        mirror.pull("team/a", "latest", &image).await;
    }
    assert_eq!((up.count("HEAD *") - heads, up.count("GET /v2/*/manifests/*") - gets), (3, 0));
}

/// A registry that says 405 to HEAD and has no manifest that could be believed is not learned either.
#[tokio::test]
async fn no_head_is_learned_from_a_manifest_only() {
    let up = Upstream::start().await;
    let image = Image::small(1);
    up.push_image("team/a", "latest", &image);
    up.on("HEAD *").then(Act::status(405));
    up.on("GET /v2/*/manifests/*").then(Act::raw("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"));
    let mirror = Mirror::of(&up).await;
    assert_eq!(mirror.get(&manifest_path("team/a", "latest")).await.status(), 503);
    mirror.pull("team/a", "latest", &image).await;
    assert_eq!(up.count("HEAD *"), 2);
}

/// N clients on a tag that has run out: one HEAD.
#[tokio::test]
async fn many_clients_one_check() {
    let images = images(1);
    let (up, mirror) = warm(&images, |settings| {
        settings.set("freshness", "fresh_for", "0s").set("freshness", "revalidate_within", "20s");
    })
    .await;
    let before = up.count("HEAD *");
    let gate = up.gate_head("HEAD *");
    let pulls = join_all((0..50).map(|_| tag(&mirror, &images[0].0)));
    let (answers, ()) = tokio::join!(pulls, async {
        gate.arrived(1).await;
        // All of them are in: the requests are counted when they are answered, the connections when they are made.
        until("all clients to be connected", || true).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        gate.open();
    });
    assert!(answers.iter().all(|answer| answer.status() == 200));
    assert_eq!(up.count("HEAD *") - before, 1);
}

/// `no-cache` of a client counts where a rule says so, and nowhere else.
#[tokio::test]
async fn no_cache_only_where_a_rule_allows_it() {
    let up = Upstream::start().await;
    let (old, new) = (Image::small(1), Image::small(2));
    let mirror = Mirror::with(&up, |settings| {
        settings.set("freshness", "fresh_for", "1h");
        let rule: toml::Table = toml::from_str("tags = '-nightly$'\nno_cache = true").unwrap();
        settings.set("freshness", "rule", toml::Value::Array(vec![rule.into()]));
    })
    .await;
    for name in ["latest", "x-nightly"] {
        up.push_image("team/a", name, &old);
        mirror.pull("team/a", name, &old).await;
        up.push_image("team/a", name, &new);
    }
    for (name, image) in [("latest", &old), ("x-nightly", &new)] {
        let answer = mirror.get_with(&manifest_path("team/a", name), &[("Cache-Control", "max-age=0, no-cache")]).await;
        assert!(answer.body == image.manifest.bytes, "{name}");
    }
    // A "not found" that is remembered is no more than a tag that is.
    for (name, status) in [("next", 404), ("y-nightly", 200)] {
        assert_eq!(mirror.get(&manifest_path("team/a", name)).await.status(), 404);
        up.push_image("team/a", name, &new);
        assert_eq!(mirror.get(&manifest_path("team/a", name)).await.status(), 404, "remembered");
        let answer = mirror.get_with(&manifest_path("team/a", name), &[("Cache-Control", "no-cache")]).await;
        assert_eq!(answer.status(), status, "{name}");
    }
}

async fn manifest(mirror: &Sim, tag: &str) -> u16 {
    mirror.get("team/a", Wanted::Manifest(Reference::Tag(tag.parse().unwrap()))).await.status
}

/// "Not found" is believed for `negative`, shorter if the upstream says so, and a push shows after that.
#[tokio::test(start_paused = true)]
async fn absences_are_remembered_for_a_while() {
    let _still = still();
    let up = Upstream::start().await;
    let image = Image::small(1);
    up.push_image("team/a", "latest", &image);
    let mirror = Sim::with(&up, |_| {}).await;
    let signature = format!("sha256-{}.sig", image.manifest.digest.hex());
    let path = manifest_path("team/a", &signature);
    let referrers = Wanted::Referrers(image.manifest.digest, ReferrersQuery::default());
    for _ in 0..100 {
        assert_eq!(manifest(&mirror, &signature).await, 404);
        assert_eq!(mirror.get("team/a", referrers.clone()).await.status, 200);
    }
    assert_eq!(up.count(&path), 1);
    assert!(up.count("*") <= 3, "the signature, the referrers and their tag: {}", up.count("*"));
    up.push_image("team/a", &signature, &Image::small(9));
    pass(Duration::from_secs(11)).await;
    assert_eq!(manifest(&mirror, &signature).await, 200, "a push shows within `negative`");

    let short = manifest_path("team/a", "short");
    up.on(&short).then(Act::status(404).header("Cache-Control", "max-age=2"));
    assert_eq!(manifest(&mirror, "short").await, 404);
    up.push_image("team/a", "short", &image);
    pass(Duration::from_secs(1)).await;
    assert_eq!(manifest(&mirror, "short").await, 404);
    pass(Duration::from_secs(2)).await;
    assert_eq!(manifest(&mirror, "short").await, 200, "never longer than the upstream's own word");
}

/// The choice of what a client is told that wants a blob while the upstream is down.
#[tokio::test]
async fn the_status_of_a_blob_in_an_outage() {
    for (told, status) in [(503, 503), (429, 429), (404, 404)] {
        let up = Upstream::start().await;
        let blob = Blob::random(1, 1000);
        up.on("*").always(Act::status(500));
        let mirror = Mirror::with(&up, |settings| {
            settings.hub("blob_outage_status", told);
        })
        .await;
        let answer = mirror.get(&blob_path("team/a", &blob)).await;
        assert_eq!((answer.status(), reason(&answer)), (status, Some("failing")));
    }
}

/// `max_bandwidth` and `max_fills` spare the upstream; what is cached is as fast as ever.
#[tokio::test]
async fn the_upstream_is_spared_and_clients_of_the_cache_are_not() {
    let up = Upstream::start().await;
    let blobs: Vec<Blob> = (0..4).map(|seed| Blob::random(seed, 100_000)).collect();
    blobs.iter().for_each(|blob| up.push_blob("team/a", blob));
    let mirror = Mirror::with(&up, |settings| {
        settings.hub("max_bandwidth", "200kB").hub("max_fills", 2);
    })
    .await;
    let started = std::time::Instant::now();
    join_all(blobs.iter().map(|blob| mirror.pull_blob("team/a", blob))).await;
    let cold = started.elapsed();
    assert!(cold >= Duration::from_millis(1200), "400 kB at 200 kB/s within {cold:?}");
    assert!(up.journal().peak_in_all() <= 2);
    let started = std::time::Instant::now();
    join_all(blobs.iter().map(|blob| mirror.pull_blob("team/a", blob))).await;
    assert!(started.elapsed() < cold / 2);
    let agent = up.requests()[0].header("user-agent");
    assert_eq!(agent.as_deref(), Some(concat!("roadstead/", env!("CARGO_PKG_VERSION"))));
}
