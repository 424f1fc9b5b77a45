//! Other upstreams while the mirror runs: what SIGHUP takes besides rules and certificates, which have tests of their own
//! (`access/reload.rs`, `tls/reload.rs`).

use crate::outages::offline::switch;
use crate::support::client::{self, End};
use crate::support::image::{Blob, Image};
use crate::support::mirror::{Mirror, Settings};
use crate::support::upstream::{Act, Auth, Gate, Upstream, blob_path, manifest_path};

const ALPINE: &str = "library/alpine";

/// From now on docker.io is another registry.
async fn take_place(mirror: &mut Mirror, new: &Upstream) {
    let changed = mirror.reload(|settings| {
        settings.add("docker.io", new);
    });
    changed.await.unwrap();
}

fn login(password: &str) -> toml::Table {
    toml::Table::from_iter([("username".to_owned(), "ci".into()), ("password".to_owned(), password.into())])
}

#[tokio::test]
async fn upstreams_come_and_go() {
    let (hub, new) = (Upstream::start().await, Upstream::start().await);
    let image = Image::small(1);
    new.push_image("acme/app", "1", &image);
    let path = manifest_path("new.example/acme/app", "1");
    let mut mirror = Mirror::of(&hub).await;
    assert_eq!(mirror.get(&path).await.status(), 404, "nobody knows it");

    mirror
        .reload(|settings| {
            settings.add("new.example", &new).upstream("new.example", "hosts", vec!["mirror.example"]);
        })
        .await
        .unwrap();
    assert_eq!(&*mirror.get(&path).await.body, &*image.manifest.bytes);
    let by_host = mirror.get_with(&manifest_path("acme/app", "1"), &[("Host", "mirror.example")]).await;
    assert_eq!(&*by_host.body, &*image.manifest.bytes);
    let text = mirror.admin("/metrics").await.text();
    assert!(text.contains("roadstead_upstream_offline{upstream=\"new.example\"} 0"), "{text}");
    assert!(text.contains("roadstead_digest_mismatches_total{upstream=\"new.example\"} 0"), "{text}");
    assert!(mirror.admin("/api/v1/upstreams").await.text().contains("new.example"));

    mirror
        .reload(|settings| {
            settings.forget("new.example");
        })
        .await
        .unwrap();
    assert_eq!(mirror.get(&path).await.status(), 404);
    let text = mirror.admin("/metrics").await.text();
    for gauge in ["upstream_offline", "upstream_breaker", "upstream_requests_running"] {
        let stays = text.lines().any(|line| line.starts_with(&format!("roadstead_{gauge}{{")) && line.contains("new.example"));
        assert!(!stays, "an alert would stand on it for ever: {text}");
    }
    assert!(!mirror.admin("/api/v1/upstreams").await.text().contains("new.example"));
}

#[tokio::test]
async fn a_new_password_is_used_and_the_rest_stays_as_it_is() {
    let (hub, up) = (Upstream::start().await, Upstream::start().await);
    let (first, second) = (Image::small(1), Image::small(2));
    for (tag, image) in [("1", &first), ("2", &second)] {
        up.push_image("team/app", tag, image);
        hub.push_image(ALPINE, tag, image);
    }
    up.require(Auth::basic("ci", "old"));
    hub.on("/v2/library/alpine/manifests/*").then(Act::honest().header("ratelimit-remaining", "76;w=21600"));
    let mut mirror = Mirror::with(&hub, |settings| {
        settings.add("priv.example", &up).upstream("priv.example", "credentials", login("old"));
    })
    .await;
    mirror.pull("priv.example/team/app", "1", &first).await;
    assert_eq!(mirror.get(&manifest_path(ALPINE, "1")).await.status(), 200);
    up.require(Auth::basic("ci", "new"));
    assert_eq!(mirror.get(&manifest_path("priv.example/team/app", "2")).await.status(), 503);

    mirror
        .reload(|settings| {
            settings.upstream("priv.example", "credentials", login("new"));
        })
        .await
        .unwrap();
    mirror.pull("priv.example/team/app", "2", &second).await;
    assert_eq!(mirror.get(&manifest_path(ALPINE, "2")).await.status(), 200);
    let quota = mirror.metric("roadstead_upstream_ratelimit_remaining", &[("upstream", "docker.io")]).await;
    assert_eq!(quota, 76.0, "what did not change is the same upstream, with all that is known of it");
}

