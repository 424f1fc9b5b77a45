//! What is another private upstream's. Alice's registry checks nothing of what manifests name.

use serde_json::json;

use super::*;
use crate::support::image::Builder;
use crate::support::until;

const HERS: &str = "multi.example/team-a/app";
const HIS: &str = "secret.example/app";

struct Tenants {
    multi: Upstream,
    secret: Upstream,
    mirror: Mirror,
    /// Bob's, at secret.example alone.
    image: Image,
}

impl Tenants {
    /// Alice's manifest names everything of Bob's image, its manifest, too, as layers.
    async fn new(visibility: &str, fields: &Value) -> Self {
        let (multi, secret) = (Upstream::start().await, Upstream::start().await);
        let image = Builder::new(1).layer(300_000).layer(2_000).build();
        secret.push_image("app", "1", &image);
        let named = image.blobs().chain([&image.manifest]).map(|blob| with(blob.descriptor(), fields));
        manifest_naming(&multi, "team-a/app", "x", named.collect());
        let mirror = Mirror::with(&Upstream::start().await, |settings| {
            guard(settings, "multi.example", &multi, visibility, &[("alice", &["team-a/app"])]);
            guard(settings, "secret.example", &secret, visibility, &[("bob", &["app"])]);
        })
        .await;
        let hers = get_as(&mirror, "alice", &manifest_path(HERS, "x")).await;
        assert_eq!(hers.status(), 200, "{}", hers.text());
        Self { multi, secret, mirror, image }
    }

    fn mark(&self, blob: &Blob) -> Option<String> {
        std::fs::read_to_string(self.mirror.files().root().join("private").join(blob.digest.file_name())).ok()
    }
}

/// Ordinary layers, and those that registries take without having them.
fn namings() -> [Value; 2] {
    [json!({}), json!({ "urls": ["https://x.example/layer"] })]
}

/// She asks before it is here: her upstream's 404 must leave nothing that makes it hers once it comes.
#[tokio::test]
async fn what_was_asked_for_before_it_came_is_nobody_elses() {
    for visibility in VISIBILITIES {
        for fields in namings() {
            for restarts in [false, true] {
                let mut this = Tenants::new(visibility, &fields).await;
                let when = |moment: &str| format!("{visibility} {fields} {restarts} {moment}");
                assert_closed(&this.mirror, HERS, &this.image, 404, &when("before it is here")).await;
                for blob in this.image.blobs().chain([&this.image.manifest]) {
                    assert_eq!(this.mark(blob), None, "{}", when("nothing came, and nothing is here"));
                }
                if restarts {
                    this.mirror = this.mirror.restart().await;
                }
                pull_as(&this.mirror, "bob", HIS, "1", &this.image).await;
                for blob in this.image.blobs().chain([&this.image.manifest]) {
                    // A moment after its last byte.
                    until(&when("it came"), || this.mark(blob).as_deref() == Some("secret.example")).await;
                }
                assert_closed(&this.mirror, HERS, &this.image, 404, &when("when it is here")).await;
                this.mirror = this.mirror.restart().await;
                assert_closed(&this.mirror, HERS, &this.image, 404, &when("after a restart")).await;
                this.multi.down().await;
                this.secret.down().await;
                assert_closed(&this.mirror, HERS, &this.image, 503, &when("with nobody to ask")).await;
            }
        }
    }
}

