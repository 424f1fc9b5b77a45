//! T21: lists of tags.

use super::REPOSITORY;
use super::referrers::{referrers, with_artifacts};
use crate::support::client::Response;
use crate::support::image::Image;
use crate::support::mirror::Mirror;
use crate::support::upstream::{Act, Upstream};

/// Where `rel="next"` leads, which must be relative to this mirror.
pub(super) fn next(answer: &Response) -> Option<String> {
    let link = answer.header("link")?;
    assert!(link.ends_with("; rel=\"next\""), "{link}");
    let target = link.split(['<', '>']).nth(1).unwrap();
    assert!(target.starts_with('/'), "{target} leads away from the mirror");
    Some(target.to_owned())
}

/// T21: page by page through each form of address, which the link keeps.
#[tokio::test]
async fn t21_pages_of_tags_lead_through_the_mirror() {
    let up = Upstream::start().await;
    let image = Image::small(1);
    let tags: Vec<String> = (0..7).map(|number| format!("v{number}")).collect();
    tags.iter().for_each(|tag| up.push_image(REPOSITORY, tag, &image));
    let mirror = Mirror::of(&up).await;
    for (form, ns) in [
        ("/v2/library/alpine", None),
        ("/docker.io/v2/library/alpine", None),
        ("/v2/docker.io/library/alpine", None),
        ("/v2/library/alpine", Some("docker.io")),
    ] {
        let suffix = ns.map(|ns| format!("&ns={ns}")).unwrap_or_default();
        let mut path = Some(format!("{form}/tags/list?n=3{suffix}"));
        let (mut seen, mut pages) = (Vec::new(), 0);
        while let Some(page) = path {
            assert!(page.starts_with(&format!("{form}/tags/list?")), "{page}");
            assert!(ns.is_none() || page.contains("ns=docker.io"), "{page}");
            let answer = mirror.get(&page).await;
            assert_eq!((answer.status(), answer.header("content-type")), (200, Some("application/json")), "{page}");
            assert_eq!(answer.header("oci-namespace"), ns, "{page}");
            let document = answer.json();
            assert_eq!(document["name"], REPOSITORY, "{page}");
            seen.extend(document["tags"].as_array().unwrap().iter().map(|tag| tag.as_str().unwrap().to_owned()));
            path = next(&answer);
            pages += 1;
        }
        assert_eq!((seen, pages), (tags.clone(), 3), "{form} {ns:?}");
    }
    let last = mirror.get("/v2/library/alpine/tags/list?last=v4").await;
    assert_eq!(last.json()["tags"], serde_json::json!(["v5", "v6"]));
    let none = mirror.get("/v2/library/alpine/tags/list?n=0").await;
    assert_eq!((none.status(), next(&none)), (200, None));
    for wrong in ["n=-1", "n=many", "n=99999999999999999999"] {
        let answer = mirror.get(&format!("/v2/library/alpine/tags/list?{wrong}")).await;
        assert_eq!((answer.status(), &*answer.error_code()), (400, "PAGINATION_NUMBER_INVALID"), "{wrong}");
    }
}

/// T21: links as other registries write them.
#[tokio::test]
async fn t21_foreign_links_are_rewritten_or_dropped() {
    let up = Upstream::start().await;
    up.push_image(REPOSITORY, "a", &Image::small(1));
    let mirror = Mirror::of(&up).await;
    let own = format!("<{}/v2/library/alpine/tags/list?last=a&n=1>; rel=\"next\"", up.url());
    let good = [
        &*own,
        "</v2/library/alpine/tags/list?n=1&last=a>; rel=\"next\"",
        "<https://elsewhere.example/v2/library/alpine/tags/list?last=a&n=1>;rel=next",
    ];
    for link in good {
        up.on("/v2/*/tags/list").then(Act::honest().header("Link", link));
        let answer = mirror.get("/v2/library/alpine/tags/list?n=1").await;
        let target = next(&answer).expect(link);
        assert!(target.starts_with("/v2/library/alpine/tags/list?") && target.contains("last=a"), "{link} became {target}");
    }
    for link in ["<>; rel=\"next\"", "nonsense", "</v2/x>; rel=\"prev\""] {
        up.on("/v2/*/tags/list").then(Act::honest().header("Link", link));
        let answer = mirror.get("/v2/library/alpine/tags/list?n=1").await;
        assert_eq!((answer.status(), next(&answer)), (200, None), "{link}");
    }
}