/// A download that has begun at one address ends there, whatever the configuration says by then.
#[tokio::test]
async fn a_download_goes_on_where_it_began() {
    let (old, new) = (Upstream::start().await, Upstream::start().await);
    let (blob, other) = (Blob::random(1, 3 << 20), Blob::random(2, 1000));
    old.push_blob(ALPINE, &blob);
    new.push_blob(ALPINE, &other);
    let path = blob_path(ALPINE, &blob);
    let gate = old.gate(&format!("GET {path}"));
    let mut mirror = Mirror::of(&old).await;
    gate.pass(1 << 20);
    let mut download = mirror.open(&path).await;
    assert_eq!(download.read(1000).await, &blob.bytes[..1000]);
    take_place(&mut mirror, &new).await;
    mirror.pull_blob(ALPINE, &other).await;
    gate.open();
    let rest = download.rest().await;
    assert!(rest.end == End::Complete && rest.body == blob.bytes[1000..]);
    mirror.pull_blob(ALPINE, &blob).await;
    assert_eq!((old.count(&path), new.count(&path)), (1, 0));
}

#[tokio::test]
async fn freshness_and_the_switch() {
    let up = Upstream::start().await;
    let (first, second) = (Image::small(1), Image::small(2));
    up.push_image(ALPINE, "latest", &first);
    let mut mirror = Mirror::with(&up, |settings| {
        settings.set("freshness", "fresh_for", "1h");
    })
    .await;
    let path = manifest_path(ALPINE, "latest");
    assert_eq!(&*mirror.get(&path).await.body, &*first.manifest.bytes);
    up.push_image(ALPINE, "latest", &second);
    assert_eq!(&*mirror.get(&path).await.body, &*first.manifest.bytes);
    mirror
        .reload(|settings| {
            settings.set("freshness", "fresh_for", "0s");
        })
        .await
        .unwrap();
    assert_eq!(&*mirror.get(&path).await.body, &*second.manifest.bytes);

    // What an operator has switched stays, until the configuration says something new of it.
    let offline = async |mirror: &Mirror| mirror.metric("roadstead_upstream_offline", &[("upstream", "docker.io")]).await;
    switch(&mirror, true).await;
    assert_eq!(offline(&mirror).await, 1.0);
    for (key, value, switched) in [("parallel", 2.into(), 1.0), ("offline", true.into(), 1.0), ("offline", false.into(), 0.0)] {
        mirror
            .reload(|settings| {
                settings.hub(key, toml::Value::clone(&value));
            })
            .await
            .unwrap();
        assert_eq!(offline(&mirror).await, switched, "{key} = {value}");
    }
}

/// From the moment on at which an upstream is private, a digest of it opens nothing elsewhere.
#[tokio::test]
async fn what_becomes_private_is_so_at_once() {
    let (hub, up) = (Upstream::start().await, Upstream::start().await);
    let image = Image::small(7);
    up.push_image("team/app", "1", &image);
    hub.push_image(ALPINE, "1", &Image::small(8));
    let mut mirror = Mirror::with(&hub, |settings| {
        settings.add("priv.example", &up);
    })
    .await;
    mirror.pull("priv.example/team/app", "1", &image).await;
    mirror.pull_blob(ALPINE, &image.layers[0]).await;
    mirror
        .reload(|settings| {
            settings.upstream("priv.example", "visibility", "operator");
        })
        .await
        .unwrap();
    for path in [blob_path(ALPINE, &image.layers[0]), manifest_path(ALPINE, image.manifest.digest)] {
        assert_eq!(mirror.get(&path).await.status(), 404, "{path}");
    }
    mirror.pull("priv.example/team/app", "1", &image).await;
}

