//! Several private upstreams that share content: each serves what it holds when there is nobody left to ask.

use super::bundles::{bundle, send};
use crate::support::image::{Builder, Image};
use crate::support::mirror::{Mirror, Settings};
use crate::support::upstream::{Upstream, blob_path, manifest_path};

const REPOSITORIES: [&str; 2] = ["a.example/team/app", "b.example/team/svc"];

/// Two images on the same base layer; all else is each one's own.
fn images() -> [Image; 2] {
    let base = || Builder::new(1).layer(300_000);
    let images = [base().layer(2_000).build(), base().layer(1_000).platform("linux", "arm64").build()];
    assert_eq!(images[0].layers[0].digest, images[1].layers[0].digest);
    assert_ne!(images[0].layers[1].digest, images[1].layers[1].digest);
    images
}

fn guard(settings: &mut Settings, upstream: &Upstream) {
    for name in ["a.example", "b.example"] {
        settings.add(name, upstream).upstream(name, "visibility", "operator");
    }
}

/// Both images are whole; and what is one's own is closed to the other one and to everybody else.
async fn assert_each_holds_its_own(mirror: &Mirror, images: &[Image; 2]) {
    for (repository, image) in REPOSITORIES.iter().zip(images) {
        mirror.pull(repository, "latest", image).await;
    }
    for (repository, other) in REPOSITORIES.iter().zip(images.iter().rev()) {
        for blob in [&other.layers[1], &other.config] {
            assert_eq!(mirror.get(&blob_path(repository, blob)).await.status(), 404);
        }
        assert_eq!(mirror.get(&manifest_path(repository, other.manifest.digest)).await.status(), 404);
    }
    for blob in images.iter().flat_map(Image::blobs) {
        assert_eq!(mirror.get(&blob_path("library/base", blob)).await.status(), 404);
    }
}

/// In two bundles, in either order, or in one.
#[tokio::test]
async fn a_layer_that_bundles_bring_for_two_is_both_s() {
    let (up, images) = (Upstream::start().await, images());
    let named: Vec<_> = REPOSITORIES.iter().zip(&images).map(|(name, image)| (format!("{name}:latest"), image.clone())).collect();
    let [one, two] = [bundle(&named[..1]), bundle(&named[1..])];
    for bundles in [vec![&one, &two], vec![&two, &one], vec![&bundle(&named)]] {
        let mirror = Mirror::with(&up, |settings| {
            guard(settings, &up);
            settings.set("cache", "offline", true);
        })
        .await;
        for bundle in bundles {
            let answer = send(mirror.admin_address(), bundle, bundle.len()).await.answer("POST").await.unwrap().rest().await;
            assert_eq!(answer.status(), 200, "{}", answer.text());
        }
        assert_each_holds_its_own(&mirror, &images).await;
        assert_each_holds_its_own(&mirror.restart().await, &images).await;
    }
    assert_eq!(up.count("*"), 0);
}

/// The second one's word that it has the layer, too, outlives the process; a manifest that names what its registry does not
/// have is no such word.
#[tokio::test]
async fn a_layer_that_was_pulled_from_two_is_both_s_after_a_restart() {
    let (first, second, images) = (Upstream::start().await, Upstream::start().await, images());
    first.push_image("team/app", "latest", &images[0]);
    second.push_image("team/svc", "latest", &images[1]);
    second.push_manifest("evil/image", &images[0].manifest);
    second.tag("evil/image", "latest", &images[0].manifest.digest);
    let mirror = Mirror::with(&first, |settings| {
        guard(settings, &first);
        settings.add("b.example", &second).set("freshness", "negative", "0s");
    })
    .await;
    for (repository, image) in REPOSITORIES.iter().zip(&images) {
        mirror.pull(repository, "latest", image).await;
    }
    assert_eq!(second.count(&format!("GET {}", blob_path("team/svc", &images[1].layers[0]))), 1, "for one byte");
    let evil = "b.example/evil/image";
    assert_eq!(mirror.get(&manifest_path(evil, "latest")).await.status(), 200);
    let own = [&images[0].layers[1], &images[0].config];
    for blob in own {
        assert_eq!(mirror.get(&blob_path(evil, blob)).await.status(), 404);
    }
    let mirror = mirror
        .restart_with(|settings| {
            settings.set("cache", "offline", true);
        })
        .await;
    let asked = (first.count("*"), second.count("*"));
    for (repository, image) in REPOSITORIES.iter().zip(&images) {
        mirror.pull(repository, "latest", image).await;
    }
    for blob in own {
        assert_eq!(mirror.get(&blob_path(evil, blob)).await.status(), 404);
        assert_eq!(mirror.get(&blob_path("library/base", blob)).await.status(), 404);
    }
    assert_eq!((first.count("*"), second.count("*")), asked);
}
