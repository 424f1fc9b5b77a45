//! How far a fill has come, and who waits for it: the cell between one writer and many readers.
//!
//! Pure state and wakers, no I/O and no runtime, so that loom can try every interleaving. The lock is held for a few
//! loads and stores, never across a read, a write or an `await`. The fill announces; readers poll. With parts under way
//! ([`super::parts`]) bytes come in any order: a reader gets those at its place, wherever the frontier is.

#[cfg(loom)]
use loom::sync::{Mutex, MutexGuard};
use std::ops::Range;
#[cfg(not(loom))]
use std::sync::{Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use super::extents::Extents;

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
    /// What is in the file.
    written: Extents,
    readers: Readers,
}

#[derive(Debug)]
enum Phase<E> {
    /// The upstream has not answered.
    Asked,
    /// Bytes arrive; the whole has `total` bytes, if the upstream said.
    Streaming { total: Option<u64> },
    /// Given up while nobody read it. Readers that have come since wait for its failure and begin anew: whoever is given
    /// the head of an answer must be given the rest of it.
    GivenUp,
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
        Self { state: Mutex::new(State { phase: Phase::Asked, written: Extents::default(), readers: Readers::default() }) }
    }

    /// The upstream has answered. `written` is in the file already.
    pub fn begin(&self, total: Option<u64>, written: Extents) {
        self.announce(|state| {
            debug_assert!(matches!(state.phase, Phase::Asked));
            state.phase = Phase::Streaming { total };
            state.written = written;
        });
    }

    /// The file has its first `written` bytes.
    pub fn advance(&self, written: u64) {
        self.fill(0..written);
    }

    /// The file has these bytes, too.
    pub fn fill(&self, written: Range<u64>) {
        self.announce(|state| {
            debug_assert!(matches!(state.phase, Phase::Streaming { .. } | Phase::GivenUp));
            state.written.insert(written);
        });
    }

    /// The digest matched: everything may be read (I5).
    pub fn verified(&self, written: u64) {
        self.announce(|state| {
            state.written = Extents::prefix(written);
            state.phase = Phase::Verified;
        });
    }

    /// Gives it up if it has no reader; whether it was given up. [`Progress::fail`] must follow.
    pub fn give_up(&self) -> bool {
        let mut state = self.lock();
        let unread = state.readers.count() == 0;
        if unread {
            debug_assert!(matches!(state.phase, Phase::Streaming { .. }));
            state.phase = Phase::GivenUp;
        }
        unread
    }

    /// The fill has failed; every reader gets `error`.
    pub fn fail(&self, error: E) {
        self.announce(|state| state.phase = Phase::Failed(error));
    }

    /// Whether it has come to its end, good or bad.
    pub fn has_ended(&self) -> bool {
        matches!(self.lock().phase, Phase::Verified | Phase::Failed(_))
    }

    /// Whether it has failed: nobody joins it any more.
    pub fn has_failed(&self) -> bool {
        matches!(self.lock().phase, Phase::Failed(_))
    }

    /// Number of attached readers.
    pub fn readers(&self) -> usize {
        self.lock().readers.count()
    }

    /// Where readers wait for bytes, from the front to the back.
    pub fn wanted(&self) -> Vec<u64> {
        let mut wanted: Vec<u64> = self.lock().readers.waiting.iter().flatten().filter_map(|(_, at)| *at).collect();
        wanted.sort_unstable();
        wanted
    }

    /// Takes a place. Every place is given back by [`Progress::detach`].
    pub fn attach(&self) -> Place {
        self.lock().readers.take()
    }

    /// Gives a place back.
    pub fn detach(&self, place: &Place) {
        self.lock().readers.give_back(place);
    }

    /// The total size once the upstream has answered; `None` where it does not say. For a blob that is held back whole,
    /// only once all is verified: an error before that still gets a status line, which sends clients on to their next
    /// address; a 200 that breaks off does not.
    pub fn poll_head(&self, place: &Place, cx: &mut Context<'_>) -> Poll<Result<Option<u64>, E>> {
        let mut state = self.lock();
        let head = match &state.phase {
            Phase::Asked | Phase::GivenUp => {
                state.readers.wait(place, None, cx);
                return Poll::Pending;
            }
            // Held back whole. Of an empty blob the head alone would be a complete answer (I5).
            Phase::Streaming { total: Some(..=HELD_BACK) } => {
                state.readers.wait(place, None, cx);
                return Poll::Pending;
            }
            Phase::Streaming { total } => Ok(*total),
            Phase::Verified => Ok(Some(state.written.frontier())),
            Phase::Failed(error) => Err(error.clone()),
        };
        Poll::Ready(head)
    }

    /// The total size once it is known for certain: at the latest when all is verified.
    pub fn poll_total(&self, place: &Place, cx: &mut Context<'_>) -> Poll<Result<u64, E>> {
        let mut state = self.lock();
        let total = match &state.phase {
            Phase::Asked | Phase::GivenUp | Phase::Streaming { total: None } => {
                state.readers.wait(place, None, cx);
                return Poll::Pending;
            }
            Phase::Streaming { total: Some(total) } => Ok(*total),
            Phase::Verified => Ok(state.written.frontier()),
            Phase::Failed(error) => Err(error.clone()),
        };
        Poll::Ready(total)
    }

    /// What a reader that stands at `at` may do now.
    pub fn poll_beyond(&self, at: u64, place: &Place, cx: &mut Context<'_>) -> Poll<Result<Readable, E>> {
        let mut state = self.lock();
        match state.readable(at) {
            Some(readable) => Poll::Ready(readable),
            None => {
                state.readers.wait(place, Some(at), cx);
                Poll::Pending
            }
        }
    }

    fn announce(&self, change: impl FnOnce(&mut State<E>)) {
        let wakers = {
            let mut state = self.lock();
            let phase = std::mem::discriminant(&state.phase);
            change(&mut state);
            let turned = phase != std::mem::discriminant(&state.phase);
            state.woken(turned)
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

impl<E: Clone> State<E> {
    /// What a reader that stands at `at` may do; `None`: wait.
    fn readable(&self, at: u64) -> Option<Result<Readable, E>> {
        let here = self.written.end_from(at).unwrap_or(0);
        let until = match &self.phase {
            Phase::Asked | Phase::GivenUp => return None,
            Phase::Streaming { total: Some(total) } => here.min(total.saturating_sub(HELD_BACK)),
            Phase::Streaming { total: None } => here.saturating_sub(HELD_BACK),
            Phase::Verified if here == 0 => return Some(Ok(Readable::End)),
            Phase::Verified => here,
            Phase::Failed(error) => return Some(Err(error.clone())),
        };
        (at < until).then_some(Ok(Readable::Until(until)))
    }

    /// The wakers of those for whom something has changed: all of them, if the phase has, else those whose bytes have
    /// come. A crowd that waits for the end of a blob is not woken for each piece of its middle.
    fn woken(&mut self, phase: bool) -> Vec<Waker> {
        let mut waiting = std::mem::take(&mut self.readers.waiting);
        let come = |at: &Option<u64>| at.is_some_and(|at| self.readable(at).is_some());
        let woken = waiting.iter_mut().filter(|place| place.as_ref().is_some_and(|(_, at)| phase || come(at)));
        let woken = woken.filter_map(Option::take).map(|(waker, _)| waker).collect();
        self.readers.waiting = waiting;
        woken
    }
}

/// The attached readers' wakers, by place: a reader that polls twice still waits once.
#[derive(Debug, Default)]
struct Readers {
    /// Each with the byte that it waits for; `None`: for the size.
    waiting: Vec<Option<(Waker, Option<u64>)>>,
    free: Vec<usize>,
}

impl Readers {
    fn take(&mut self) -> Place {
        Place(self.free.pop().unwrap_or_else(|| {
            self.waiting.push(None);
            self.waiting.len() - 1
        }))
    }

    fn give_back(&mut self, place: &Place) {
        self.waiting[place.0] = None;
        self.free.push(place.0);
    }

    fn wait(&mut self, place: &Place, at: Option<u64>, cx: &Context<'_>) {
        match &mut self.waiting[place.0] {
            Some((waker, waits)) => {
                waker.clone_from(cx.waker());
                *waits = at;
            }
            none => *none = Some((cx.waker().clone(), at)),
        }
    }

    fn count(&self) -> usize {
        self.waiting.len() - self.free.len()
    }
}

#[cfg(all(test, loom))]
mod loom_tests;
#[cfg(all(test, not(loom)))]
mod tests;
