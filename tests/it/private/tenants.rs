//! Two tenants of one mirror. Alice knows every digest of Bob's, and pushes whatever her registry takes: manifests that name what is
//! his. She pulls them, and asks for what they name.

mod elsewhere;
mod named;
mod owned;

use roadstead::oci::Algorithm;
use serde_json::{Value, json};

use super::{basic, get_as};
use crate::support::client::{self, Response};
use crate::support::image::{Blob, Image, OCI_INDEX, OCI_MANIFEST, document, random};
use crate::support::mirror::{Mirror, Settings};
use crate::support::upstream::{Accounts, Auth, Upstream, blob_path, manifest_path};

/// Whoever the operator's rules let in; and whoever the upstream itself lets read the repository.
const VISIBILITIES: [&str; 2] = ["operator", "caller"];

/// Makes a registry one that only some may read: `users`, each with their repositories.
fn guard(settings: &mut Settings, name: &str, up: &Upstream, visibility: &str, users: &[(&str, &[&str])]) {
    if visibility == "caller" {
        let accounts = Accounts::default();
        for (user, repositories) in users {
            accounts.set(user, "word", repositories);
        }
        up.require(Auth::basic_of(&accounts));
        settings.upstream(name, "verdict_for", "1h");
    }
    settings.add(name, up).upstream(name, "visibility", visibility).set("freshness", "negative", "0s");
}

/// A config and a layer of Alice's own, and a manifest of these with what is added to its layers.
fn manifest_naming(up: &Upstream, repository: &str, tag: &str, named: Vec<Value>) -> Blob {
    let config = Blob::new("application/vnd.oci.image.config.v1+json", &b"{\"os\":\"linux\",\"architecture\":\"arm64\"}"[..]);
    up.push_blob(repository, &config);
    push(
        up,
        repository,
        tag,
        OCI_MANIFEST,
        json!({ "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config.descriptor(), "layers": named }),
    )
}

fn push(up: &Upstream, repository: &str, tag: &str, media_type: &str, value: Value) -> Blob {
    let manifest = document(Algorithm::Sha256, media_type, &value);
    up.push_manifest(repository, &manifest);
    up.tag(repository, tag, &manifest.digest);
    manifest
}

/// A descriptor with further fields.
fn with(mut descriptor: Value, fields: &Value) -> Value {
    descriptor.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    descriptor
}

/// Every way to ask for a digest.
async fn ask_every_way(mirror: &Mirror, user: &str, repository: &str, blob: &Blob) -> Vec<(String, Response)> {
    let login = basic(user, "word");
    let mut answers = Vec::new();
    for path in [blob_path(repository, blob), manifest_path(repository, blob.digest)] {
        let whole = [("Authorization", login.as_str())];
        let ranged = [("Authorization", login.as_str()), ("Range", "bytes=0-9")];
        answers.push((format!("GET {path}"), client::get(mirror.address(), &path, &whole).await));
        answers.push((format!("HEAD {path}"), client::head(mirror.address(), &path, &whole).await));
        answers.push((format!("a range of {path}"), client::get(mirror.address(), &path, &ranged).await));
    }
    answers
}

/// Alice gets nothing of Bob's image through her repository, however she asks.
async fn assert_closed(mirror: &Mirror, repository: &str, image: &Image, expected: u16, when: &str) {
    for blob in image.blobs().chain([&image.manifest]) {
        for (how, answer) in ask_every_way(mirror, "alice", repository, blob).await {
            super::assert_nothing_of(&answer, image, &format!("{when}: {how}"));
            assert_eq!(answer.status(), expected, "{when}: {how}: {}", answer.text());
        }
    }
}

/// Whoever may gets all of an image.
async fn pull_as(mirror: &Mirror, user: &str, repository: &str, tag: &str, image: &Image) {
    let manifest = get_as(mirror, user, &manifest_path(repository, tag)).await;
    assert_eq!((manifest.status(), &*manifest.body), (200, &*image.manifest.bytes), "{}", manifest.text());
    for blob in image.blobs() {
        get_as(mirror, user, &blob_path(repository, blob)).await.assert_is(blob);
    }
}
