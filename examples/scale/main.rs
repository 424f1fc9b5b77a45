//! What an object costs, by how many there are: a hit, an insertion and an eviction in the index; a hit as a client sees
//! it; a start on a tree of as many files; the answers of the admin interface.
//!
//!     cargo run --release --example scale [OBJECTS]       the largest tree that is made on disk, 0 for none
//!
//! The trees lie in the folder for temporary files: 10^6 objects are 1.2 million files, 5 GiB on ext4.

#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on has failed")]

mod ask;
mod tree;

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use roadstead::cache::index::{Claim, Index, Limits};
use roadstead::cache::store::Space;
use roadstead::config;
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

/// Operations timed in one go, short enough that most batches are not interrupted by anything.
const BATCH: u64 = 1_000;

/// Nanoseconds of one operation: the median of batches. What it is done to is made before the clock runs.
fn median(batches: u64, mut objects: impl FnMut(u64) -> Vec<Digest>, mut operation: impl FnMut(&Digest)) -> u64 {
    let mut times: Vec<Duration> = (0..batches)
        .map(|batch| {
            let digests = objects(batch);
            let started = Instant::now();
            digests.iter().for_each(&mut operation);
            started.elapsed() / digests.len() as u32
        })
        .collect();
    times.sort_unstable();
    times[times.len() / 2].as_nanos() as u64
}

fn range(from: u64, count: u64) -> Vec<Digest> {
    (from..from + count).map(digest).collect()
}

/// The index alone: nanoseconds of a hit, an insertion and an eviction with its insertion, and bytes an object.
fn index(objects: u64) -> Figures {
    let before = resident();
    let limits = Limits { max_size: objects * 1000, min_free: 0 };
    let new = || Arc::new(Index::with(limits, &[], config::Eviction::default()));
    let index = new();
    let all = objects / BATCH;
    // The last half, when the index is about as large as it is said to be.
    (0..objects / 2).for_each(|n| index.insert(digest(n), 1000));
    let half = objects - objects / 2;
    let insertion = match all {
        1 => {
            let indexes: Vec<_> = (0..50).map(|_| new()).collect();
            let mut at = 0..;
            let insertion =
                median(50, |_| range(0, BATCH), |digest| indexes[at.next().unwrap_or(0) / BATCH as usize].insert(*digest, 1000));
            range(objects / 2, half).iter().for_each(|digest| index.insert(*digest, 1000));
            insertion
        }
        _ => median(half / BATCH, |batch| range(objects / 2 + batch * BATCH, BATCH), |digest| index.insert(*digest, 1000)),
    };
    let memory = resident().saturating_sub(before) / objects;
    let some = |batch: u64| (0..BATCH).map(|n| digest((batch * BATCH + n).wrapping_mul(2_654_435_761) % objects)).collect();
    // Twice: the first time everything is noted as used.
    for _ in 0..2 {
        median(TIMED / BATCH, some, |digest| index.touch(digest));
    }
    let hit = median(TIMED / BATCH, some, |digest| index.touch(digest));
    while !index.take_used(4096).is_empty() {}
    let evict = |digest: &Digest| loop {
        match index.claim(1000, 0, ROOMY) {
            Claim::Evict(victim) => index.left(victim),
            Claim::Granted(reservation) => break reservation.published(*digest, 1000, 0),
            other => panic!("{other:?}"),
        }
    };
    let eviction = median(TIMED / BATCH, |batch| range(objects + batch * BATCH, BATCH), evict);
    Figures { hit, insertion, eviction, memory, entries: index.memory() as u64 / objects }
}

struct Figures {
    hit: u64,
    insertion: u64,
    eviction: u64,
    memory: u64,
    entries: u64,
}

fn ratio(one: f64, first: f64) -> String {
    format!("{:.2}", one / first)
}

fn main() {
    let most: u64 = std::env::args().nth(1).map_or(100_000, |text| text.parse().unwrap_or(0));
    let sizes = [1_000, 10_000, 100_000, 1_000_000];
    println!("The index alone, nanoseconds an operation, median of batches; in brackets its ratio to 10^3 objects.\n");
    println!("| objects | hit | insertion | eviction and insertion | resident bytes/object | of these entries |");
    println!("|---:|---:|---:|---:|---:|---:|");
    let mut first = None;
    for objects in sizes {
        let found = index(objects);
        let (hit, insertion, eviction) = *first.get_or_insert((found.hit, found.insertion, found.eviction));
        println!(
            "| {objects} | {} ({}) | {} ({}) | {} ({}) | {} | {} |",
            found.hit,
            ratio(found.hit as f64, hit as f64),
            found.insertion,
            ratio(found.insertion as f64, insertion as f64),
            found.eviction,
            ratio(found.eviction as f64, eviction as f64),
            found.memory,
            found.entries
        );
    }
    let trees: Vec<tree::Figures> = sizes.into_iter().filter(|objects| *objects <= most).map(tree::measure).collect();
    if trees.is_empty() {
        return;
    }
    println!("\nA start: until the first cached pull is answered, until the index and the catalog are complete.\n");
    println!("| objects | first pull | index complete | catalog complete | resident bytes/object |\n|---:|---:|---:|---:|---:|");
    for tree::Figures { objects, first, indexed, surveyed, memory, .. } in &trees {
        println!(
            "| {objects} | {} ms | {} ms | {} ms | {memory} |",
            first.as_millis(),
            indexed.as_millis(),
            surveyed.as_millis()
        );
    }
    println!("\nA hit as a client sees it, over loopback, median; in brackets its ratio to 10^3 objects.\n");
    println!("| objects | from memory, the same 500 | from disk, any object |\n|---:|---:|---:|");
    for found in &trees {
        let shown = |one: Duration, first: Duration| {
            format!("{:.1} µs ({})", one.as_secs_f64() * 1e6, ratio(one.as_secs_f64(), first.as_secs_f64()))
        };
        println!(
            "| {} | {} | {} |",
            found.objects,
            shown(found.memory_hit, trees[0].memory_hit),
            shown(found.disk_hit, trees[0].disk_hit)
        );
    }
    println!("\nThe admin interface's answers, milliseconds.\n");
    let sizes: Vec<String> = trees.iter().map(|tree| tree.objects.to_string()).collect();
    println!("| asked | {} |\n|---|{}", sizes.join(" | "), "---:|".repeat(sizes.len()));
    for (at, (what, _)) in trees[0].answers.iter().enumerate() {
        let times: Vec<String> = trees.iter().map(|tree| format!("{:.1}", tree.answers[at].1.as_secs_f64() * 1e3)).collect();
        println!("| {what} | {} |", times.join(" | "));
    }
}
