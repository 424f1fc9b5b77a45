//! Serves one image over loopback, so many requests of each kind: what `benches/instructions` runs under callgrind.
//!
//!     hits COUNT          a mirror with its log on standard error; it ends after COUNT requests of each of [`CASES`]
//!     hits --clients COUNT ADDRESS PATH
//!                         the client of one kind, which the mirror starts as a process of its own
//!
//! The client runs outside, so that what is counted is the mirror alone. Before the requests of a kind begin, and after
//! the last one, [`mark`] is called: callgrind writes out its counters there.

#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on has failed")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "what it finds is for whoever runs it")]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use roadstead::app::Mirror;
use roadstead::config::{Config, Log};
use roadstead::oci::{Algorithm, Digest};
use roadstead::telemetry;
use serde_json::json;

// As in the mirror itself.
#[cfg(target_os = "linux")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const REPOSITORY: &str = "library/alpine";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--clients", count, address, path] => client(count.parse().unwrap(), address.parse().unwrap(), path),
        [count] => serve(count.parse().unwrap()),
        _ => panic!("usage: hits COUNT"),
    }
}

/// The end of a kind's requests, and the beginning of the next one's.
#[inline(never)]
fn mark(name: &str) {
    eprintln!("{}", std::hint::black_box(name));
}

fn serve(count: usize) {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let folder = tempfile::tempdir().unwrap();
    let paths = image(folder.path());
    let config = format!(
        "server.listen = '127.0.0.1:0'\nadmin.listen = '127.0.0.1:0'\nfreshness.fresh_for = '1d'\ncache.dir = '{}'\ncache.verify_every = '0s'\n",
        folder.path().display()
    );
    let config = Config::parse(&config, "hits").unwrap();
    let _log = telemetry::install(&Log::default()).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let mirror = runtime.block_on(Mirror::start(config)).unwrap();
    let address = mirror.addresses()[0].to_string();
    let clients = |count: usize, path: &str| {
        let this = std::env::current_exe().unwrap();
        let status = Command::new(this).args(["--clients", &count.to_string(), &address, path]).status().unwrap();
        assert!(status.success(), "{path}");
    };
    // From disk into memory; then whatever happens once in a while has happened.
    paths.iter().for_each(|(_, path)| clients(100, path));
    mark("warm");
    for (name, path) in &paths {
        clients(count, path);
        mark(name);
    }
    runtime.block_on(mirror.shutdown());
}

/// Puts an image into an empty cache folder; what to ask for, by name.
fn image(dir: &Path) -> Vec<(&'static str, String)> {
    let write = |path: &Path, bytes: &[u8]| {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    };
    let blob = |bytes: &[u8]| {
        let digest = Digest::of(Algorithm::Sha256, bytes);
        write(&dir.join("blobs/sha256").join(digest.hex()), bytes);
        (digest, json!({ "mediaType": "application/octet-stream", "digest": digest, "size": bytes.len() }))
    };
    let (small, small_descriptor) = blob(&vec![b's'; 10_000]);
    let (large, large_descriptor) = blob(&vec![b'l'; 1 << 20]);
    let (_, config) = blob(b"{\"architecture\":\"amd64\",\"os\":\"linux\",\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[]}}");
    let layers = [small_descriptor, large_descriptor];
    let manifest = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers }).to_string();
    let (digest, _) = blob(manifest.as_bytes());
    let records = dir.join("repos/docker.io").join(REPOSITORY);
    let record = format!("_manifests/sha256-{}.json", digest.hex());
    write(&records.join(record), json!({ "media_type": MANIFEST }).to_string().as_bytes());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
    write(&records.join("_tags/latest.json"), json!({ "digest": digest, "checked_at": now }).to_string().as_bytes());
    write(&dir.join("VERSION"), b"1\n");
    vec![
        ("manifest by digest", format!("/v2/{REPOSITORY}/manifests/{digest}")),
        ("manifest by tag", format!("/v2/{REPOSITORY}/manifests/latest")),
        ("10 KB blob", format!("/v2/{REPOSITORY}/blobs/{small}")),
        ("1 MiB blob", format!("/v2/{REPOSITORY}/blobs/{large}")),
    ]
}

/// One request after another on one connection, each answered with the same whole 200.
fn client(count: usize, address: SocketAddr, path: &str) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: containerd/2.1.4\r\nAccept: {MANIFEST}\r\n\r\n");
    let mut buffer = vec![0; 2 << 20];
    for _ in 0..count {
        stream.write_all(request.as_bytes()).unwrap();
        let (mut filled, mut whole) = (0, usize::MAX);
        while filled < whole {
            let read = stream.read(&mut buffer[filled..]).unwrap();
            assert!(read > 0, "the connection ended");
            filled += read;
            if whole == usize::MAX
                && let Some(end) = buffer[..filled.min(4096)].windows(4).position(|bytes| bytes == b"\r\n\r\n")
            {
                let head = str::from_utf8(&buffer[..end]).unwrap().to_ascii_lowercase();
                assert!(head.starts_with("http/1.1 200 "), "{head}");
                let (_, length) = head.split_once("content-length: ").unwrap();
                whole = end + 4 + length.lines().next().unwrap().parse::<usize>().unwrap();
            }
        }
        assert_eq!(filled, whole);
    }
}
