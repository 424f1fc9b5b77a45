//! A cache folder of so many objects, with the manifests, records and tags that belong to them.

use std::fs;
use std::path::{Path, PathBuf};

use roadstead::oci::{Algorithm, Digest};

/// Objects of an image that are its own: manifest, config and layers.
pub const OWN: u64 = 10;

/// Base layers that images share.
pub const BASES: u64 = 20;

/// Images of a repository.
const TAGS: u64 = 50;

/// A blob; nothing here is about bytes.
pub fn blob(n: u64) -> (Digest, [u8; 8]) {
    let bytes = n.to_le_bytes();
    (Digest::of(Algorithm::Sha256, &bytes), bytes)
}

/// A cache folder, and what is in it.
pub struct Tree {
    pub dir: PathBuf,
    pub images: u64,
    pub all: Vec<Digest>,
    pub bytes: u64,
}

/// Of image `n`: repository, tag and manifest.
pub fn image(n: u64) -> (String, String, String) {
    let part = |number: u64, kind: &str| {
        format!(r#"{{"mediaType":"application/vnd.oci.image.{kind}","digest":"{}","size":8}}"#, blob(number).0)
    };
    let bases = (0..3).map(|at| (n * 7 + at) % BASES);
    let own = (2..OWN).map(|at| BASES + n * OWN + at);
    let layers: Vec<String> = bases.chain(own).map(|number| part(number, "layer.v1.tar+gzip")).collect();
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{},"layers":[{}]}}"#,
        part(BASES + n * OWN + 1, "config.v1+json"),
        layers.join(",")
    );
    (format!("bench/app-{}", n / TAGS), format!("v{}", n % TAGS), manifest)
}

pub fn of(manifest: &str) -> Digest {
    Digest::of(Algorithm::Sha256, manifest.as_bytes())
}

impl Tree {
    /// Makes what is missing of it.
    pub fn again(&self) -> Self {
        make(self.dir.clone(), self.images * OWN)
    }
}

/// Writes a file, unless it is there from an earlier run.
fn write(path: &Path, bytes: &[u8]) {
    if !path.exists() {
        fs::write(path, bytes).unwrap();
    }
}

/// Makes what is missing of the tree at `dir`.
pub fn make(dir: PathBuf, objects: u64) -> Tree {
    let blobs = dir.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    write(&dir.join("VERSION"), b"1\n");
    let images = objects / OWN;
    let (mut all, mut bytes) = (Vec::new(), 0);
    for n in (0..BASES).chain((0..images).flat_map(|n| (1..OWN).map(move |at| BASES + n * OWN + at))) {
        let (digest, content) = blob(n);
        write(&blobs.join(digest.hex()), &content);
        all.push(digest);
        bytes += 8;
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
    for n in 0..images {
        let (repository, tag, manifest) = image(n);
        let (digest, folder) = (of(&manifest), dir.join("repos/docker.io").join(repository));
        if n % TAGS == 0 {
            fs::create_dir_all(folder.join("_tags")).unwrap();
            fs::create_dir_all(folder.join("_manifests")).unwrap();
        }
        bytes += manifest.len() as u64;
        write(&blobs.join(digest.hex()), manifest.as_bytes());
        let record = format!(r#"{{"digest":"{digest}","checked_at":{now}}}"#);
        write(&folder.join("_tags").join(format!("{tag}.json")), record.as_bytes());
        let record = r#"{"media_type":"application/vnd.oci.image.manifest.v1+json"}"#;
        write(&folder.join("_manifests").join(format!("sha256-{}.json", digest.hex())), record.as_bytes());
        all.push(digest);
    }
    Tree { dir, images, all, bytes }
}
