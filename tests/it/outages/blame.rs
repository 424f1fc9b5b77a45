//! What fails is left alone, and nothing else: one layer, the host behind a redirect, all layers, the upstream.

use serde_json::Value;

use super::{images, reason, tag};
use crate::support::client;
use crate::support::image::{Blob, Image};
use crate::support::join_all;
use crate::support::mirror::{Mirror, Settings};
use crate::support::upstream::{Act, Upstream, blob_path};

/// An upstream with these images and a mirror that has nothing. What is not asked any more is not asked again in this test.
async fn cold(images: &[(String, Image)]) -> (Upstream, Mirror) {
    let up = Upstream::start().await;
    images.iter().for_each(|(repository, image)| up.push_image(repository, "latest", image));
    let probe_never = |settings: &mut Settings| {
        settings.hub("breaker", toml::toml! { failures = 3 window = "1h" probe_every = "1h" });
    };
    let mirror = Mirror::with(&up, probe_never).await;
    (up, mirror)
}

async fn breaker(mirror: &Mirror) -> f64 {
    mirror.metric("roadstead_upstream_breaker", &[("upstream", "docker.io")]).await
}

async fn address(mirror: &Mirror) -> Value {
    let told: Value = serde_json::from_slice(&mirror.admin("/api/v1/upstreams").await.body).unwrap();
    let hub = told["upstreams"].as_array().unwrap().iter().find(|upstream| upstream["upstream"] == "docker.io").unwrap().clone();
    hub["addresses"][0].clone()
}

/// One client asks again and again for the one layer that the upstream has lost. Everybody else gets everything.
#[tokio::test]
async fn a_layer_that_fails_rests_alone() {
    let images = images(3);
    let (up, mirror) = cold(&images).await;
    let lost = Blob::random(99, 1000);
    let path = blob_path("team/lost", &lost);
    up.on(&path).always(Act::status(500));
    for _ in 0..10 {
        assert_eq!(mirror.get(&path).await.status(), 503);
    }
    let asked = up.count(&path);
    let answer = mirror.get(&path).await;
    assert_eq!((answer.status(), reason(&answer), up.count(&path)), (503, Some("breaker"), asked), "it rests");
    for (repository, image) in &images {
        mirror.pull(repository, "latest", image).await;
        assert_eq!(mirror.get(&path).await.status(), 503);
    }
    assert_eq!((up.count(&path), breaker(&mirror).await), (asked, 0.0));
}

/// So is it with a tag.
#[tokio::test]
async fn a_tag_that_fails_rests_alone() {
    let images = images(3);
    let (up, mirror) = cold(&images).await;
    up.on("*/team/broken/*").always(Act::status(502));
    for _ in 0..10 {
        assert_eq!(tag(&mirror, "team/broken").await.status(), 503);
    }
    for (repository, image) in &images {
        mirror.pull(repository, "latest", image).await;
        assert_eq!(tag(&mirror, "team/broken").await.status(), 503);
    }
    assert_eq!(breaker(&mirror).await, 0.0);
}

/// The storage of all layers fails: these are not asked for any more, tags and manifests are.
#[tokio::test]
async fn layers_that_fail_say_nothing_of_tags() {
    let images = images(3);
    let (up, mirror) = cold(&images).await;
    up.on("*/blobs/*").always(Act::status(500));
    let blobs: Vec<Blob> = (50..53).map(|seed| Blob::random(seed, 1000)).collect();
    for blob in &blobs {
        assert_eq!(mirror.get(&blob_path("team/a", blob)).await.status(), 503);
    }
    let asked = up.count("*/blobs/*");
    for (repository, image) in &images {
        let answer = tag(&mirror, repository).await;
        assert_eq!((answer.status(), &*answer.body), (200, &*image.manifest.bytes));
        let answer = mirror.get(&blob_path(repository, &image.layers[0])).await;
        assert_eq!((answer.status(), reason(&answer)), (503, Some("breaker")));
    }
    assert_eq!((up.count("*/blobs/*"), breaker(&mirror).await), (asked, 2.0), "the worst of them");
    let address = address(&mirror).await;
    assert_eq!((&address["state"], &address["only_probed"]), (&Value::from("open"), &Value::from(vec!["blobs"])));
}

/// The upstream sends its layers' readers to a host that is down, or fails, or breaks off. It has answered itself.
#[tokio::test]
async fn what_a_redirect_leads_to_is_not_the_upstream() {
    for act in [None, Some(Act::status(500)), Some(Act::honest().close_after(0))] {
        let images = images(5);
        let (up, mirror) = cold(&images).await;
        let storage = Upstream::start().await;
        up.on("GET */blobs/*").always(Act::redirect(&storage));
        let what = format!("{act:?}");
        match act {
            Some(act) => drop(storage.on("*").always(act)),
            None => storage.down().await,
        }
        join_all(images.iter().map(async |(repository, image)| {
            let path = blob_path(repository, &image.layers[0]);
            if let Ok(answer) = client::try_open(mirror.address(), &path, &[]).await {
                answer.rest().await.assert_refused();
            }
        }))
        .await;
        for (repository, image) in &images {
            let answer = tag(&mirror, repository).await;
            assert_eq!((answer.status(), &*answer.body), (200, &*image.manifest.bytes), "{what}");
        }
        assert_eq!(breaker(&mirror).await, 0.0, "{what}");
        storage.up().await;
        storage.on("*").clear();
        let (image, repository) = (Image::small(70), "team/later");
        up.push_image(repository, "latest", &image);
        mirror.pull(repository, "latest", &image).await;
    }
}
