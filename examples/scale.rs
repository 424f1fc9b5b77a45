//! What an object costs, by how many there are: a hit, an insertion and an eviction in the index, bytes of memory, and
//! a start on a tree of as many files.
//!
//!     cargo run --release --example scale [FILES]       FILES: the largest tree that is made on disk, 0 for none

#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on has failed")]

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use roadstead::cache::Cache;
use roadstead::cache::index::{Claim, Index, Limits};
use roadstead::cache::store::Space;
use roadstead::config;
use roadstead::metrics::Metrics;
use roadstead::oci::{Algorithm, Digest};

const ROOMY: Space = Space { free: 1 << 60, total: 1 << 60 };

/// Operations timed at each size.
const TIMED: u64 = 100_000;

fn digest(n: u64) -> Digest {
    // A digest is random bytes; these are as good, and hashing would be timed with them.
    let mut state = n.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mut raw = [0; 32];
    for chunk in raw.chunks_exact_mut(8) {
        state ^= state >> 31;
        state = state.wrapping_mul(0xBF58_476D_1CE4_E5B9);
        state ^= state >> 27;
        chunk.copy_from_slice(&state.to_le_bytes());
    }
    Digest::from_raw(Algorithm::Sha256, &raw).unwrap()
}

fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) * 1024
}

fn each(time: Duration, count: u64) -> u64 {
    (time.as_nanos() / u128::from(count)) as u64
}

/// The index alone: nanoseconds of a hit, an insertion and an eviction with its insertion, and bytes an object.
fn index(objects: u64) -> (u64, u64, u64, u64, u64) {
    let before = resident();
    let limits = Limits { max_size: objects * 1000, min_free: 0 };
    let index = Arc::new(Index::with(limits, &[], config::Eviction::default()));
    let started = Instant::now();
    (0..objects).for_each(|n| index.insert(digest(n), 1000));
    let insertion = each(started.elapsed(), objects);
    let memory = resident().saturating_sub(before) / objects;
    let started = Instant::now();
    (0..TIMED).for_each(|n| index.touch(&digest(n.wrapping_mul(2_654_435_761) % objects)));
    let hit = each(started.elapsed(), TIMED);
    index.take_used();
    let started = Instant::now();
    for n in 0..TIMED {
        loop {
            match index.claim(1000, 0, ROOMY) {
                Claim::Evict(victim) => index.left(victim),
                Claim::Granted(reservation) => break reservation.published(digest(objects + n), 1000),
                other => panic!("{other:?}"),
            }
        }
    }
    (hit, insertion, each(started.elapsed(), TIMED), memory, index.memory() as u64 / objects)
}

/// A start on a tree of `objects` files: until the first cached object is served, and until the index is complete.
fn start(objects: u64) -> (Duration, Duration, u64) {
    let dir = std::env::temp_dir().join(format!("roadstead-scale-{}", std::process::id()));
    let config = config::Cache { dir: dir.clone(), verify_every: Duration::ZERO, ..config::Cache::default() };
    drop(Cache::open(&config, Arc::new(Metrics::new())).unwrap());
    for n in 0..objects {
        fs::write(dir.join("blobs/sha256").join(digest(n).hex()), b"").unwrap();
    }
    let wanted = Digest::of(Algorithm::Sha256, b"content");
    fs::write(dir.join("blobs/sha256").join(wanted.hex()), b"content").unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let before = resident();
    let figures = runtime.block_on(async {
        let started = Instant::now();
        let cache = Cache::open(&config, Arc::new(Metrics::new())).unwrap();
        let maintenance = tokio::spawn(cache.clone().maintain());
        assert!(cache.get(&wanted).await.is_some());
        let first = started.elapsed();
        while !cache.is_scanned() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let complete = started.elapsed();
        maintenance.abort();
        (first, complete, resident().saturating_sub(before) / objects)
    });
    drop(runtime);
    let _ = fs::remove_dir_all(dir);
    figures
}

fn main() {
    let most: u64 = std::env::args().nth(1).map_or(100_000, |text| text.parse().unwrap_or(0));
    println!("| objects | hit | insertion | eviction and insertion | resident bytes/object | of these entries |");
    println!("|---:|---:|---:|---:|---:|---:|");
    for objects in [1_000, 10_000, 100_000, 1_000_000] {
        let (hit, insertion, eviction, memory, entries) = index(objects);
        println!("| {objects} | {hit} ns | {insertion} ns | {eviction} ns | {memory} | {entries} |");
    }
    println!("\n| files | first cached object | index complete | resident bytes/file |\n|---:|---:|---:|---:|");
    for objects in [1_000, 10_000, 100_000, 1_000_000].into_iter().filter(|objects| *objects <= most) {
        let (first, complete, memory) = start(objects);
        println!("| {objects} | {} ms | {} ms | {memory} |", first.as_millis(), complete.as_millis());
    }
}
