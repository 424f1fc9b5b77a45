//! A cache of so many objects on disk, with the manifests, records and tags that belong to them, and a mirror on it.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use roadstead::app;
use roadstead::config::Config;
use roadstead::oci::{Algorithm, Digest};

use super::ask::Connection;
use super::resident;

/// Objects of an image that are its own: manifest, config and layers.
const OWN: u64 = 10;

/// Base layers that images share.
const BASES: u64 = 20;

/// Images of a repository.
const TAGS: u64 = 50;

/// A blob; nothing here is about bytes.
fn blob(n: u64) -> (Digest, [u8; 8]) {
    let bytes = n.to_le_bytes();
    (Digest::of(Algorithm::Sha256, &bytes), bytes)
}

pub struct Figures {
    pub objects: u64,
    pub first: Duration,
    pub indexed: Duration,
    pub surveyed: Duration,
    pub memory: u64,
    pub memory_hit: Duration,
    pub disk_hit: Duration,
    pub answers: Vec<(&'static str, Duration)>,
}

/// Of image `n`: repository, tag and manifest.
fn image(n: u64) -> (String, String, String) {
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

fn of(manifest: &str) -> Digest {
    Digest::of(Algorithm::Sha256, manifest.as_bytes())
}

/// How many images, the digests of all objects, and their bytes.
fn make(dir: &Path, objects: u64) -> (u64, Vec<Digest>, u64) {
    let blobs = dir.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    fs::write(dir.join("VERSION"), "1\n").unwrap();
    let images = objects / OWN;
    let (mut all, mut bytes) = (Vec::new(), 0);
    for n in (0..BASES).chain((0..images).flat_map(|n| (1..OWN).map(move |at| BASES + n * OWN + at))) {
        let (digest, content) = blob(n);
        fs::write(blobs.join(digest.hex()), content).unwrap();
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
        fs::write(blobs.join(digest.hex()), manifest).unwrap();
        let record = format!(r#"{{"digest":"{digest}","checked_at":{now}}}"#);
        fs::write(folder.join("_tags").join(format!("{tag}.json")), record).unwrap();
        let record = r#"{"media_type":"application/vnd.oci.image.manifest.v1+json"}"#;
        fs::write(folder.join("_manifests").join(format!("sha256-{}.json", digest.hex())), record).unwrap();
        all.push(digest);
    }
    (images, all, bytes)
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn timed(connection: &mut Connection, paths: impl Iterator<Item = String>) -> Duration {
    let time = |path: String| {
        let started = Instant::now();
        connection.get("GET", &path);
        started.elapsed()
    };
    median(paths.map(time).collect())
}

pub fn measure(objects: u64) -> Figures {
    let dir = std::env::temp_dir().join(format!("roadstead-scale-{}-{objects}", std::process::id()));
    let (images, all, bytes) = make(&dir, objects);
    let config = |memory: &str| {
        let text = format!(
            "server.listen = \"127.0.0.1:0\"\nadmin.listen = \"127.0.0.1:0\"\nlog.level = \"error\"\n\
             cache = {{ dir = {dir:?}, offline = true, memory = \"{memory}\", max_size = \"1GiB\", min_free = \"0%\", verify_every = \"0s\" }}\n\
             freshness.fresh_for = \"1d\"\n"
        );
        Config::parse(&text, "scale").unwrap()
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let (repository, _, manifest) = image(images / 2);
    let pull = format!("/v2/{repository}/manifests/{}", of(&manifest));
    let path = |digest: &Digest| format!("/v2/{repository}/blobs/{digest}");

    let before = resident();
    let started = Instant::now();
    let running = runtime.block_on(app::Mirror::start(config("64MiB"))).unwrap();
    let mut early = Connection::open(running.addresses()[0]);
    assert_eq!(early.get("GET", &pull), manifest.as_bytes());
    let first = started.elapsed();
    let mut admin = Connection::open(running.admin_address().unwrap());
    let mut state = |what: &str| {
        while !String::from_utf8(admin.get("GET", "/api/v1/cache")).unwrap().contains(&format!("\"{what}\":true")) {
            std::thread::sleep(Duration::from_millis(2));
        }
        started.elapsed()
    };
    let (indexed, surveyed) = (state("indexed"), state("complete"));
    let memory = resident().saturating_sub(before) / objects;

    // The first connection was idle for too long, where there are many objects.
    let mut client = Connection::open(running.addresses()[0]);
    // Spread over all, and read once so that they are in memory.
    let step = all.len() / 500;
    let hot: Vec<String> = all.iter().step_by(step).take(500).map(&path).collect();
    hot.iter().for_each(|path| drop(client.get("GET", path)));
    let memory_hit = timed(&mut client, hot.iter().cycle().take(10_000).cloned());

    let (name, tag, _) = image(images / 3);
    let base = blob(3).0;
    let hundredth = (1 << 30) - bytes * 99 / 100;
    let asked = [
        ("`ls`, the first 1000", "GET", "/api/v1/images".to_owned()),
        ("`ls` of a pattern that all tags are tried on", "GET", "/api/v1/images?ref=bench/app-*:none".to_owned()),
        ("`ls` of one image", "GET", format!("/api/v1/images?ref={name}:{tag}")),
        ("`stats`", "GET", "/api/v1/stats".to_owned()),
        ("`stats`, the catalog's part", "GET", "/api/v1/cache".to_owned()),
        ("`explain` of an image", "GET", format!("/api/v1/explain?ref={name}:{tag}")),
        ("`explain` of a base layer", "GET", format!("/api/v1/explain?ref={base}")),
        ("`pin`", "POST", format!("/api/v1/pin?ref={name}:{tag}")),
        ("`unpin`", "POST", format!("/api/v1/unpin?ref={name}:{tag}")),
        ("`gc --dry-run`", "GET", "/api/v1/gc".to_owned()),
        ("`gc --dry-run --free` that evicts 1 %", "GET", format!("/api/v1/gc?free={hundredth}")),
        ("`purge --dry-run` of an image", "POST", format!("/api/v1/purge?ref={name}:{tag}&dry_run=true")),
        ("`purge` of an image", "POST", format!("/api/v1/purge?ref={name}:{tag}")),
    ];
    let answers = asked.map(|(what, method, path)| {
        let started = Instant::now();
        admin.get(method, &path);
        (what, started.elapsed())
    });
    runtime.block_on(running.shutdown());

    // Without a memory tier every hit opens its file.
    let running = runtime.block_on(app::Mirror::start(config("0B"))).unwrap();
    let mut admin = Connection::open(running.admin_address().unwrap());
    while !String::from_utf8(admin.get("GET", "/api/v1/cache")).unwrap().contains("\"complete\":true") {
        std::thread::sleep(Duration::from_millis(2));
    }
    let mut client = Connection::open(running.addresses()[0]);
    // What the purge took with it is the only thing that is not here.
    let gone: Vec<Digest> = (1..OWN).map(|at| blob(BASES + images / 3 * OWN + at).0).chain([of(&image(images / 3).2)]).collect();
    let all: Vec<&Digest> = all.iter().filter(|digest| !gone.contains(digest)).collect();
    let any = (0..10_000_usize).map(|n| path(all[n.wrapping_mul(2_654_435_761) % all.len()]));
    let disk_hit = timed(&mut client, any);
    runtime.block_on(running.shutdown());
    drop(runtime);
    let _ = fs::remove_dir_all(dir);
    Figures { objects, first, indexed, surveyed, memory, memory_hit, disk_hit, answers: answers.to_vec() }
}
