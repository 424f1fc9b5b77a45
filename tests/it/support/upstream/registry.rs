//! The honest registry beneath the scripts: answers as distribution does, referrers as zot does.

use std::collections::BTreeMap;

use bytes::Bytes;
use roadstead::oci::Digest;
use serde_json::{Value, json};

use super::act::Reply;
use super::journal::Request;
use crate::support::image::{Blob, DOCKER_LIST, OCI_INDEX, OCI_MANIFEST};

#[derive(Debug, Default)]
struct Repository {
    blobs: BTreeMap<String, Bytes>,
    manifests: BTreeMap<String, Blob>,
    tags: BTreeMap<String, String>,
}

/// What one upstream holds.
#[derive(Debug, Default)]
pub struct Registry {
    repositories: BTreeMap<String, Repository>,
    /// Whether there is a referrers API, and how many descriptors it puts on a page.
    pub referrers: Option<usize>,
}

impl Registry {
    /// Puts a blob into a repository.
    pub fn put_blob(&mut self, repository: &str, blob: &Blob) {
        self.repository(repository).blobs.insert(blob.digest.to_string(), blob.bytes.clone());
    }

    /// Puts a manifest into a repository.
    pub fn put_manifest(&mut self, repository: &str, manifest: &Blob) {
        self.repository(repository).manifests.insert(manifest.digest.to_string(), manifest.clone());
    }

    /// Points a tag at a digest.
    pub fn put_tag(&mut self, repository: &str, tag: &str, digest: &Digest) {
        self.repository(repository).tags.insert(tag.to_owned(), digest.to_string());
    }

    /// Removes a tag, a manifest or a blob.
    pub fn remove(&mut self, repository: &str, reference: &str) {
        let repository = self.repository(repository);
        repository.tags.remove(reference);
        repository.manifests.remove(reference);
        repository.blobs.remove(reference);
    }

    fn repository(&mut self, name: &str) -> &mut Repository {
        self.repositories.entry(name.to_owned()).or_default()
    }

    /// The answer to a request; `range` is false where `Range` is to be overlooked.
    pub fn answer(&self, request: &Request, range: bool) -> Reply {
        let mut reply = self.route(request, range);
        reply.set("Docker-Distribution-Api-Version", "registry/2.0");
        reply
    }

    fn route(&self, request: &Request, range: bool) -> Reply {
        let Some(path) = request.path.strip_prefix("/v2/") else {
            return Reply::new(404, "text/plain; charset=utf-8", "404 page not found\n");
        };
        if path.is_empty() {
            return Reply::new(200, "application/json", "{}");
        }
        if let Some(name) = path.strip_suffix("/tags/list") {
            return self.tags(name, request);
        }
        for (infix, kind) in [("/manifests/", 'm'), ("/blobs/", 'b'), ("/referrers/", 'r')] {
            let Some((name, reference)) = path.rsplit_once(infix) else { continue };
            let Some(repository) = self.repositories.get(name) else {
                return Reply::error(404, "NAME_UNKNOWN", "repository name not known to registry");
            };
            return match kind {
                'm' => manifest(repository, reference, request),
                'b' => blob(repository, reference, request, range),
                _ => self.referrers(repository, name, reference, request),
            };
        }
        Reply::new(404, "text/plain; charset=utf-8", "404 page not found\n")
    }

    fn tags(&self, name: &str, request: &Request) -> Reply {
        let Some(repository) = self.repositories.get(name) else {
            return Reply::error(404, "NAME_UNKNOWN", "repository name not known to registry");
        };
        let count = match request.parameter("n").map(|n| n.parse::<usize>()) {
            None => usize::MAX,
            Some(Ok(count)) => count,
            Some(Err(_)) => return Reply::error(400, "PAGINATION_NUMBER_INVALID", "invalid number of results requested"),
        };
        let last = request.parameter("last").unwrap_or_default();
        let after: Vec<&String> = repository.tags.keys().filter(|tag| **tag > last).collect();
        let page = &after[..after.len().min(count)];
        let mut reply = Reply::new(200, "application/json", json!({ "name": name, "tags": page }).to_string());
        if let (true, Some(last)) = (page.len() < after.len(), page.last()) {
            reply.set("Link", &format!("</v2/{name}/tags/list?last={last}&n={count}>; rel=\"next\""));
        }
        reply
    }

