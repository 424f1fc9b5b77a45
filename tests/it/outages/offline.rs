//! The switch, and upstreams that cannot be reached in each of the ways there are.

use std::time::Duration;

use serde_json::json;

use super::simulated::{Sim, pass, still, ticking};
use super::{images, reason, tag, warm};
use crate::support::client::{self, Response};
use crate::support::image::Image;
use crate::support::mirror::Mirror;
use crate::support::upstream::{Act, Upstream, blob_path, manifest_path};

async fn post(mirror: &Mirror, kind: &str, body: &str) -> String {
    let text = format!(
        "POST /api/v1/offline HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = client::raw(mirror.admin_address(), text.as_bytes()).await;
    String::from_utf8(answer).unwrap()
}

pub async fn switch(mirror: &Mirror, offline: bool) {
    let answer = post(mirror, "application/json", &json!({ "offline": offline, "upstream": "docker.io" }).to_string()).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

fn assert_offline(answer: &Response) {
    assert_eq!(answer.status(), 404);
    assert!(answer.text().contains("the mirror is offline"), "{}", answer.text());
    assert_eq!(answer.header("cache-status"), Some("roadstead; detail=offline"));
}

/// Not one packet while it is offline; what is cached is served, what is not says why. Back without a restart.
#[tokio::test]
async fn the_switch_at_run_time() {
    let images = images(2);
    let (up, mirror) = warm(&images[..1], |settings| {
        settings.set("freshness", "fresh_for", "0s");
    })
    .await;
    let (missing, missing_image) = &images[1];
    up.push_image(missing, "latest", missing_image);
    let before = up.count("*");
    switch(&mirror, true).await;
    let answer = tag(&mirror, &images[0].0).await;
    assert_eq!((answer.status(), reason(&answer)), (200, Some("offline")));
    assert_offline(&tag(&mirror, missing).await);
    assert_offline(&mirror.get(&blob_path(missing, &missing_image.layers[0])).await);
    assert_offline(&mirror.get(&manifest_path(missing, missing_image.manifest.digest)).await);
    assert_eq!(mirror.get(&format!("/v2/{missing}/tags/list")).await.status(), 404);
    assert_eq!(up.count("*"), before, "not one request");
    assert_eq!(mirror.metric("roadstead_upstream_offline", &[("upstream", "docker.io")]).await, 1.0);
    let state = mirror.admin("/api/v1/offline").await.json();
    assert_eq!(
        (&state["offline"], &state["upstreams"]["docker.io"], &state["upstreams"]["quay.io"]),
        (&json!(false), &json!(true), &json!(false))
    );
    switch(&mirror, false).await;
    mirror.pull(missing, "latest", missing_image).await;
    assert_eq!(tag(&mirror, &images[0].0).await.header("warning"), None);
}

/// What runs is broken off, and goes on where it was when the switch is turned back.
#[tokio::test]
async fn a_download_under_way_is_broken_off_and_resumed() {
    let up = Upstream::start().await;
    let blob = crate::support::image::Blob::random(3, 400_000);
    up.push_blob("team/a", &blob);
    up.on(&blob_path("team/a", &blob)).then(Act::honest().stall_after(100_000));
    let mirror = Mirror::of(&up).await;
    let download = mirror.open(&blob_path("team/a", &blob)).await;
    up.asked("GET *", 1).await;
    mirror.metric_becomes("roadstead_upstream_bytes_total", &[], 100_000.0).await;
    switch(&mirror, true).await;
    let cut = download.rest().await;
    assert!(cut.body.len() < 400_000, "{:?}", cut.end);
    cut.assert_not_wrong(&blob);
    assert_offline(&mirror.get(&blob_path("team/a", &blob)).await);
    switch(&mirror, false).await;
    mirror.pull_blob("team/a", &blob).await;
    assert_eq!(up.requests().last().unwrap().header("range"), Some("bytes=100000-".to_owned()));
}

#[tokio::test]
async fn the_switch_takes_only_what_a_web_page_cannot_send() {
    let up = Upstream::start().await;
    let mirror = Mirror::of(&up).await;
    for (kind, body, status) in [
        ("text/plain", r#"{"offline":true}"#, 415),
        ("application/x-www-form-urlencoded", "offline=true", 415),
        ("application/json", "{}", 400),
        ("application/json", r#"{"offline":true,"upstreams":"x"}"#, 400),
        ("application/json", r#"{"offline":true,"upstream":"none.example"}"#, 404),
    ] {
        let answer = post(&mirror, kind, body).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{kind} {body}: {answer}");
    }
    let answer = client::request(mirror.admin_address(), "DELETE", "/api/v1/offline", &[]).await;
    assert_eq!(answer.status(), 405);
    assert_eq!(mirror.admin("/api/v1/offline").await.json()["offline"], json!(false));
}

/// Refused, silent, no such name, broken TLS: it starts, and after the first failure a cached tag waits for
/// nothing.
#[tokio::test(start_paused = true)]
async fn with_no_upstream_at_all() {
    let _still = still();
    let image = [("team/a".to_owned(), Image::small(1)), ("team/b".to_owned(), Image::small(2))];
    let silent = Upstream::start().await;
    silent.on("*").always(Act::hang());
    let plain = Upstream::start().await;
    let refused = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    let ways = [
        ("refused", refused),
        ("silent", silent.url()),
        ("no such name", "http://registry.invalid".to_owned()),
        ("broken TLS", plain.url().replace("http:", "https:")),
    ];
    for (way, url) in ways {
        let (up, mirror) = Sim::warm(&image, |settings| {
            settings.set("freshness", "fresh_for", "1s");
        })
        .await;
        pass(Duration::from_secs(2)).await;
        let mirror = mirror
            .restart(&up, |settings| {
                settings.set("freshness", "fresh_for", "1s").hub("url", url);
            })
            .await;
        pass(Duration::from_secs(2)).await;
        let (first, _) = ticking(mirror.tag("team/a")).await;
        assert!(first.is(&image[0].1), "{way}: {first:?}");
        for (repository, image) in [&image[0], &image[1], &image[0]] {
            let (answer, waited) = ticking(mirror.tag(repository)).await;
            assert!(answer.is(image), "{way}: {answer:?}");
            assert_eq!(waited, Duration::ZERO, "{way}: {answer:?}");
            assert!(answer.reason().is_some(), "{way}: {answer:?}");
        }
    }
}
