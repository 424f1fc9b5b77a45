//! How far a fill has come, and who waits for it: the cell between one writer and many readers.
//!
//! Pure state and wakers, no I/O and no runtime, so that loom can try every interleaving. The lock is held for a few
//! loads and stores, never across a read, a write or an `await`. The fill's task announces; readers poll.

#[cfg(loom)]
use loom::sync::{Mutex, MutexGuard};
#[cfg(not(loom))]
use std::sync::{Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

/// The end of a cold blob that no reader gets before its digest matched (I5), in bytes.
pub const HELD_BACK: u64 = 64 << 10;

/// The cell. `E` is the error that all readers get when the fill fails.
#[derive(Debug)]
pub struct Progress<E> {
    state: Mutex<State<E>>,
}

#[derive(Debug)]
struct State<E> {
    phase: Phase<E>,
    /// Bytes in the file.
    written: u64,
    readers: Readers,
}

#[derive(Debug)]
enum Phase<E> {
    /// The upstream has not answered.
    Asked,
    /// Bytes arrive; the whole has `total` bytes, if the upstream said.
    Streaming { total: Option<u64> },
    /// All bytes are there and are the right ones.
    Verified,
    /// It will not go on.
    Failed(E),
}

/// A reader's place in the cell, from [`Progress::attach`] to [`Progress::detach`].
#[derive(Debug)]
pub struct Place(usize);

/// What a reader at some offset may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readable {
    /// Read up to this offset, which lies beyond the reader's.
    Until(u64),
    /// Stop: the content ends at or before the reader's offset.
    End,
}

impl<E: Clone> Progress<E> {
    /// A fill that has just been begun.
    pub fn new() -> Self {
        Self { state: Mutex::new(State { phase: Phase::Asked, written: 0, readers: Readers::default() }) }
    }

    /// The upstream has answered. `written` bytes are in the file already.
    pub fn begin(&self, total: Option<u64>, written: u64) {
        self.announce(|state| {
            debug_assert!(matches!(state.phase, Phase::Asked));
            state.phase = Phase::Streaming { total };
            state.written = written;
        });
    }

    /// The file has `written` bytes.
    pub fn advance(&self, written: u64) {
        self.announce(|state| {
            debug_assert!(matches!(state.phase, Phase::Streaming { .. }) && written >= state.written);
            state.written = written;
        });
    }

    /// The digest matched: everything may be read (I5).
    pub fn verified(&self, written: u64) {
        self.announce(|state| {
            state.written = written;
            state.phase = Phase::Verified;
        });
    }

    /// The fill has failed; every reader gets `error`.
    pub fn fail(&self, error: E) {
        self.announce(|state| state.phase = Phase::Failed(error));
    }

    /// Whether it has failed: nobody joins it any more.
    pub fn has_failed(&self) -> bool {
        matches!(self.lock().phase, Phase::Failed(_))
    }

    /// Number of attached readers.
    pub fn readers(&self) -> usize {
        self.lock().readers.count()
    }

    /// Takes a place. Every place is given back by [`Progress::detach`].
    pub fn attach(&self) -> Place {
        self.lock().readers.take()
    }

    /// Gives a place back.
    pub fn detach(&self, place: &Place) {
        self.lock().readers.give_back(place);
    }

    /// The total size once the upstream has answered; `None` where it does not say.
    pub fn poll_head(&self, place: &Place, cx: &mut Context<'_>) -> Poll<Result<Option<u64>, E>> {
        let mut state = self.lock();
        let head = match &state.phase {
            Phase::Asked => {
                state.readers.wait(place, cx);
                return Poll::Pending;
            }
            // Of nothing no end can be held back: the head itself would be a complete answer (I5).
            Phase::Streaming { total: Some(0) } => {
                state.readers.wait(place, cx);
                return Poll::Pending;
            }
            Phase::Streaming { total } => Ok(*total),
            Phase::Verified => Ok(Some(state.written)),
            Phase::Failed(error) => Err(error.clone()),
        };
        Poll::Ready(head)
    }