/// While his download runs, and while hers waits for its answer.
#[tokio::test]
async fn a_download_under_way_opens_nothing_elsewhere() {
    for visibility in VISIBILITIES {
        let this = Tenants::new(visibility, &json!({})).await;
        let layer = &this.image.layers[0];
        let (his, hers, bob, alice) =
            (blob_path(HIS, layer), blob_path(HERS, layer), basic("bob", "word"), basic("alice", "word"));
        let (bob, alice) = ([("Authorization", bob.as_str())], [("Authorization", alice.as_str())]);
        assert_eq!(get_as(&this.mirror, "bob", &manifest_path(HIS, "1")).await.status(), 200);
        // Hers begins first, and his joins it: hers fails, and he has one of his own.
        let gate = this.multi.gate_head(&format!("GET {}", blob_path("team-a/app", layer)));
        let address = this.mirror.address();
        let (refused, got) = tokio::join!(client::get(address, &hers, &alice), async {
            gate.arrived(1).await;
            tokio::join!(client::get(address, &his, &bob), async {
                this.secret.asked(&format!("GET {}", blob_path("app", layer)), 1).await;
                gate.open();
            })
            .0
        });
        super::super::assert_nothing_of(&refused, &this.image, visibility);
        got.assert_is(layer);
        assert_closed(&this.mirror, HERS, &this.image, 404, visibility).await;

        // His begins first.
        let this = Tenants::new(visibility, &json!({})).await;
        assert_eq!(get_as(&this.mirror, "bob", &manifest_path(HIS, "1")).await.status(), 200);
        let gate = this.secret.gate(&format!("GET {}", blob_path("app", layer)));
        let mut first = client::open(this.mirror.address(), &his, &bob).await;
        gate.pass(150_000);
        assert_eq!(first.read(50_000).await, &layer.bytes[..50_000]);
        assert_closed(&this.mirror, HERS, &this.image, 404, visibility).await;
        gate.open();
        assert_eq!(first.rest().await.body.len(), 250_000);
        assert_closed(&this.mirror, HERS, &this.image, 404, visibility).await;
    }
}

/// A process that ends in the middle leaves what it has closed, and nobody's: neither she nor he has it without being asked.
#[tokio::test]
async fn what_a_crash_leaves_is_closed_and_nobodys() {
    let this = Tenants::new("operator", &json!({})).await;
    let layer = &this.image.layers[0].clone();
    assert_eq!(this.mirror.get(&manifest_path(HIS, "1")).await.status(), 200);
    let gate = this.secret.gate(&format!("GET {}", blob_path("app", layer)));
    let mut first = this.mirror.open(&blob_path(HIS, layer)).await;
    gate.pass(150_000);
    assert_eq!(first.read(50_000).await, &layer.bytes[..50_000]);
    assert_eq!(this.mark(layer).as_deref(), Some(""), "it proves nothing yet");
    let Tenants { multi: _multi, secret, mirror, image } = this;
    let mirror = mirror.restart().await;
    drop(first);
    gate.open();
    assert_eq!(mirror.files().ingests(), 1);
    assert_closed(&mirror, HERS, &image, 404, "what is left of it").await;
    assert_closed(&mirror, "library/base", &image, 404, "what is left of it").await;
    let sent = secret.sent("GET */blobs/*");
    mirror.pull_blob(HIS, layer).await;
    assert!(secret.sent("GET */blobs/*") - sent < 300_000, "it goes on from there");
    assert_closed(&mirror, HERS, &image, 404, "when it is here").await;
}

/// What was everybody's becomes that of those whose repositories hold it, not of those whose manifests name it.
#[tokio::test]
async fn what_becomes_private_is_theirs_who_hold_it() {
    let (multi, secret) = (Upstream::start().await, Upstream::start().await);
    let image = Builder::new(1).layer(300_000).layer(2_000).build();
    secret.push_image("app", "1", &image);
    let named = image.blobs().chain([&image.manifest]).map(|blob| with(blob.descriptor(), &namings()[1]));
    manifest_naming(&multi, "team-a/app", "x", named.collect());
    let mut mirror = Mirror::with(&Upstream::start().await, |settings| {
        settings.add("multi.example", &multi).add("secret.example", &secret).set("freshness", "negative", "0s");
    })
    .await;
    assert_eq!(mirror.get(&manifest_path(HERS, "x")).await.status(), 200);
    mirror.pull(HIS, "1", &image).await;
    mirror
        .reload(|settings| {
            settings.upstream("multi.example", "visibility", "operator").upstream("secret.example", "visibility", "operator");
        })
        .await
        .unwrap();
    assert_closed(&mirror, HERS, &image, 404, "after a reload").await;
    secret.down().await;
    let mirror = mirror.restart().await;
    assert_closed(&mirror, HERS, &image, 404, "after a restart").await;
    mirror.pull(HIS, "1", &image).await;
}
