use super::*;
use crate::cache::store::Space;
use crate::oci::Algorithm;
use proptest::prelude::*;

fn digest(n: u8) -> Digest {
    Digest::of(Algorithm::Sha256, &[n])
}

fn index(max_size: u64) -> Arc<Index> {
    Arc::new(Index::with(Limits { max_size, min_free: 10 }, &[], Kind::Lru))
}

const ROOMY: Space = Space { free: 1 << 40, total: 1 << 40 };

/// Makes a claim and evicts what it names, as the cache does.
fn claim(index: &Arc<Index>, bytes: u64, space: &mut Space) -> (Option<Reservation>, Vec<Victim>) {
    let mut victims = Vec::new();
    loop {
        match index.claim(bytes, 0, *space, 0) {
            Claim::Granted(reservation) => return (Some(reservation), victims),
            Claim::Impossible => return (None, victims),
            Claim::Wait | Claim::OnItsWay => panic!("nobody else evicts here"),
            Claim::Evict(victim) | Claim::Free(victim) => {
                space.free += victim.size;
                index.left(victim);
                victims.push(victim);
            }
        }
    }
}

#[test]
fn room_is_made_by_use_leftovers_first() {
    let index = index(100);
    for n in 0..3 {
        index.insert(digest(n), 30);
    }
    index.insert_leftover(digest(9), 10);
    index.touch(&digest(0));
    let (reservation, victims) = claim(&index, 40, &mut ROOMY.clone());
    assert!(reservation.is_some());
    let victims: Vec<_> = victims.iter().map(|victim| (victim.digest, victim.size, victim.place)).collect();
    assert_eq!(victims, [(digest(9), 10, Place::Ingest), (digest(1), 30, Place::Blobs)]);
    assert_eq!(index.totals(), (100, 2));
}

#[test]
fn what_cannot_fit_evicts_nothing() {
    let index = index(100);
    index.insert(digest(0), 50);
    let held = claim(&index, 40, &mut ROOMY.clone()).0.unwrap();
    let (refused, victims) = claim(&index, 70, &mut ROOMY.clone());
    assert!(refused.is_none() && victims.is_empty());
    drop(held);
    assert!(claim(&index, 70, &mut ROOMY.clone()).0.is_some());
}

#[test]
fn min_free_counts_other_writers() {
    let index = index(1000);
    index.insert(digest(0), 50);
    index.insert(digest(1), 50);
    let mut space = Space { free: 30, total: 1000 };
    let (reservation, victims) = claim(&index, 60, &mut space);
    assert!(reservation.is_some());
    assert_eq!(victims.len(), 1);
    assert!(claim(&index, 500, &mut space).0.is_none());
}

#[test]
fn a_preview_has_an_end_and_says_what_is_beyond_it() {
    let index = index(1000);
    (0..10).for_each(|n| index.insert(digest(n), 100));
    let (files, more) = index.preview(350, ROOMY, 10);
    assert_eq!((files.len(), more), (4, 0));
    let (files, more) = index.preview(350, ROOMY, 3);
    assert_eq!((files, more), ((0..3).map(|n| (digest(n), 100)).collect(), 50));
    assert_eq!(index.preview(2000, ROOMY, 100).0.len(), 10, "all there is");
}

proptest! {
    /// I8: whatever fills do, held plus promised never exceeds the limit, and nothing leaks.
    #[test]
    fn i8_the_limit_holds(steps in prop::collection::vec((0..12u8, 0..80u64, 0..4u8), 0..300)) {
        let index = index(200);
        let mut fills: HashMap<u8, Reservation> = HashMap::new();
        for (n, bytes, what) in steps {
            match (what, fills.remove(&n)) {
                (0, None) => {
                    let mut taken = index.take_leftover(&digest(n), 0);
                    if let (Some(more), _) = claim(&index, bytes, &mut ROOMY.clone()) {
                        taken.absorb(more);
                        fills.insert(n, taken);
                    }
                }
                (1, Some(fill)) => { let size = fill.bytes(); fill.published(digest(n), size, 0); }
                (2, Some(fill)) => { let size = fill.bytes() / 2; fill.left_over(digest(n), size); }
                (3, Some(fill)) => drop(fill),
                (_, Some(fill)) => { fills.insert(n, fill); }
                (_, None) => _ = index.touch(&digest(n)),
            }
            prop_assert!(index.totals().0 <= 200, "{:?}", index.totals());
            let promised: u64 = fills.values().map(Reservation::bytes).sum();
            prop_assert!(index.totals().0 >= promised);
        }
        fills.clear();
        prop_assert_eq!(index.lock().reserved(), 0);
        prop_assert!(index.lock().leaving.is_empty());
    }
}
