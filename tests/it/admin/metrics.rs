//! What `/metrics` says before anything has happened: alerts stand on what comes after it. And what the log makes of a failure.

use crate::support::client;
use crate::support::image::{Blob, Image};
use crate::support::mirror::{Mirror, Process};
use crate::support::until;
use crate::support::upstream::{Act, Upstream, blob_path};

/// What alerts and the dashboard count by upstream, with a `reason` where there is one.
const BY_UPSTREAM: [(&str, Option<&str>); 13] = [
    ("digest_mismatches_total", None),
    ("upstream_throttled_total", None),
    ("upstream_bytes_total", None),
    ("upstream_retries_total", None),
    ("upstream_head_fallbacks_total", None),
    ("fill_resumes_total", None),
    ("pulls_saved_total", None),
    ("fill_failures_total", Some("unavailable")),
    ("fill_failures_total", Some("publish")),
    ("upstream_failures_total", Some("not_found")),
    ("upstream_failures_total", Some("breaker")),
    ("stale_total", Some("connect")),
    ("stale_total", Some("revalidating")),
];

async fn assert_at_zero(mirror: &Mirror, upstream: &str) {
    let text = mirror.admin("/metrics").await.text();
    for (name, reason) in BY_UPSTREAM {
        let reason = reason.map(|reason| format!("reason=\"{reason}\",")).unwrap_or_default();
        let series = format!("roadstead_{name}{{{reason}upstream=\"{upstream}\"}} 0");
        assert!(text.lines().any(|line| line == series), "{series} is not in\n{text}");
    }
}

/// A counter that is born at 1 has not increased for Prometheus: its first event would raise no alert.
#[tokio::test]
async fn counters_begin_at_zero() {
    let up = Upstream::start().await;
    let mirror = Mirror::with(&up, |settings| {
        settings.add("registry.example", &up).upstream("registry.example", "visibility", "caller");
    })
    .await;
    assert_at_zero(&mirror, "docker.io").await;
    assert_at_zero(&mirror, "registry.example").await;
    let text = mirror.admin("/metrics").await.text();
    let verdicts =
        |upstream: &str| text.contains(&format!("roadstead_verdicts_total{{upstream=\"{upstream}\",verdict=\"no\"}} 0"));
    assert!(verdicts("registry.example") && !verdicts("docker.io"), "{text}");
    for series in [
        "evictions_total{reason=\"space\"}",
        "access_refusals_total{reason=\"too_many_fills\"}",
        "password_checks_total{result=\"locked_out\"}",
        "connections_refused_total{reason=\"flood\"}",
    ] {
        assert!(text.contains(&format!("roadstead_{series} 0\n")), "{series} is not in\n{text}");
    }
    assert_eq!(up.count("*"), 0, "nobody was asked for it");
}

/// An upstream that only the cache names, where the mirror is offline, is one as any other.
#[tokio::test]
async fn those_of_an_upstream_that_is_found_in_the_cache_too() {
    let up = Upstream::start().await;
    let image = Image::small(1);
    up.push_image("acme/app", "latest", &image);
    let mirror = Mirror::with(&up, |settings| {
        settings.add("registry.example", &up);
    })
    .await;
    let answer = mirror.get("/v2/acme/app/manifests/latest?ns=registry.example").await;
    assert_eq!(answer.status(), 200);
    let mirror = mirror
        .restart_with(|settings| {
            settings.forget("registry.example").set("cache", "offline", true);
        })
        .await;
    assert_at_zero(&mirror, "registry.example").await;
}

/// That an upstream does not have a blob is an answer, and nothing to warn of.
#[tokio::test]
async fn what_is_no_fault_is_no_warning() {
    let up = Upstream::start().await;
    let mirror = Process::with(&up, |_| {}).await;
    let path = blob_path("library/alpine", &Blob::random(1, 100));
    assert_eq!(client::get(mirror.address(), &path, &[]).await.status(), 404);
    until("the download to be told of", || mirror.log().contains("reason=\"not_found\"")).await;
    let log = mirror.log();
    let line = log.lines().find(|line| line.contains("reason=\"not_found\"")).unwrap();
    assert!(line.contains(" INFO "), "{line}");
}

/// What is kept warm, and what cannot be: by the place of its table in the configuration.
#[tokio::test]
async fn a_prefetch_says_what_it_could_not_fetch() {
    let up = Upstream::start().await;
    let image = Image::small(1);
    up.push_image("library/alpine", "3", &image);
    let mirror = Mirror::with(&up, |settings| {
        settings.prefetch(&["docker.io/library/alpine:3"]).prefetch(&["docker.io/library/alpine:3", "alpine:4", "alpine:5"]);
    })
    .await;
    mirror.metric_becomes("roadstead_prefetch_failing", &[("entry", "1")], 2.0).await;
    assert_eq!(mirror.metric("roadstead_prefetch_failing", &[("entry", "0")]).await, 0.0);
    let before = up.count("*");
    mirror.pull("library/alpine", "3", &image).await;
    assert_eq!(up.count("*"), before, "it is here");
}

/// A list of tags that does not end is no list: what it has shown so far is not all that was asked for.
#[tokio::test]
async fn a_prefetch_of_a_list_without_an_end_says_so() {
    let up = Upstream::start().await;
    up.push_image("library/alpine", "3", &Image::small(1));
    let page = |last: &str| Act::honest().header("Link", &format!("</v2/library/alpine/tags/list?last={last}>; rel=\"next\""));
    for _ in 0..500 {
        up.on("*/tags/list").then(page("1")).then(page("2"));
    }
    let mirror = Mirror::with(&up, |settings| {
        settings.prefetch(&["alpine:*"]);
    })
    .await;
    mirror.metric_becomes("roadstead_prefetch_failing", &[("entry", "0")], 1.0).await;
}
