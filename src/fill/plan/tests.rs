use super::*;
use proptest::prelude::*;

fn next(plan: &mut Plan, wanted: &[u64]) -> (Id, Range<u64>) {
    plan.claim_next(wanted, 1).unwrap()
}

#[test]
fn parts_go_in_order_and_to_where_somebody_waits() {
    let mut plan = Plan::new(100, 10, Extents::prefix(3));
    let (first, range) = next(&mut plan, &[]);
    assert_eq!(range, 3..10);
    assert_eq!(next(&mut plan, &[5]).1, 10..20, "byte 5 is being fetched");
    assert_eq!(next(&mut plan, &[12, 74]).1, 74..80);
    assert_eq!(next(&mut plan, &[76]).1, 20..30);
    plan.release(first);
    assert_eq!(next(&mut plan, &[]).1, 3..10, "given back");
    assert_eq!(next(&mut plan, &[88]).1, 88..100, "no splinter");
    assert_eq!(next(&mut plan, &[66]).1, 66..74, "up to what somebody has");
    assert_eq!(next(&mut plan, &[100, 200]).1, 30..40, "beyond the end nobody waits");
}

#[test]
fn large_parts_end_together() {
    let mut plan = Plan::new(1000, 10, Extents::prefix(200));
    assert_eq!(plan.steps(0, 4), 1, "nothing speaks for more");
    assert_eq!((plan.steps(11, 4), plan.steps(100, 4), plan.steps(101, 4)), (2, 10, 10), "half of 200, the share of each");
    let (_, range) = plan.claim_next(&[], plan.steps(1000, 4)).unwrap();
    assert_eq!(range, 200..300);
    assert_eq!((plan.steps(1000, 4), plan.steps(1000, 1)), (8, 35), "of what nobody has claimed");
    while let Some((_, range)) = plan.claim_next(&[], plan.steps(1000, 4)) {
        assert!(range.end - range.start <= 80 && range.start >= 300);
    }
    assert_eq!((plan.steps(1000, 4), plan.steps(1000, 0)), (1, 1), "all is claimed");
}

#[test]
fn what_is_claimed_ends_when_all_of_it_has_come() {
    let mut plan = Plan::new(100, 10, Extents::prefix(3));
    let (part, range) = next(&mut plan, &[]);
    next(&mut plan, &[]);
    assert_eq!(range.end - range.start, 7);
    assert!(plan.ends_within(17) && !plan.ends_within(16));
    plan.take(part, 5);
    assert!(plan.ends_within(12) && !plan.ends_within(11));
    plan.release(part);
    assert!(plan.ends_within(10) && !plan.ends_within(9));
    plan.claim_open(20);
    assert!(!plan.ends_within(100), "it needs no other after it");
}

#[test]
fn who_wants_bytes_of_an_unread_part_is_kept_waiting() {
    let mut plan = Plan::new(100, 10, Extents::default());
    let ((first, _), (second, _)) = (next(&mut plan, &[]), next(&mut plan, &[]));
    assert!(!plan.keeps_waiting(&[0, 9, 20]), "the first comes first, and nobody has claimed byte 20");
    assert!(plan.keeps_waiting(&[0, 10]) && plan.keeps_waiting(&[19]));
    plan.take(second, 1);
    assert!(!plan.keeps_waiting(&[19]), "it is being read");
    plan.release(second);
    next(&mut plan, &[]);
    plan.take(first, 10);
    plan.wrote(0..10);
    assert!(!plan.keeps_waiting(&[10]), "it is its turn");
}

#[test]
fn an_open_answer_goes_on_until_it_meets_another_part() {
    let mut plan = Plan::new(100, 10, Extents::default());
    let open = plan.claim_open(0);
    assert_eq!(plan.take(open, 4), (vec![0..4], true));
    assert_eq!(plan.take(open, 9), (vec![4..13], true), "nobody else has claimed anything");
    let (part, range) = next(&mut plan, &[]);
    assert_eq!(range, 20..30);
    assert!(plan.answered(part));
    assert_eq!(plan.take(open, 7), (vec![13..20], false), "cut");

    let mut plan = Plan::new(25, 10, Extents::default());
    let open = plan.claim_open(0);
    assert_eq!(plan.take(open, 20), (vec![0..20], true));
    assert_eq!(plan.take(open, 5), (vec![20..25], false));
}

#[test]
fn an_open_answer_takes_over_what_was_only_asked_for() {
    let mut plan = Plan::new(100, 10, Extents::prefix(3));
    let open = plan.claim_open(3);
    let ((first, one), (second, two)) = (next(&mut plan, &[]), next(&mut plan, &[]));
    assert_eq!((one, two), (13..20, 20..30));
    assert_eq!(plan.take(open, 14), (vec![3..17], true), "up to byte 23 is its own now");
    assert!(!plan.answered(first));
    assert!(plan.answered(second));
    assert_eq!(plan.take(second, 5), (vec![23..25], true));
    assert_eq!(plan.take(open, 9), (vec![17..23], false));
}

#[test]
fn the_whole_skips_what_is_here() {
    let mut written = Extents::prefix(10);
    written.insert(20..30);
    let mut plan = Plan::new(50, 10, written);
    let whole = plan.claim_whole(10);
    assert!(!plan.has_gap());
    assert_eq!(plan.take(whole, 25), (vec![10..20, 30..35], true));
    assert_eq!(plan.take(whole, 40), (vec![35..50], false), "what is beyond the end is not taken");
}

#[test]
fn parts_of_blobs() {
    let mib = 1 << 20;
    assert_eq!(step(65 * mib, 64 * mib), 8 * mib);
    assert_eq!(step(1 << 30, 64 * mib), 16 * mib);
    assert_eq!(step(1 << 40, 64 * mib), 32 * mib);
    assert_eq!(step(10, 0), 1);
}

proptest! {
    /// Whatever comes in which pieces, breaks and is asked for again: no byte is written twice, and all are.
    #[test]
    fn every_byte_is_written_once(
        total in 1u64..300, size in 1u64..40, open in any::<bool>(),
        moves in proptest::collection::vec((0usize..4, 1u64..50, any::<bool>(), 0u64..310), 1..200),
    ) {
        let mut plan = Plan::new(total, size, Extents::default());
        let mut written = vec![false; total as usize];
        let mut running: Vec<Id> = if open { vec![plan.claim_open(0)] } else { Vec::new() };
        let forced = std::iter::repeat_n((0, 1000, false, 0), 2000);
        for (which, length, breaks, wanted) in moves.into_iter().chain(forced) {
            if running.len() < 4 && let Some((id, range)) = plan.claim_next(&[wanted], 1) {
                prop_assert!(range.start < range.end && range.end <= total);
                running.push(id);
                // Some are asked for only, for a while.
                if wanted % 3 > 0 {
                    plan.answered(id);
                }
            }
            let Some(id) = running.get(which % running.len().max(1)).copied() else { break };
            let on = if breaks || !plan.answered(id) { false } else {
                // What a part is sent does not exceed it; an open answer is cut.
                let (pieces, on) = plan.take(id, length);
                for piece in pieces {
                    for at in piece.clone() {
                        prop_assert!(!std::mem::replace(&mut written[at as usize], true), "byte {at} twice");
                    }
                    plan.wrote(piece);
                }
                on
            };
            if !on {
                plan.release(id);
                running.retain(|running| *running != id);
            }
        }
        prop_assert!(plan.frontier() == total && written.iter().all(|written| *written));
        prop_assert_eq!(plan.bytes(), total);
    }
}
