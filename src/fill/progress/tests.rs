use super::*;
use proptest::prelude::*;

type Cell = Progress<&'static str>;

fn poll(cell: &Cell, place: &Place, at: u64) -> Poll<Result<Readable, &'static str>> {
    cell.poll_beyond(at, place, &mut Context::from_waker(Waker::noop()))
}

#[test]
fn i5_the_end_is_held_back_until_it_is_verified() {
    for total in [Some(HELD_BACK * 3), None] {
        let cell = Cell::new();
        let place = cell.attach();
        assert!(poll(&cell, &place, 0).is_pending());
        cell.begin(total, Extents::default());
        cell.advance(HELD_BACK * 2);
        let early = if total.is_some() { HELD_BACK * 2 } else { HELD_BACK };
        assert_eq!(poll(&cell, &place, 0), Poll::Ready(Ok(Readable::Until(early))));
        cell.advance(HELD_BACK * 3);
        assert_eq!(poll(&cell, &place, 0), Poll::Ready(Ok(Readable::Until(HELD_BACK * 2))));
        assert!(poll(&cell, &place, HELD_BACK * 2).is_pending());
        cell.verified(HELD_BACK * 3);
        assert_eq!(poll(&cell, &place, HELD_BACK * 2), Poll::Ready(Ok(Readable::Until(HELD_BACK * 3))));
        assert_eq!(poll(&cell, &place, HELD_BACK * 3), Poll::Ready(Ok(Readable::End)));
    }
}

#[test]
fn a_small_blob_is_held_back_whole() {
    let cell = Cell::new();
    let place = cell.attach();
    cell.begin(Some(10), Extents::default());
    cell.advance(10);
    assert!(poll(&cell, &place, 0).is_pending());
    cell.fail("wrong digest");
    assert_eq!(poll(&cell, &place, 0), Poll::Ready(Err("wrong digest")));
}

#[test]
fn i5_an_empty_blob_has_no_head_before_it_is_verified() {
    let cell = Cell::new();
    let place = cell.attach();
    let mut cx = Context::from_waker(Waker::noop());
    cell.begin(Some(0), Extents::default());
    assert!(cell.poll_head(&place, &mut cx).is_pending());
    cell.verified(0);
    assert_eq!(cell.poll_head(&place, &mut cx), Poll::Ready(Ok(Some(0))));
}

#[test]
fn who_comes_after_it_was_given_up_hears_of_nothing_but_its_failure() {
    let cell = Cell::new();
    let mut cx = Context::from_waker(Waker::noop());
    cell.begin(Some(HELD_BACK * 3), Extents::default());
    cell.advance(HELD_BACK * 2);
    let reader = cell.attach();
    assert!(!cell.give_up() && poll(&cell, &reader, 0).is_ready(), "somebody reads it");
    cell.detach(&reader);
    assert!(cell.give_up());
    let late = cell.attach();
    assert!(cell.poll_head(&late, &mut cx).is_pending() && cell.poll_total(&late, &mut cx).is_pending());
    // What was on its way to the disk.
    cell.advance(HELD_BACK * 3);
    assert!(poll(&cell, &late, 0).is_pending());
    cell.fail("abandoned");
    assert_eq!(cell.poll_head(&late, &mut cx), Poll::Ready(Err("abandoned")));
}

#[test]
fn places_are_reused() {
    let cell = Cell::new();
    let (first, second) = (cell.attach(), cell.attach());
    assert_eq!(cell.readers(), 2);
    cell.detach(&first);
    assert_eq!(cell.readers(), 1);
    cell.attach();
    assert_eq!(cell.lock().readers.waiting.len(), 2);
    cell.detach(&second);
}

