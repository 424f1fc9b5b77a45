//! What an object costs, by how many there are: a hit, an insertion and an eviction, in the index and as a whole; a start
//! on a tree of as many files; the answers of the admin interface.
//!
//!     cargo run --release --example scale [OBJECTS [FOLDER]]    OBJECTS: the most there are, 10^6 unless said otherwise
//!
//! The trees are made below FOLDER and left there, so that another run finds them; without one, among the temporary files,
//! and removed. 10^6 objects are 1.2 million files, 5 GiB on ext4.

#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on has failed")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "what it finds is for whoever runs it")]

mod answers;
mod ask;
mod clock;
mod index;
mod rounds;
mod tree;
mod whole;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use whole::Started;

// As in the mirror itself.
#[cfg(target_os = "linux")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// The head of a table with a column for each size.
fn head(what: &str, sizes: &[u64], more: &str) {
    let names: Vec<String> = sizes.iter().map(u64::to_string).collect();
    let dashes = "---:|".repeat(sizes.len() + usize::from(!more.is_empty()));
    println!("| {what} | {} |{more}\n|---|{dashes}", names.join(" | "));
}

fn row<T>(what: &str, all: &[T], shown: impl Fn(&T) -> String) {
    println!("| {what} | {} |", all.iter().map(shown).collect::<Vec<_>>().join(" | "));
}

/// Starts a mirror on each tree, one after the other, and asks it what operators ask.
fn starts(runtime: &tokio::runtime::Runtime, sizes: &[u64], trees: &[tree::Tree]) {
    let mut found: Vec<(f64, Started)> = Vec::new();
    let mut answers = Vec::new();
    for tree in trees {
        let mirror = whole::start(runtime, tree, "64MiB");
        answers.push(answers::answers(tree, &mirror));
        found.push((tree.all.len() as f64, mirror));
    }
    println!("\nA start.\n");
    head("until", sizes, "");
    let ms = |time: Duration| format!("{:.0} ms", time.as_secs_f64() * 1e3);
    let each = |objects: f64, time: Duration| format!("{:.1} µs", time.as_secs_f64() * 1e6 / objects);
    row("the first cached pull is answered", &found, |(_, start)| ms(start.first));
    row("the index is complete", &found, |(_, start)| ms(start.indexed));
    row("… an object", &found, |(objects, start)| each(*objects, start.indexed));
    row("the catalog is complete", &found, |(_, start)| ms(start.surveyed));
    row("… an object", &found, |(objects, start)| each(*objects, start.surveyed));
    row("resident bytes an object", &found, |(_, start)| start.memory.to_string());
    println!("\nThe admin interface's answers, milliseconds.\n");
    head("asked", sizes, "");
    for (at, (what, _)) in answers[0].iter().enumerate() {
        row(what, &answers, |of| format!("{:.1}", of[at].1.as_secs_f64() * 1e3));
    }
    found.into_iter().for_each(|(_, mirror)| mirror.end(runtime));
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let most: u64 = arguments.next().map_or(1_000_000, |text| text.parse().unwrap());
    let kept = arguments.next().map(PathBuf::from);
    let sizes: Vec<u64> = [1_000, 10_000, 100_000, 1_000_000].into_iter().filter(|objects| *objects <= most).collect();
    index::measure(&sizes);
    let folder = kept.clone().unwrap_or_else(|| std::env::temp_dir().join(format!("roadstead-scale-{}", std::process::id())));
    let make = |folder: &Path| -> Vec<tree::Tree> {
        sizes.iter().map(|objects| tree::make(folder.join(objects.to_string()), *objects)).collect()
    };
    // The threads that block stay: the time that one had is lost with it.
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().thread_keep_alive(Duration::from_secs(3600)).build().unwrap();
    starts(&runtime, &sizes, &make(&folder));
    // What was purged is needed again.
    whole::measure(&runtime, &make(&folder));
    drop(runtime);
    if kept.is_none() {
        let _ = fs::remove_dir_all(folder);
    }
}
