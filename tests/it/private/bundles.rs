//! What comes in a bundle is as private as what comes through its upstream.

use std::net::SocketAddr;

use serde_json::json;

use super::{Private, SECRET, assert_nothing_of, get_as};
use crate::support::client::Connection;
use crate::support::image::{Blob, Image};
use crate::support::mirror::{Mirror, Process};
use crate::support::upstream::{Upstream, blob_path, manifest_path};
use crate::support::within;

/// A tar of an image layout, its index first.
pub(super) fn bundle(images: &[(String, Image)]) -> Vec<u8> {
    let entry = |(name, image): &(String, Image)| {
        let mut entry = image.manifest.descriptor();
        entry["annotations"] = json!({ "org.opencontainers.image.ref.name": name });
        entry
    };
    let index = json!({ "schemaVersion": 2, "manifests": images.iter().map(entry).collect::<Vec<_>>() });
    let mut archive = tar::Builder::new(Vec::new());
    let mut append = |path: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, path, bytes).unwrap();
    };
    append("index.json", index.to_string().as_bytes());
    let mut seen = std::collections::HashSet::new();
    let blobs = images.iter().flat_map(|(_, image)| image.blobs().chain([&image.manifest]));
    blobs
        .filter(|blob| seen.insert(blob.digest))
        .for_each(|blob: &Blob| append(&format!("blobs/sha256/{}", blob.digest.hex()), &blob.bytes));
    archive.into_inner().unwrap()
}

/// Sends so much of a bundle.
pub(super) async fn send(admin: SocketAddr, bundle: &[u8], bytes: usize) -> Connection {
    let mut connection = Connection::open(admin).await;
    let length = bundle.len().to_string();
    connection.send("POST", "/api/v1/import", &[("Content-Length", length.as_str())]).await;
    connection.send_raw(&bundle[..bytes]).await;
    connection
}

async fn becomes(what: &str, mut is: impl AsyncFnMut() -> bool) {
    within(what, async {
        while !is().await {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// Not while the bundle comes, not after it broke off, not after a restart, and not when all of it is here.
#[tokio::test]
async fn a_bundle_is_confined_before_it_can_be_found() {
    let this = Private::new(|settings| {
        settings.set("freshness", "negative", "0s");
    })
    .await;
    // A manifest on the public registry that names the layers, which that registry does not have.
    this.hub.push_manifest("evil/image", &this.secret.manifest);
    this.hub.tag("evil/image", "latest", &this.secret.manifest.digest);
    let whole = bundle(&[(format!("{SECRET}:latest"), this.secret.clone())]);
    let layer = &this.secret.layers[0];
    let closed = async |mirror: &Mirror, when: &str| {
        for repository in ["library/base", "evil/image", "any/thing", SECRET, "priv.example/team/other"] {
            let answer = get_as(mirror, "mallory", &blob_path(repository, layer)).await;
            assert_nothing_of(&answer, &this.secret, &format!("{when}: {repository}"));
        }
    };
    let broken = send(this.mirror.admin_address(), &whole, whole.len() - 1024).await;
    becomes("the blobs", async || this.secret.blobs().all(|blob| this.mirror.files().has(blob))).await;
    closed(&this.mirror, "while it comes").await;
    drop(broken);
    becomes("the end of the import", async || {
        let answer = crate::support::client::request(this.mirror.admin_address(), "POST", "/api/v1/import", &[]).await;
        answer.status() != 409
    })
    .await;
    closed(&this.mirror, "after it broke off").await;
    let mirror = this.mirror.restart().await;
    closed(&mirror, "after a restart").await;
    assert!(mirror.files().has(layer), "the next one goes on from there");
    assert_eq!(mirror.get(&manifest_path("evil/image", "latest")).await.status(), 200);
    let answer = send(mirror.admin_address(), &whole, whole.len()).await.answer("POST").await.unwrap().rest().await;
    assert_eq!(answer.status(), 200, "{}", answer.text());
    closed(&mirror, "when it is here").await;
    let mirror = mirror.restart().await;
    closed(&mirror, "when it is here, after a restart").await;
    let sent = this.up.sent("GET */blobs/*");
    get_as(&mirror, "alice", &blob_path(SECRET, layer)).await.assert_is(layer);
    assert!(this.up.sent("GET */blobs/*") - sent < 100, "it is from the bundle: the upstream is asked for a byte");
}

/// What has been sent is wanted: who leaves after the last byte does not stop it half-way.
#[tokio::test]
async fn an_import_goes_on_without_its_client() {
    let up = Upstream::start().await;
    let mirror = Mirror::of(&up).await;
    let images: Vec<_> = (0..50).map(|n| (format!("docker.io/library/app{n}:1"), super::image(n))).collect();
    let whole = bundle(&images);
    drop(send(mirror.admin_address(), &whole, whole.len()).await);
    becomes("all images", async || {
        let listed = mirror.admin("/api/v1/images").await.json();
        listed["images"].as_array().is_some_and(|listed| listed.len() == images.len())
    })
    .await;
    let (name, image) = &images[images.len() - 1];
    mirror.pull(name.strip_suffix(":1").unwrap(), "1", image).await;
    assert_eq!(up.count("*/blobs/*"), 0);
}

/// SIGTERM waits for an import that has begun to set its tags; one that has not is ended, and told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_tears_no_import() {
    let up = Upstream::start().await;
    let images: Vec<_> = (0..300).map(|n| (format!("docker.io/library/app{n}:1"), Image::small(n))).collect();
    let whole = bundle(&images);
    for sent in [whole.len(), whole.len() - 1024] {
        let mirror = Process::with(&up, |_| {}).await;
        let _client = send(mirror.admin_address(), &whole, sent).await;
        let listed = async || mirror.admin("/api/v1/images").await.json()["images"].as_array().map_or(0, Vec::len);
        match sent == whole.len() {
            true => becomes("the first tags", async || listed().await > 3).await,
            false => becomes("most blobs", async || mirror.files().blobs().len() > 100).await,
        }
        let log = mirror.stop().await;
        let is_whole = log.contains("a bundle was imported") && log.contains("images=300");
        assert_eq!(is_whole, sent == whole.len(), "{log}");
        assert_eq!(log.contains("an import is ended"), sent != whole.len(), "{log}");
    }
}