#[test]
fn a_reader_gets_the_bytes_at_its_place_wherever_the_frontier_is() {
    let cell = Cell::new();
    let place = cell.attach();
    let total = 100 * HELD_BACK;
    cell.begin(Some(total), Extents::prefix(10));
    assert!(poll(&cell, &place, 5 * HELD_BACK).is_pending());
    assert_eq!(cell.wanted(), [5 * HELD_BACK]);
    cell.fill(5 * HELD_BACK..6 * HELD_BACK);
    assert_eq!(poll(&cell, &place, 5 * HELD_BACK), Poll::Ready(Ok(Readable::Until(6 * HELD_BACK))));
    assert!(poll(&cell, &place, 10).is_pending(), "a hole");
    // I5, of the last part too.
    cell.fill(98 * HELD_BACK..total);
    assert_eq!(poll(&cell, &place, 98 * HELD_BACK), Poll::Ready(Ok(Readable::Until(99 * HELD_BACK))));
    assert!(poll(&cell, &place, 99 * HELD_BACK).is_pending());
}

/// Counts how often it is woken.
#[derive(Default)]
struct Counter(std::sync::atomic::AtomicUsize);

impl std::task::Wake for Counter {
    fn wake(self: std::sync::Arc<Self>) {
        self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }
}

#[test]
fn only_those_whose_bytes_have_come_are_woken() {
    let cell = Cell::new();
    let counters = [(); 3].map(|()| std::sync::Arc::new(Counter::default()));
    let woken = || counters.each_ref().map(|counter| counter.0.load(std::sync::atomic::Ordering::Relaxed));
    let places = [(); 3].map(|()| cell.attach());
    cell.begin(Some(100 * HELD_BACK), Extents::default());
    for (number, at) in [0, 50 * HELD_BACK, 99 * HELD_BACK].into_iter().enumerate() {
        let waker = Waker::from(counters[number].clone());
        assert!(cell.poll_beyond(at, &places[number], &mut Context::from_waker(&waker)).is_pending());
    }
    cell.fill(50 * HELD_BACK..51 * HELD_BACK);
    assert_eq!(woken(), [0, 1, 0]);
    cell.fill(0..HELD_BACK);
    assert_eq!(woken(), [1, 1, 0]);
    cell.fill(0..100 * HELD_BACK);
    assert_eq!(woken(), [1, 1, 0], "the end is held back");
    cell.verified(100 * HELD_BACK);
    assert_eq!(woken(), [1, 1, 1]);
}

proptest! {
    /// Parts are completed in any order: a reader at any place is let read what is here, nothing else, and all of it in
    /// the end; nobody who could go on is left asleep.
    #[test]
    fn every_reader_sees_exactly_the_blob(
        order in Just((0u64..12).collect::<Vec<_>>()).prop_shuffle(),
        readers in proptest::collection::vec(0u64..12 * HELD_BACK, 1..6),
    ) {
        let (cell, total) = (Cell::new(), 12 * HELD_BACK);
        let mut readers: Vec<_> = readers
            .into_iter()
            .map(|at| (at, cell.attach(), std::sync::Arc::new(Counter::default()), None))
            .collect();
        cell.begin(Some(total), Extents::default());
        let mut here = [false; 12];
        for step in 0..=12 {
            let verified = step == 12;
            if verified {
                cell.verified(total);
            } else {
                here[order[step] as usize] = true;
                cell.fill(order[step] * HELD_BACK..(order[step] + 1) * HELD_BACK);
            }
            for (at, place, counter, asleep) in &mut readers {
                let woken = counter.0.load(std::sync::atomic::Ordering::Relaxed);
                let waker = Waker::from(counter.clone());
                while *at < total {
                    match cell.poll_beyond(*at, place, &mut Context::from_waker(&waker)) {
                        Poll::Ready(Ok(Readable::Until(until))) => {
                            prop_assert!(*asleep != Some(woken), "it could go on and was not woken");
                            prop_assert!(*at < until && (verified || until <= total - HELD_BACK));
                            prop_assert!((*at / HELD_BACK..until.div_ceil(HELD_BACK)).all(|part| here[part as usize]));
                            (*at, *asleep) = (until, None);
                        }
                        Poll::Ready(other) => prop_assert!(false, "{other:?}"),
                        Poll::Pending => {
                            *asleep = Some(counter.0.load(std::sync::atomic::Ordering::Relaxed));
                            break;
                        }
                    }
                }
            }
        }
        prop_assert!(readers.iter().all(|(at, ..)| *at == total));
    }
}
