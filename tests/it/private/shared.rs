//! `visibility = "operator"`, and content that private and public upstreams share.

use super::{Private, SECRET, get_as, image};
use crate::support::image::{Builder, Index};
use crate::support::mirror::Mirror;
use crate::support::upstream::{Auth, Upstream, blob_path, manifest_path};

async fn operator(up: &Upstream, hub: &Upstream) -> Mirror {
    up.require(Auth::basic("operator", "word"));
    Mirror::with(hub, |settings| {
        let operator: toml::Table = "username = \"operator\"\npassword = \"word\"".parse().unwrap();
        settings.add("priv.example", up).upstream("priv.example", "credentials", operator);
    })
    .await
}

/// With credentials nothing else need be said: who may pull is served, and a repository only gives what it holds.
#[tokio::test]
async fn with_credentials_a_digest_alone_opens_nothing() {
    let (up, hub) = (Upstream::start().await, Upstream::start().await);
    let (arm, amd) = (Builder::new(1).layer(300_000).platform("linux", "arm64").build(), Builder::new(2).layer(1_000).build());
    let index = Index::oci(vec![arm.clone(), amd]);
    up.push_index("team/app", "latest", &index);
    up.push_image("team/other", "latest", &image(9));
    hub.push_image("library/base", "latest", &image(5));
    let mirror = operator(&up, &hub).await;
    assert_eq!(mirror.get(&manifest_path("priv.example/team/app", "latest")).await.status(), 200);
    assert_eq!(mirror.get(&manifest_path("priv.example/team/app", arm.manifest.digest)).await.status(), 200);
    mirror.pull_blob("priv.example/team/app", &arm.layers[0]).await;
    // The upstream gave each thing once: the manifests told what the repository holds.
    assert_eq!(up.count(&format!("GET {}", blob_path("team/app", &arm.layers[0]))), 1);
    for blob in [&arm.layers[0], &arm.config] {
        assert_eq!(mirror.get(&blob_path("priv.example/team/other", blob)).await.status(), 404);
        assert_eq!(mirror.get(&blob_path("library/base", blob)).await.status(), 404);
    }
    assert_eq!(mirror.get(&manifest_path("priv.example/team/other", arm.manifest.digest)).await.status(), 404);
    assert_eq!(mirror.get(&manifest_path("library/base", arm.manifest.digest)).await.status(), 404);
    // Restarted, and with nobody to ask: what belongs to the repository is known from the disk.
    up.down().await;
    hub.down().await;
    let mirror = mirror.restart().await;
    mirror.pull_blob("priv.example/team/app", &arm.layers[0]).await;
    let child = mirror.get(&manifest_path("priv.example/team/app", arm.manifest.digest)).await;
    assert_eq!(&*child.body, &*arm.manifest.bytes);
    for repository in ["priv.example/team/other", "library/base"] {
        let answer = mirror.get(&blob_path(repository, &arm.layers[0])).await;
        assert_eq!(answer.status(), 503, "{}", answer.text());
    }
}

/// What a public upstream has, too, it opens with its own word, once; what it brought itself was never closed.
#[tokio::test]
async fn public_upstreams_share_as_before() {
    let (up, hub, quay) = (Upstream::start().await, Upstream::start().await, Upstream::start().await);
    let (first, second) = (image(1), image(2));
    up.push_image("team/app", "first", &first);
    up.push_image("team/app", "second", &second);
    for public in [&hub, &quay] {
        public.push_image("library/base", "first", &first);
        public.push_image("library/base", "second", &second);
    }
    up.require(Auth::basic("operator", "word"));
    let mirror = Mirror::with(&hub, |settings| {
        let operator: toml::Table = "username = \"operator\"\npassword = \"word\"".parse().unwrap();
        settings.add("priv.example", &up).upstream("priv.example", "credentials", operator);
        settings.add("quay.io", &quay);
    })
    .await;
    // Public first: the other public one is not asked for a blob, nor is the first one again.
    mirror.pull("library/base", "first", &first).await;
    mirror.pull("priv.example/team/app", "first", &first).await;
    mirror.pull("library/base", "first", &first).await;
    mirror.pull("quay.io/library/base", "first", &first).await;
    assert_eq!((hub.count("GET */blobs/*"), up.count("GET */blobs/*"), quay.count("GET */blobs/*")), (3, 0, 0));
    // Private first: one word of a public one for each thing, and no second download.
    mirror.pull("priv.example/team/app", "second", &second).await;
    let sent = hub.sent("GET */blobs/*");
    mirror.pull("library/base", "second", &second).await;
    assert_eq!(hub.sent("GET */blobs/*") - sent, 3, "the first byte of each blob");
    let asked = (hub.count("*/blobs/*"), quay.count("*/blobs/*"));
    mirror.pull("library/base", "second", &second).await;
    mirror.pull("quay.io/library/base", "second", &second).await;
    assert_eq!((hub.count("*/blobs/*"), quay.count("*/blobs/*")), asked);
    let mirror = mirror.restart().await;
    mirror.pull("quay.io/library/base", "second", &second).await;
    assert_eq!((hub.count("*/blobs/*"), quay.count("*/blobs/*")), asked, "it was written down");
}

/// A cache from before its upstream was anybody's: what only that one's repositories name is closed at the next start.
#[tokio::test]
async fn what_was_public_can_become_private() {
    let this = Private::new(|settings| {
        settings.upstream("priv.example", "visibility", "public");
    })
    .await;
    this.up.require(None);
    for blob in this.secret.blobs() {
        let manifest = this.mirror.get(&manifest_path(SECRET, "latest")).await;
        assert_eq!(manifest.status(), 200);
        this.mirror.pull_blob(SECRET, blob).await;
        this.mirror.pull_blob("library/base", blob).await;
    }
    this.up.require(Auth::bearer(&this.up));
    let mirror = this
        .mirror
        .restart_with(|settings| {
            settings.upstream("priv.example", "visibility", "caller");
        })
        .await;
    crate::support::within("the catalog", async {
        while mirror.get(&blob_path("library/base", &this.secret.layers[0])).await.status() == 200 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    })
    .await;
    for blob in this.secret.blobs() {
        assert_eq!(mirror.get(&blob_path("library/base", blob)).await.status(), 404);
        assert_eq!(mirror.get(&blob_path(SECRET, blob)).await.status(), 401);
        get_as(&mirror, "alice", &blob_path(SECRET, blob)).await.assert_is(blob);
    }
}