    /// The total size once it is known for certain: at the latest when all is verified.
    pub fn poll_total(&self, place: &Place, cx: &mut Context<'_>) -> Poll<Result<u64, E>> {
        let mut state = self.lock();
        let total = match &state.phase {
            Phase::Asked | Phase::Streaming { total: None } => {
                state.readers.wait(place, cx);
                return Poll::Pending;
            }
            Phase::Streaming { total: Some(total) } => Ok(*total),
            Phase::Verified => Ok(state.written),
            Phase::Failed(error) => Err(error.clone()),
        };
        Poll::Ready(total)
    }

    /// What a reader that stands at `at` may do now.
    pub fn poll_beyond(&self, at: u64, place: &Place, cx: &mut Context<'_>) -> Poll<Result<Readable, E>> {
        let mut state = self.lock();
        let until = match &state.phase {
            Phase::Asked => 0,
            Phase::Streaming { total: Some(total) } => state.written.min(total.saturating_sub(HELD_BACK)),
            Phase::Streaming { total: None } => state.written.saturating_sub(HELD_BACK),
            Phase::Verified if at >= state.written => return Poll::Ready(Ok(Readable::End)),
            Phase::Verified => state.written,
            Phase::Failed(error) => return Poll::Ready(Err(error.clone())),
        };
        if at < until {
            return Poll::Ready(Ok(Readable::Until(until)));
        }
        state.readers.wait(place, cx);
        Poll::Pending
    }

    fn announce(&self, change: impl FnOnce(&mut State<E>)) {
        let wakers = {
            let mut state = self.lock();
            change(&mut state);
            state.readers.waiting()
        };
        // Outside the lock: a woken reader takes it at once.
        wakers.into_iter().for_each(Waker::wake);
    }

    fn lock(&self) -> MutexGuard<'_, State<E>> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl<E: Clone> Default for Progress<E> {
    fn default() -> Self {
        Self::new()
    }
}

/// The attached readers' wakers, by place: a reader that polls twice still waits once.
#[derive(Debug, Default)]
struct Readers {
    places: Vec<Option<Waker>>,
    free: Vec<usize>,
}

impl Readers {
    fn take(&mut self) -> Place {
        Place(self.free.pop().unwrap_or_else(|| {
            self.places.push(None);
            self.places.len() - 1
        }))
    }

    fn give_back(&mut self, place: &Place) {
        self.places[place.0] = None;
        self.free.push(place.0);
    }

    fn wait(&mut self, place: &Place, cx: &Context<'_>) {
        match &mut self.places[place.0] {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
    }

    fn waiting(&mut self) -> Vec<Waker> {
        self.places.iter_mut().filter_map(Option::take).collect()
    }

    fn count(&self) -> usize {
        self.places.len() - self.free.len()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

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
            cell.begin(total, 0);
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
        cell.begin(Some(10), 0);
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
        cell.begin(Some(0), 0);
        assert!(cell.poll_head(&place, &mut cx).is_pending());
        cell.verified(0);
        assert_eq!(cell.poll_head(&place, &mut cx), Poll::Ready(Ok(Some(0))));
    }

    #[test]
    fn places_are_reused() {
        let cell = Cell::new();
        let (first, second) = (cell.attach(), cell.attach());
        assert_eq!(cell.readers(), 2);
        cell.detach(&first);
        assert_eq!(cell.readers(), 1);
        cell.attach();
        assert_eq!(cell.lock().readers.places.len(), 2);
        cell.detach(&second);
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
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
            cell.begin(Some(HELD_BACK * 2), 0);
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
            cell.begin(None, 0);
            cell.fail("reset");
            assert_eq!(reader.join().unwrap(), Err("reset"));
            leaving.join().unwrap();
        });
    }
}
