use super::*;
use loom::future::block_on;
use loom::sync::Arc;
use loom::thread;
use std::future::poll_fn;

/// Reads to the end, or to the error, as the body of an answer does; returns where it stopped.
async fn follow(cell: &Progress<&'static str>) -> Result<u64, &'static str> {
    let place = cell.attach();
    let mut at = 0;
    let end = loop {
        match poll_fn(|cx| cell.poll_beyond(at, &place, cx)).await {
            Ok(Readable::Until(until)) => at = until,
            Ok(Readable::End) => break Ok(at),
            Err(error) => break Err(error),
        }
    };
    cell.detach(&place);
    end
}

/// No wake-up is lost, whatever the interleaving: both readers come to the end.
#[test]
fn loom_every_reader_comes_to_the_end() {
    loom::model(|| {
        let cell = Arc::new(Progress::new());
        let readers: Vec<_> = (0..2)
            .map(|_| {
                let cell = cell.clone();
                thread::spawn(move || block_on(follow(&cell)))
            })
            .collect();
        cell.begin(Some(HELD_BACK * 2), Extents::default());
        cell.advance(HELD_BACK * 2);
        cell.verified(HELD_BACK * 2);
        for reader in readers {
            assert_eq!(reader.join().unwrap(), Ok(HELD_BACK * 2));
        }
        assert_eq!(cell.readers(), 0);
    });
}

/// A failure reaches a reader that waits, has not begun to wait, or is just leaving.
#[test]
fn loom_every_reader_hears_of_a_failure() {
    loom::model(|| {
        let cell = Arc::new(Progress::new());
        let reader = {
            let cell = cell.clone();
            thread::spawn(move || block_on(follow(&cell)))
        };
        let leaving = {
            let cell = cell.clone();
            thread::spawn(move || {
                let place = cell.attach();
                let _ = block_on(poll_fn(|cx| Poll::Ready(cell.poll_head(&place, cx).is_ready())));
                cell.detach(&place);
            })
        };
        cell.begin(None, Extents::default());
        cell.fail("reset");
        assert_eq!(reader.join().unwrap(), Err("reset"));
        leaving.join().unwrap();
    });
}

/// Who comes while a fill is given up either keeps it, or is told of nothing but the failure.
#[test]
fn loom_a_fill_is_given_up_unread_or_not_at_all() {
    loom::model(|| {
        let cell = Arc::new(Progress::new());
        cell.begin(Some(HELD_BACK * 2), Extents::default());
        let coming = {
            let cell = cell.clone();
            thread::spawn(move || {
                let place = cell.attach();
                let head = block_on(poll_fn(|cx| cell.poll_head(&place, cx)));
                let end = block_on(follow(&cell));
                cell.detach(&place);
                (head, end)
            })
        };
        if cell.give_up() {
            cell.fail("abandoned");
            assert_eq!(coming.join().unwrap(), (Err("abandoned"), Err("abandoned")));
        } else {
            cell.advance(HELD_BACK * 2);
            cell.verified(HELD_BACK * 2);
            assert_eq!(coming.join().unwrap(), (Ok(Some(HELD_BACK * 2)), Ok(HELD_BACK * 2)));
        }
    });
}

/// Two parts announce out of order: a reader at the front and one at the second part both get what is theirs.
#[test]
fn loom_parts_out_of_order_lose_no_reader() {
    loom::model(|| {
        let cell = Arc::new(Progress::<&'static str>::new());
        cell.begin(Some(HELD_BACK * 3), Extents::default());
        let part = {
            let cell = cell.clone();
            thread::spawn(move || cell.fill(HELD_BACK..HELD_BACK * 3))
        };
        let far = {
            let cell = cell.clone();
            thread::spawn(move || {
                let place = cell.attach();
                let got = block_on(poll_fn(|cx| cell.poll_beyond(HELD_BACK, &place, cx)));
                cell.detach(&place);
                got
            })
        };
        cell.fill(0..HELD_BACK);
        assert_eq!(far.join().unwrap(), Ok(Readable::Until(HELD_BACK * 2)));
        part.join().unwrap();
        cell.verified(HELD_BACK * 3);
        assert_eq!(block_on(follow(&cell)), Ok(HELD_BACK * 3));
    });
}