/// What was on its way at that moment is private, too: who joins it, and who finds it, is asked whose it is; also in the next
/// process.
#[tokio::test]
async fn what_is_underway_becomes_private_with_its_upstream() {
    let (hub, up) = (Upstream::start().await, Upstream::start().await);
    let ([layer, alone], image) = ([1, 2].map(|seed| Blob::random(seed, 300_000)), Image::small(7));
    up.push_image("team/app", "1", &image);
    up.push_blob("team/app", &layer);
    up.push_blob("team/app", &alone);
    hub.push_image(ALPINE, "1", &Image::small(8));
    let mut mirror = Mirror::with(&hub, |settings| {
        settings.add("priv.example", &up).set("freshness", "negative", "0s");
    })
    .await;
    // Of a layer that came before, nobody knows yet whose it is: only the manifest will tell.
    let earlier = &image.layers[0];
    mirror.pull_blob("priv.example/team/app", earlier).await;
    let bodies = [&layer, &alone].map(|blob| up.gate(&format!("GET {}", blob_path("team/app", blob))));
    let manifest = up.gate_head(&format!("GET {}", manifest_path("team/app", image.manifest.digest)));
    let address = mirror.address();
    let of_manifest = tokio::spawn({
        let path = manifest_path("priv.example/team/app", image.manifest.digest);
        async move { client::get(address, &path, &[]).await }
    });
    let download = mirror.open(&blob_path("priv.example/team/app", &layer)).await;
    let other = mirror.open(&blob_path("priv.example/team/app", &alone)).await;
    manifest.arrived(1).await;
    mirror
        .reload(|settings| {
            settings.upstream("priv.example", "visibility", "operator");
        })
        .await
        .unwrap();
    let manifest_elsewhere = manifest_path(ALPINE, image.manifest.digest);
    let all = [&layer, &alone, earlier].map(|blob| blob_path(ALPINE, blob)).into_iter().chain([manifest_elsewhere]);
    let all: Vec<String> = all.collect();
    assert_eq!(mirror.get(&all[0]).await.status(), 404, "who joins it gets nothing");
    bodies.iter().for_each(Gate::open);
    manifest.open();
    assert_eq!(download.rest().await.body, layer.bytes);
    assert_eq!(other.rest().await.body, alone.bytes);
    assert_eq!(&*of_manifest.await.unwrap().body, &*image.manifest.bytes);
    mirror.files().get(&layer).await;
    mirror.files().get(&alone).await;
    for path in &all {
        assert_eq!(mirror.get(path).await.status(), 404, "{path}");
    }
    let mirror = mirror.restart().await;
    for path in &all {
        assert_eq!(mirror.get(path).await.status(), 404, "{path}, after a restart");
    }
    mirror.pull_blob("priv.example/team/app", &layer).await;
    mirror.pull("priv.example/team/app", "1", &image).await;
}

/// A file that the configuration names is read again, although the name is the same.
#[tokio::test]
async fn roots_are_read_again() {
    let (hub, up) = (Upstream::start().await, Upstream::start_tls().await);
    let (folder, image) = (tempfile::tempdir().unwrap(), Image::small(3));
    up.push_image("team/app", "1", &image);
    let root = folder.path().join("root.pem");
    let other = Upstream::start_tls().await;
    std::fs::write(&root, other.root()).unwrap();
    let with_root = |settings: &mut Settings| {
        settings.add("tls.example", &up).upstream("tls.example", "ca", root.to_str().unwrap());
    };
    let mut mirror = Mirror::with(&hub, with_root).await;
    let path = manifest_path("tls.example/team/app", "1");
    assert_eq!(mirror.get(&path).await.status(), 503, "another authority's");
    std::fs::write(&root, up.root()).unwrap();
    mirror.reload(|_| {}).await.unwrap();
    assert_eq!(&*mirror.get(&path).await.body, &*image.manifest.bytes);
}

