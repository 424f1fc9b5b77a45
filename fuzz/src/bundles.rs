//! Bundles: archives that are taken into a cache, and may not leave a file anywhere else.

use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use roadstead::cache::Cache;
use roadstead::config::Amount;
use roadstead::metrics::Metrics;
use roadstead::transfer::import::{self, Options};
use roadstead::transfer::{input, tar};
use tokio::runtime::Runtime;

struct Site {
    runtime: Runtime,
    cache: Arc<Cache>,
    /// Holds the folder of the cache, and must hold nothing else.
    around: PathBuf,
}

/// One cache for all inputs. Its folder is left behind: a fuzzer is killed, not ended.
fn site() -> &'static Site {
    static SITE: OnceLock<Site> = OnceLock::new();
    SITE.get_or_init(|| {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let around = tempfile::tempdir().unwrap().keep();
        let config = roadstead::config::Cache {
            dir: around.join("cache"),
            max_size: Amount::Bytes(16 << 20),
            min_free: Amount::Bytes(0),
            ..roadstead::config::Cache::default()
        };
        let cache = {
            let _in = runtime.enter();
            Cache::open(&config, Arc::new(Metrics::new())).unwrap()
        };
        runtime.spawn(cache.clone().maintain());
        Site { runtime, cache, around }
    })
}

/// Odd first byte: the archive as it is. Even: names and contents, of which an archive with right checksums is made; without
/// that, no fuzzer would get behind the first header.
pub fn import(data: &[u8]) {
    let Some((kind, data)) = data.split_first() else { return };
    let archive = if kind % 2 == 1 { data.to_vec() } else { built(data) };
    let site = site();
    if let Ok(opened) = input::detect(Cursor::new(archive)) {
        let _ = site.runtime.block_on(import::import(site.cache.clone(), opened, Options::default(), &import::Turn::default()));
    }
    if let Ok(text) = std::str::from_utf8(data)
        && let Some(clean) = tar::clean(text)
    {
        assert!(!clean.starts_with('/') && clean.split('/').all(|part| part != ".." && part != "."), "{clean:?}");
    }
    stays_inside(&site.around);
}

/// Fails if there is anything beside `cache` in the folder around it, or in the cache what its layout does not have.
pub fn stays_inside(around: &Path) {
    let names = |folder: &Path| -> Vec<String> {
        let listed = std::fs::read_dir(folder).into_iter().flatten().flatten();
        listed.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    };
    assert_eq!(names(around), ["cache"], "a file outside the cache's folder");
    let cache = around.join("cache");
    let known = ["VERSION", "LOCK", "blobs", "ingest", "quarantine", "repos", "pins.json", "wanted.json", "verified"];
    for name in names(&cache) {
        let is_known = known.iter().any(|known| name == *known || name.starts_with(&format!("{known}.")));
        assert!(is_known, "{name:?} in the cache's folder");
    }
    for algorithm in ["sha256", "sha512"] {
        for name in names(&cache.join("blobs").join(algorithm)) {
            assert!(name.bytes().all(|c| c.is_ascii_hexdigit() && !c.is_ascii_uppercase()), "{name:?} among the blobs");
        }
    }
}

/// Entries as `NAME \0 CONTENT \xff`.
fn built(data: &[u8]) -> Vec<u8> {
    let mut writer = tar::Writer::new(Vec::new());
    for entry in data.split(|byte| *byte == 0xff) {
        let (name, content) = match entry.iter().position(|byte| *byte == 0) {
            Some(at) => (&entry[..at], &entry[at + 1..]),
            None => (entry, &b""[..]),
        };
        let name = String::from_utf8_lossy(name);
        // An empty name stands for what the content really is, so that blobs fit their digests.
        let name = if name.is_empty() {
            let digest = roadstead::oci::Digest::of(roadstead::oci::Algorithm::Sha256, content);
            format!("blobs/sha256/{}", digest.hex())
        } else {
            name.into_owned()
        };
        let _ = writer.file(&name, content);
    }
    writer.finish().unwrap()
}
