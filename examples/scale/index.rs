//! The index alone: a hit, an insertion, an eviction with its insertion, in CPU time of one thread; bytes an object.

use std::sync::Arc;

use roadstead::cache::index::{Claim, Index, Limits};
use roadstead::cache::store::Space;
use roadstead::config;
use roadstead::oci::{Algorithm, Digest};

use super::clock::Work;
use super::resident;
use super::rounds::Rounds;

const ROOMY: Space = Space { free: 1 << 60, total: 1 << 60 };

/// Operations timed in one go.
const BATCH: u64 = 1_000;

const ROUNDS: u64 = 100;

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

fn batch(digests: impl Iterator<Item = u64>) -> Vec<Digest> {
    digests.map(digest).collect()
}

/// Takes room as a fill does, evicting what has to go; then the fill is published.
fn replace(index: &Arc<Index>, digest: &Digest) {
    loop {
        match index.claim(1000, 0, ROOMY, 0) {
            Claim::Evict(victim) => index.left(victim),
            Claim::Granted(reservation) => {
                reservation.published(*digest, 1000, 0);
                return;
            }
            other => panic!("{other:?}"),
        }
    }
}

/// A full index, and its bytes an object: in all, and of its entries.
struct Full {
    index: Arc<Index>,
    bytes: u64,
    entries: u64,
}

fn full(objects: u64) -> Full {
    let before = resident();
    let limits = Limits { max_size: objects * 1000, min_free: 0 };
    let index = Arc::new(Index::with(limits, &[], config::Eviction::default()));
    (0..objects).for_each(|n| index.insert(digest(n), 1000));
    let (bytes, entries) = (resident().saturating_sub(before) / objects, index.memory() as u64 / objects);
    Full { index, bytes, entries }
}

fn timed(rounds: &mut Rounds, size: usize, digests: &[Digest], operation: impl FnMut(&Digest)) {
    let work = Work::begin();
    digests.iter().for_each(operation);
    rounds.add(size, work.end().as_secs_f64() * 1e6 / digests.len() as f64);
}

/// One round at one size: its number among the sizes, the objects there are, and the first that is the round's own.
type Round = dyn Fn(&mut Rounds, usize, u64, u64, &Arc<Index>);

/// Prints the table.
pub fn measure(sizes: &[u64]) {
    let all: Vec<(u64, Full)> = sizes.iter().map(|objects| (*objects, full(*objects))).collect();
    let run = |one: &Round| {
        let mut rounds = Rounds::new(sizes.len());
        for round in 0..ROUNDS {
            for (size, (objects, found)) in all.iter().enumerate() {
                one(&mut rounds, size, *objects, round * BATCH, &found.index);
            }
        }
        rounds
    };
    let hit = run(&|rounds, size, objects, first, index| {
        let some = batch((first..first + BATCH).map(|n| n.wrapping_mul(2_654_435_761) % objects));
        timed(rounds, size, &some, |digest| _ = index.touch(digest));
        index.take_used(usize::MAX);
    });
    let insertion = run(&|rounds, size, _, first, index| {
        // What is new comes, and goes again: the index stays as large as it is said to be.
        let new = batch((0..BATCH).map(|n| (1 << 40) + first + n));
        timed(rounds, size, &new, |digest| index.insert(*digest, 0));
        for digest in &new {
            index.remove(digest);
        }
    });
    let eviction = run(&|rounds, size, objects, first, index| {
        let new = batch((0..BATCH).map(|n| objects + first + n));
        timed(rounds, size, &new, |digest| replace(index, digest));
    });
    println!("The index alone: CPU microseconds an operation, the cheapest tenth of {ROUNDS} rounds of {BATCH}; in brackets the");
    println!("ratio to {} objects.\n", sizes[0]);
    super::head("operation", sizes, " within 10 % |");
    println!("| a hit is noted | {} |", hit.cells(2));
    println!("| an insertion | {} |", insertion.cells(2));
    println!("| an eviction, and the insertion it makes room for | {} |", eviction.cells(2));
    let shown = |bytes: fn(&Full) -> u64| all.iter().map(|(_, found)| bytes(found).to_string()).collect::<Vec<_>>().join(" | ");
    println!("| resident bytes an object | {} | |", shown(|found| found.bytes));
    println!("| of these, entries and their tables | {} | |", shown(|found| found.entries));
}