/// Who asks after the change waits for no answer of the old upstream, and what that had not is asked for anew.
#[tokio::test]
async fn what_the_old_one_said_or_will_say_does_not_count() {
    let (old, new) = (Upstream::start().await, Upstream::start().await);
    let (image, layer) = (Image::small(1), Blob::random(1, 1000));
    new.push_image(ALPINE, "latest", &image);
    new.push_image(ALPINE, "1", &image);
    new.push_blob(ALPINE, &layer);
    let mut mirror = Mirror::with(&old, |settings| {
        settings.set("freshness", "negative", "1h");
    })
    .await;
    let (latest, one) = (manifest_path(ALPINE, "latest"), manifest_path(ALPINE, "1"));
    assert_eq!(mirror.get(&one).await.status(), 404);
    let layer_path = blob_path(ALPINE, &layer);
    let gates = [old.gate_head(&format!("HEAD {latest}")), old.gate_head(&format!("GET {layer_path}"))];
    let address = mirror.address();
    let waiting = [&latest, &layer_path].map(|path| {
        let path = path.clone();
        tokio::spawn(async move { client::get(address, &path, &[]).await.status() })
    });
    for gate in &gates {
        gate.arrived(1).await;
    }
    take_place(&mut mirror, &new).await;
    for path in [&latest, &one] {
        assert_eq!(&*mirror.get(path).await.body, &*image.manifest.bytes, "{path}");
    }
    for (gate, waiting) in gates.iter().zip(waiting) {
        gate.open();
        assert_eq!(waiting.await.unwrap(), 404, "it had asked the old one");
    }
    assert_eq!(&*mirror.get(&latest).await.body, &*image.manifest.bytes, "which is believed nothing");
    assert_eq!(new.count(&format!("HEAD {latest}")), 1, "what the new one has said is known yet");
    mirror.pull_blob(ALPINE, &layer).await;
}

/// The old one has named a manifest, and the new one is asked for it: what that one has for the tag is the answer.
#[tokio::test]
async fn an_upstream_that_changes_between_its_head_and_its_get() {
    let (old, new) = (Upstream::start().await, Upstream::start().await);
    let (before, after) = (Image::small(1), Image::small(2));
    old.push_image(ALPINE, "latest", &before);
    new.push_image(ALPINE, "latest", &after);
    let path = manifest_path(ALPINE, "latest");
    let gate = old.gate_head(&format!("HEAD {path}"));
    let mut mirror = Mirror::of(&old).await;
    let (address, asked) = (mirror.address(), path.clone());
    let waiting = tokio::spawn(async move { client::get(address, &asked, &[]).await });
    gate.arrived(1).await;
    take_place(&mut mirror, &new).await;
    gate.open();
    let answer = waiting.await.unwrap();
    assert_eq!((answer.status(), &*answer.body), (200, &*after.manifest.bytes), "{}", answer.text());
}

/// A request that was under way when its upstream was taken out is told so; and of what is gone no figure stays.
#[tokio::test]
async fn an_upstream_that_goes_in_the_middle_of_a_request() {
    let (hub, gone) = (Upstream::start().await, Upstream::start().await);
    gone.push_image("acme/app", "1", &Image::small(1));
    let path = manifest_path("acme/app", "1");
    gone.on(&path).then(Act::honest().header("ratelimit-remaining", "76;w=21600"));
    let gate = gone.gate_head(&format!("HEAD {path}"));
    let mut mirror = Mirror::with(&hub, |settings| {
        settings.add("gone.example", &gone);
    })
    .await;
    let address = mirror.address();
    let waiting = tokio::spawn(async move {
        let path = manifest_path("gone.example/acme/app", "1");
        client::get(address, &path, &[]).await
    });
    gate.arrived(1).await;
    mirror
        .reload(|settings| {
            settings.forget("gone.example");
        })
        .await
        .unwrap();
    gate.open();
    let answer = waiting.await.unwrap();
    assert_eq!((answer.status(), &*answer.error_code()), (404, "NAME_UNKNOWN"), "{}", answer.text());
    let text = mirror.admin("/metrics").await.text();
    assert!(!text.contains("ratelimit_remaining{upstream=\"gone.example\"}"), "{text}");
}

/// The switch is for all that was begun, also with the upstream as it was before.
#[tokio::test]
async fn the_switch_reaches_what_began_before() {
    let up = Upstream::start().await;
    let blob = Blob::random(1, 3 << 20);
    up.push_blob(ALPINE, &blob);
    let path = blob_path(ALPINE, &blob);
    let gate = up.gate(&format!("GET {path}"));
    gate.pass(1 << 20);
    let mut mirror = Mirror::of(&up).await;
    let mut download = mirror.open(&path).await;
    assert_eq!(download.read(1000).await, &blob.bytes[..1000]);
    mirror
        .reload(|settings| {
            settings.hub("parallel", 2);
        })
        .await
        .unwrap();
    switch(&mirror, true).await;
    assert!(download.rest().await.end.is_broken(), "not one packet more");
    switch(&mirror, false).await;
    gate.open();
    mirror.pull_blob(ALPINE, &blob).await;
}
