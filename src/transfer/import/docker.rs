//! `docker save` archives: a list of configs and layers by path, without a manifest. One is made of each entry, as
//! Docker would push it.

use std::collections::HashMap;
use std::io::Read as _;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::tar::clean;
use super::ImportError;
use super::archive::Bundle;
use super::staged::{Staged, small};
use crate::cache::Cache;
use crate::oci::{Algorithm, Digest, ImageRef, MediaType};

/// Manifests that were made.
#[derive(Debug, Default)]
pub struct Built {
    /// By digest.
    pub manifests: HashMap<Digest, Bytes>,
    /// Of which images.
    pub images: Vec<(ImageRef, Digest)>,
    /// Those without a name.
    pub unnamed: Vec<Digest>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Vec<String>,
}

/// Makes the manifests of a `docker save` archive. None where there is an OCI index: that says more.
pub fn manifests(cache: &Cache, staged: &Staged, bundle: &Bundle) -> Result<Built, ImportError> {
    let mut built = Built::default();
    let (None, Some(list)) = (&bundle.index, &bundle.docker) else { return Ok(built) };
    let bad = |problem: String| ImportError::Bad(problem);
    let entries: Vec<Entry> =
        serde_json::from_slice(list).map_err(|error| bad(format!("manifest.json is not Docker's: {error}")))?;
    for entry in entries {
        let config_digest = find(bundle, &entry.config)?;
        let config = small(cache, staged, &config_digest)?.ok_or_else(|| bad(format!("{} is no image config", entry.config)))?;
        let parsed: Value =
            serde_json::from_slice(&config).map_err(|error| bad(format!("{} is no image config: {error}", entry.config)))?;
        // Its name is its digest, wherever it has one.
        let stem = entry.config.rsplit('/').next().unwrap_or_default().trim_end_matches(".json");
        if Digest::from_parts(Algorithm::Sha256, stem).is_ok_and(|said| said != config_digest) {
            return Err(bad(format!("{} is damaged: its content has digest {config_digest}", entry.config)));
        }
        let diff_ids: Vec<Option<Digest>> = parsed["rootfs"]["diff_ids"]
            .as_array()
            .map(|ids| ids.iter().map(|id| id.as_str().and_then(|id| id.parse().ok())).collect())
            .unwrap_or_default();
        if diff_ids.len() != entry.layers.len() {
            return Err(bad(format!("{} names {} layers, and {} are listed", entry.config, diff_ids.len(), entry.layers.len())));
        }
        let mut layers = Vec::new();
        for (path, diff_id) in entry.layers.iter().zip(diff_ids) {
            let digest = find(bundle, path)?;
            let (file, size) = cache.store().read(&digest)?.ok_or_else(|| bad(format!("layer {path} is missing")))?;
            let mut start = [0; 2];
            let is_gzip = size >= 2 && file.take(2).read_exact(&mut start).is_ok() && start == [0x1f, 0x8b];
            if !is_gzip && diff_id != Some(digest) {
                return Err(bad(format!(
                    "layer {path} is damaged: its content has digest {digest}, the config says {diff_id:?}"
                )));
            }
            let kind = if is_gzip {
                "application/vnd.docker.image.rootfs.diff.tar.gzip"
            } else {
                "application/vnd.docker.image.rootfs.diff.tar"
            };
            layers.push(json!({ "mediaType": kind, "size": size, "digest": digest }));
        }
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MediaType::DOCKER_MANIFEST,
            "config": { "mediaType": "application/vnd.docker.container.image.v1+json", "size": config.len(), "digest": config_digest },
            "layers": layers,
        });
        let bytes = Bytes::from(manifest.to_string());
        let digest = Digest::of(Algorithm::Sha256, &bytes);
        built.manifests.insert(digest, bytes);
        let tags = entry.repo_tags.unwrap_or_default();
        if tags.is_empty() {
            built.unnamed.push(digest);
        }
        for tag in tags {
            built.images.push((tag.parse().map_err(|error| bad(format!("{error}")))?, digest));
        }
    }
    Ok(built)
}

/// What a path holds; a link is followed within the archive, once and again, never in a circle.
fn find(bundle: &Bundle, path: &str) -> Result<Digest, ImportError> {
    let mut at = clean(path).ok_or_else(|| ImportError::Bad(format!("{path:?} leaves the archive")))?;
    for _ in 0..8 {
        if let Some(digest) = bundle.files.get(&at) {
            return Ok(*digest);
        }
        match bundle.links.get(&at) {
            Some(target) => at.clone_from(target),
            None => break,
        }
    }
    Err(ImportError::Bad(format!("{path:?} is listed, and not in the archive")))
}