/// T21: a list that is not made into pages is passed on whole, and one that cannot be is an error: never a short list.
#[tokio::test]
async fn t21_a_long_list_is_whole_or_an_error() {
    let up = Upstream::start().await;
    let image = Image::small(1);
    up.push_image(REPOSITORY, "latest", &image);
    let mirror = Mirror::of(&up).await;
    mirror.pull(REPOSITORY, "latest", &image).await;
    let list = |size: usize| {
        let tags: Vec<String> = (0..size / 104).map(|number| format!("{number:0>100}")).collect();
        serde_json::json!({ "name": REPOSITORY, "tags": tags }).to_string()
    };
    let path = "/v2/library/alpine/tags/list";
    for act in [Act::honest(), Act::honest().chunked()] {
        let long = list(6 << 20);
        up.on("/v2/*/tags/list").then(act.clone().body(long.clone()));
        let answer = mirror.get(path).await;
        assert_eq!((answer.status(), answer.body.len()), (200, long.len()));
        assert!(answer.body == long.as_bytes());
        up.on("/v2/*/tags/list").then(act.body(list(33 << 20)));
        let answer = mirror.get(path).await;
        assert_eq!((answer.status(), &*answer.error_code()), (503, "UNAVAILABLE"), "{}", answer.text());
        assert!(answer.text().contains("larger than 32"), "{}", answer.text());
    }
    // What is known of a list is for when there is no answer.
    for (act, status) in [(Act::html(), 503), (Act::status(500), 200)] {
        up.on("/v2/*/tags/list").always(act);
        assert_eq!(mirror.get(path).await.status(), status);
    }
}

/// The upstream's word on the page that was asked for: too many at once, or no list at all. Neither is an outage.
#[tokio::test]
async fn t21_an_upstream_that_gives_no_such_page_is_no_outage() {
    let up = Upstream::start().await;
    let image = Image::small(1);
    up.push_image(REPOSITORY, "latest", &image);
    let mirror = Mirror::of(&up).await;
    mirror.pull(REPOSITORY, "latest", &image).await;
    for (query, upstream, status, code) in [
        ("?n=5000", 400, 400, "PAGINATION_NUMBER_INVALID"),
        ("?last=x", 400, 400, "PAGINATION_NUMBER_INVALID"),
        ("?next_page=expired", 400, 400, "PAGINATION_NUMBER_INVALID"),
        ("", 400, 503, "UNAVAILABLE"),
        ("", 404, 404, "NAME_UNKNOWN"),
        ("", 405, 405, "UNSUPPORTED"),
        ("?n=5", 405, 405, "UNSUPPORTED"),
        ("", 501, 405, "UNSUPPORTED"),
    ] {
        up.on("/v2/*/tags/list").then(Act::status(upstream));
        let answer = mirror.get(&format!("/v2/library/alpine/tags/list{query}")).await;
        assert_eq!((answer.status(), &*answer.error_code()), (status, code), "{query} {upstream}: {}", answer.text());
        assert_eq!(answer.header("retry-after").is_some(), status == 503, "{query} {upstream}");
        assert_eq!(answer.header("allow").is_some(), status == 405, "{query} {upstream}");
        assert!(answer.text().contains("docker.io"), "{}", answer.text());
    }
    assert_eq!(mirror.get("/v2/library/alpine/tags/list").await.status(), 200);
}

/// What is known of a list while nobody can be asked is marked and counted as everything is that is not confirmed.
#[tokio::test]
async fn a_list_without_the_upstream_says_that_it_is_stale_and_why() {
    let (up, image, _) = with_artifacts().await;
    up.referrers(100);
    let mirror = Mirror::with(&up, |settings| {
        settings.set("freshness", "fresh_for", "0s");
    })
    .await;
    mirror.pull(REPOSITORY, "latest", &image).await;
    let (tags, referrers) = ("/v2/library/alpine/tags/list".to_owned(), referrers(&image.manifest));
    mirror.get(&referrers).await;
    up.on("/v2/*").always(Act::raw(""));
    for (path, begins) in [(&tags, "roadstead; hit; reason="), (&referrers, "roadstead; hit; ttl=-0; reason=")] {
        let answer = mirror.get(path).await;
        let status = answer.header("cache-status").unwrap_or_default().to_owned();
        assert!(status.starts_with(begins) && status.ends_with("=no_answer; detail=stale"), "{path}: {status}");
    }
    crate::outages::offline::switch(&mirror, true).await;
    for (path, begins) in [(&tags, "roadstead; hit; reason="), (&referrers, "roadstead; hit; ttl=-")] {
        let answer = mirror.get(path).await;
        let status = answer.header("cache-status").unwrap_or_default().to_owned();
        assert!(status.starts_with(begins) && status.ends_with("reason=offline; detail=stale"), "{path}: {status}");
    }
    mirror.metric_becomes("roadstead_stale_total", &[("reason", "no_answer")], 2.0).await;
    mirror.metric_becomes("roadstead_stale_total", &[("reason", "offline")], 2.0).await;
    mirror.metric_becomes("roadstead_requests_total", &[("result", "stale")], 4.0).await;
}