    fn referrers(&self, repository: &Repository, name: &str, subject: &str, request: &Request) -> Reply {
        let Some(page) = self.referrers else {
            return Reply::new(404, "text/plain; charset=utf-8", "404 page not found\n");
        };
        let wanted = request.parameter("artifactType");
        let last = request.parameter("last").unwrap_or_default();
        let entries: Vec<Value> = repository.manifests.values().filter_map(|blob| referrer(blob, subject)).collect();
        let entries = entries.iter().filter(|entry| wanted.is_none() || entry["artifactType"].as_str() == wanted.as_deref());
        let after: Vec<&Value> = entries.filter(|entry| entry["digest"].as_str() > Some(&*last)).collect();
        let shown = &after[..after.len().min(page)];
        let body = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": shown });
        let mut reply = Reply::new(200, OCI_INDEX, body.to_string());
        if wanted.is_some() {
            reply.set("OCI-Filters-Applied", "artifactType");
        }
        if let (true, Some(last)) = (shown.len() < after.len(), shown.last()) {
            let filter = wanted.map(|wanted| format!("&artifactType={wanted}")).unwrap_or_default();
            let last = last["digest"].as_str().unwrap_or_default();
            reply.set("Link", &format!("</v2/{name}/referrers/{subject}?last={last}{filter}>; rel=\"next\""));
        }
        reply
    }
}

/// The descriptor of a manifest that refers to `subject`.
fn referrer(manifest: &Blob, subject: &str) -> Option<Value> {
    let document: Value = serde_json::from_slice(&manifest.bytes).ok()?;
    if document["subject"]["digest"].as_str() != Some(subject) {
        return None;
    }
    let mut descriptor = manifest.descriptor();
    descriptor["artifactType"] = document["artifactType"].clone();
    descriptor["annotations"] = document["annotations"].clone();
    Some(descriptor)
}

fn manifest(repository: &Repository, reference: &str, request: &Request) -> Reply {
    let digest = repository.tags.get(reference).map_or(reference, String::as_str);
    let Some(mut found) = repository.manifests.get(digest) else {
        return Reply::error(404, "MANIFEST_UNKNOWN", "manifest unknown");
    };
    // As distribution has it: `*/*` accepts neither of the OCI types, and a list that is not accepted becomes one of its
    // manifests, with that one's digest.
    let accept = request.header("accept").unwrap_or_default();
    let accepts =
        |media_type: &str| accept.split(',').any(|part| part.split(';').next().unwrap_or_default().trim() == media_type);
    if [OCI_MANIFEST, OCI_INDEX].contains(&found.media_type.as_str()) && !accepts(&found.media_type) {
        let message = "OCI manifest found, but accept header does not support OCI manifests";
        return Reply::error(404, "MANIFEST_UNKNOWN", message);
    }
    if found.media_type == DOCKER_LIST && !accepts(DOCKER_LIST) {
        match platform_of(&found.bytes, "linux", "amd64").and_then(|digest| repository.manifests.get(&digest)) {
            Some(manifest) => found = manifest,
            None => return Reply::error(404, "MANIFEST_UNKNOWN", "manifest unknown"),
        }
    }
    let mut reply = Reply::new(200, &found.media_type, found.bytes.clone());
    reply.set("Docker-Content-Digest", &found.digest.to_string());
    reply.set("Etag", &format!("\"{}\"", found.digest));
    reply
}

fn platform_of(list: &[u8], os: &str, architecture: &str) -> Option<String> {
    let document: Value = serde_json::from_slice(list).ok()?;
    let mut entries = document["manifests"].as_array()?.iter();
    let entry = entries.find(|entry| entry["platform"]["os"] == os && entry["platform"]["architecture"] == architecture)?;
    entry["digest"].as_str().map(str::to_owned)
}

fn blob(repository: &Repository, digest: &str, request: &Request, range: bool) -> Reply {
    let Some(bytes) = repository.blobs.get(digest) else {
        return Reply::error(404, "BLOB_UNKNOWN", "blob unknown to registry");
    };
    let mut reply = object(bytes, request, range);
    reply.set("Docker-Content-Digest", digest);
    reply.set("Etag", &format!("\"{digest}\""));
    reply.set("Cache-Control", "max-age=31536000");
    reply
}

/// Bytes with single ranges, as Go's `http.ServeContent` and S3 answer.
pub fn object(bytes: &Bytes, request: &Request, range: bool) -> Reply {
    let mut reply = Reply::new(200, "application/octet-stream", bytes.clone());
    reply.set("Accept-Ranges", "bytes");
    let total = bytes.len();
    // Without the part after "bytes=", or with several: everything.
    let header = request.header("range").filter(|_| range && request.method == "GET");
    let Some((first, last)) = header.as_deref().and_then(|value| value.strip_prefix("bytes=")?.split_once('-')) else {
        return reply;
    };
    let part = match (first.parse::<usize>(), last.parse::<usize>()) {
        (Ok(first), Ok(last)) if first <= last => first..last.saturating_add(1).min(total),
        (Ok(first), Err(_)) if last.is_empty() => first..total,
        (Err(_), Ok(suffix)) if first.is_empty() => total.saturating_sub(suffix)..total,
        _ => return reply,
    };
    if part.is_empty() {
        let mut reply = Reply::error(416, "RANGE_INVALID", "invalid range");
        reply.set("Content-Range", &format!("bytes */{total}"));
        return reply;
    }
    reply.status = 206;
    reply.set("Content-Range", &format!("bytes {}-{}/{total}", part.start, part.end - 1));
    reply.start = part.start as u64;
    reply.body = bytes.slice(part);
    reply
}
