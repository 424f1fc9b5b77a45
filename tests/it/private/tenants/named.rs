//! What is another repository's of the same private upstream, whose registry has it there alone.

use serde_json::json;

use super::*;
use crate::support::image::Builder;

const HERS: &str = "priv.example/team-a/app";
const HIS: &str = "priv.example/team-b/app";

struct Tenants {
    up: Upstream,
    mirror: Mirror,
    /// Bob's, in `team-b/app` alone.
    image: Image,
}

impl Tenants {
    async fn new(visibility: &str) -> Self {
        let up = Upstream::start().await;
        let image = Builder::new(1).layer(300_000).layer(2_000).build();
        up.push_image("team-b/app", "1", &image);
        let mirror = Mirror::with(&Upstream::start().await, |settings| {
            let users: [(&str, &[&str]); 2] = [("alice", &["team-a/app"]), ("bob", &["team-b/app"])];
            guard(settings, "priv.example", &up, visibility, &users);
        })
        .await;
        Self { up, mirror, image }
    }
}

/// What registries take without having the content in that repository: each with a tag.
fn push_all(up: &Upstream, image: &Image) -> Vec<&'static str> {
    let all = || image.blobs().chain([&image.manifest]);
    let urls = json!(["https://x.example/layer"]);
    let foreign = [
        ("urls", json!({ "urls": urls })),
        (
            "nondistributable",
            json!({ "mediaType": "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", "urls": urls }),
        ),
        ("without-urls", json!({ "mediaType": "application/vnd.oci.image.layer.nondistributable.v1.tar" })),
        ("foreign", json!({ "mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "urls": urls })),
        // Go's JSON takes these for what they look like.
        ("spelt", json!({ "URLs": urls })),
        ("type-spelt", json!({ "mediatype": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip" })),
        ("digest-spelt", json!({ "Digest": "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" })),
    ];
    let mut tags: Vec<&str> = foreign.iter().map(|(tag, _)| *tag).collect();
    for (tag, fields) in &foreign {
        manifest_naming(up, "team-a/app", tag, all().map(|blob| with(blob.descriptor(), fields)).collect());
    }
    // As a config that is elsewhere, and as the entries of an index.
    let config = with(image.config.descriptor(), &json!({ "urls": urls }));
    push(
        up,
        "team-a/app",
        "config",
        OCI_MANIFEST,
        json!({ "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": [] }),
    );
    let entries: Vec<Value> = all().map(Blob::descriptor).collect();
    push(up, "team-a/app", "index", OCI_INDEX, json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries }));
    // Of a kind that nobody knows, and so nobody checks.
    let kind = "application/vnd.example.thing+json";
    push(up, "team-a/app", "kind", kind, json!({ "schemaVersion": 2, "mediaType": kind, "layers": entries }));
    tags.extend(["config", "index", "kind"]);
    tags
}

/// None of her manifests opens anything, neither before nor after it came, nor in the next process.
#[tokio::test]
async fn a_manifest_opens_nothing_that_its_registry_may_lack() {
    for visibility in VISIBILITIES {
        for early in [true, false] {
            let mut this = Tenants::new(visibility).await;
            let tags = push_all(&this.up, &this.image);
            if !early {
                pull_as(&this.mirror, "bob", HIS, "1", &this.image).await;
            }
            for tag in &tags {
                let hers = get_as(&this.mirror, "alice", &manifest_path(HERS, tag)).await;
                assert_eq!(hers.status(), 200, "{tag}: {}", hers.text());
            }
            // Whether there is a signature of it, which is remembered with the manifest.
            let signature = format!("sha256-{}.sig", this.image.manifest.digest.hex());
            for when in ["at first", "again", "after a restart", "and once more"] {
                let when = format!("{visibility} {early} {when}");
                assert_eq!(get_as(&this.mirror, "alice", &manifest_path(HERS, &signature)).await.status(), 404);
                assert_closed(&this.mirror, HERS, &this.image, 404, &when).await;
                pull_as(&this.mirror, "bob", HIS, "1", &this.image).await;
                assert_closed(&this.mirror, HERS, &this.image, 404, &when).await;
                if when.ends_with("again") {
                    this.mirror = this.mirror.restart().await;
                }
            }
            this.up.down().await;
            let mirror = this.mirror.restart().await;
            assert_closed(&mirror, HERS, &this.image, 503, &format!("{visibility} {early} with nobody to ask")).await;
        }
    }
}

/// What is hers as a blob is no manifest of hers, whatever it says: registries look into no blob.
#[tokio::test]
async fn a_blob_is_no_manifest() {
    for visibility in VISIBILITIES {
        let mut this = Tenants::new(visibility).await;
        let forged = json!({ "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": this.image.config.descriptor(),
            "layers": this.image.layers.iter().map(Blob::descriptor).collect::<Vec<_>>(), "annotations": { "by": "alice" } });
        let forged = document(Algorithm::Sha256, OCI_MANIFEST, &forged);
        this.up.push_blob("team-a/app", &forged);
        manifest_naming(&this.up, "team-a/app", "x", vec![forged.descriptor()]);
        pull_as(&this.mirror, "bob", HIS, "1", &this.image).await;
        for named in [false, true] {
            if named {
                assert_eq!(get_as(&this.mirror, "alice", &manifest_path(HERS, "x")).await.status(), 200);
            }
            // Both at once: the answer to one question is none to the other.
            let (blob, manifest) = (blob_path(HERS, &forged), manifest_path(HERS, forged.digest));
            let (blob, manifest) = tokio::join!(get_as(&this.mirror, "alice", &blob), get_as(&this.mirror, "alice", &manifest));
            blob.assert_is(&forged);
            assert_eq!(manifest.status(), 404, "{visibility} {named}: {}", manifest.text());
            let manifest = get_as(&this.mirror, "alice", &manifest_path(HERS, forged.digest)).await;
            assert_eq!(manifest.status(), 404, "{visibility} {named}: {}", manifest.text());
            assert_closed(&this.mirror, HERS, &this.image, 404, visibility).await;
            this.mirror = this.mirror.restart().await;
            assert_closed(&this.mirror, HERS, &this.image, 404, visibility).await;
        }
    }
}

/// An operator who pins an image of hers does not say that she has all that it names.
#[tokio::test]
async fn a_pin_proves_nothing() {
    let this = Tenants::new("operator").await;
    push_all(&this.up, &this.image);
    this.mirror.pull(HIS, "1", &this.image).await;
    assert_eq!(this.mirror.get(&manifest_path(HERS, "index")).await.status(), 200);
    let path = format!("/api/v1/pin?ref={HERS}:index");
    let pinned = client::request(this.mirror.admin_address(), "POST", &path, &[]).await;
    assert_eq!(pinned.status(), 200, "{}", pinned.text());
    let mirror = this.mirror.restart().await;
    assert_closed(&mirror, HERS, &this.image, 404, "pinned").await;
}
