//! What the fuzz targets in fuzz/ do, with a stable compiler: every body over its corpus and over random input.
//!
//! `cargo fuzz` finds new paths; this keeps what it has found, and runs where there is no nightly compiler.

use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

#[path = "../../fuzz/src/lib.rs"]
mod bodies;

/// The inputs in fuzz/corpus/NAME.
fn corpus(name: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut inputs: Vec<_> = entries
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(&path).unwrap()))
        .collect();
    inputs.sort();
    assert!(inputs.len() >= 4, "{name} has {} inputs", inputs.len());
    inputs
}

/// Random changes of an input that is there, or random bytes.
fn inputs(seeds: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let changed =
        (prop::sample::select(seeds.clone()), prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..4u8), 0..8));
    let changed = changed.prop_map(|(mut input, changes)| {
        for (at, byte, how) in changes {
            let at = at.index(input.len() + 1);
            match how {
                0 => input.insert(at, byte),
                1 if at < input.len() => input[at] = byte,
                2 if at < input.len() => drop(input.remove(at)),
                3 => input.truncate(at),
                _ => {}
            }
        }
        input
    });
    let joined = (prop::sample::select(seeds.clone()), prop::sample::select(seeds)).prop_map(|(mut a, b)| {
        a.truncate(a.len() / 2);
        a.extend_from_slice(&b[b.len() / 2..]);
        a
    });
    prop_oneof![6 => changed, 2 => joined, 1 => prop::collection::vec(any::<u8>(), 0..300)]
}

fn run(name: &str, cases: u32) {
    let (_, body) = bodies::TARGETS.into_iter().find(|(target, _)| *target == name).unwrap();
    let inputs_here = corpus(name);
    // A panic in a task of the mirror does not reach its caller.
    static PANICS: AtomicUsize = AtomicUsize::new(0);
    let usual: Arc<dyn Fn(&std::panic::PanicHookInfo<'_>) + Send + Sync> = std::panic::take_hook().into();
    std::panic::set_hook(Box::new(move |info| {
        // Another test's own thread, which may fail for reasons of its own, has that test's path as its name.
        if std::thread::current().name().is_none_or(|name| !name.contains("::")) {
            PANICS.fetch_add(1, Ordering::SeqCst);
        }
        usual(info);
    }));
    let try_one = |input: &[u8]| {
        let before = PANICS.load(Ordering::SeqCst);
        let kept = std::panic::catch_unwind(AssertUnwindSafe(|| body(input)));
        kept.is_ok() && PANICS.load(Ordering::SeqCst) == before
    };
    for (file, input) in &inputs_here {
        assert!(try_one(input), "fuzz/corpus/{name}/{file}");
    }
    let seeds: Vec<_> = inputs_here.into_iter().map(|(_, input)| input).collect();
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, max_shrink_iters: 200, ..Config::default() });
    let outcome = runner.run(&inputs(seeds), |input| {
        prop_assert!(try_one(&input), "{:?}", String::from_utf8_lossy(&input));
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{name}: {error}"));
}

/// One process-wide hook counts panics, so that the targets run one after the other.
#[test]
fn the_bodies_of_all_fuzz_targets() {
    for (name, _) in bodies::TARGETS {
        let cases = match name {
            "request" => 600,
            "answer" => 60,
            "import" => 1000,
            _ => 4000,
        };
        let started = std::time::Instant::now();
        run(name, cases);
        eprintln!("{name}: {cases} cases in {:?}", started.elapsed());
    }
}
