//! Whose turn it is: requests to one upstream, beyond what it may be asked at one time, wait here.
//!
//! Tags and manifests go ahead of layers and have a few places to themselves. Within a lane the repositories take
//! turns, so that an image of a hundred layers does not hold up everybody else's; within a repository, first come
//! first served. The queue is bounded: what finds it full is refused at once. [`Line`] is the pure part.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::oneshot;

use crate::oci::Repository;

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    /// A tag, a manifest, a list: short, and a client can do nothing before it.
    Small,
    /// A blob.
    Layer,
}

/// How many requests may run and wait.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Layers at one time.
    pub(super) layers: usize,
    /// Requests at one time, layers included.
    pub(super) all: usize,
    /// Waiting ones.
    pub(super) waiting: usize,
}

/// How many there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Crowd {
    /// Requests under way.
    pub running: usize,
    /// Blob downloads among them.
    pub layers: usize,
    /// Requests that wait.
    pub waiting: usize,
}

/// The queue is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full;

/// The repositories that wait in a lane, in turn, and their tickets.
#[derive(Debug)]
struct Turns<T> {
    order: VecDeque<Repository>,
    tickets: HashMap<Repository, VecDeque<T>>,
}

impl<T> Turns<T> {
    fn new() -> Self {
        Self { order: VecDeque::new(), tickets: HashMap::new() }
    }

    fn push(&mut self, repository: &Repository, ticket: T) {
        let tickets = self.tickets.entry(repository.clone()).or_default();
        if tickets.is_empty() {
            self.order.push_back(repository.clone());
        }
        tickets.push_back(ticket);
    }

    fn pop(&mut self) -> Option<T> {
        let repository = self.order.pop_front()?;
        let tickets = self.tickets.get_mut(&repository)?;
        let ticket = tickets.pop_front();
        if tickets.is_empty() {
            self.tickets.remove(&repository);
        } else {
            self.order.push_back(repository);
        }
        ticket
    }

    fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) {
        self.tickets.retain(|_, tickets| {
            tickets.retain(&mut keep);
            !tickets.is_empty()
        });
        self.order.retain(|repository| self.tickets.contains_key(repository));
    }
}

/// Who runs and who waits. Pure; `T` is what a waiting request is woken by.
#[derive(Debug)]
struct Line<T> {
    limits: Limits,
    crowd: Crowd,
    small: Turns<T>,
    layers: Turns<T>,
}

impl<T> Line<T> {
    fn new(limits: Limits) -> Self {
        Self { limits, crowd: Crowd::default(), small: Turns::new(), layers: Turns::new() }
    }

    fn has_place(&self, lane: Lane) -> bool {
        self.crowd.running < self.limits.all && (lane == Lane::Small || self.crowd.layers < self.limits.layers)
    }

    fn start(&mut self, lane: Lane) {
        self.crowd.running += 1;
        self.crowd.layers += usize::from(lane == Lane::Layer);
    }

    /// Whether a request may run now; nobody who waits in its lane, or in a better one, is overtaken.
    fn enter(&mut self, lane: Lane) -> bool {
        let runs = self.is_free(lane);
        if runs {
            self.start(lane);
        }
        runs
    }

    fn is_free(&self, lane: Lane) -> bool {
        let ahead = !self.small.order.is_empty() || (lane == Lane::Layer && !self.layers.order.is_empty());
        !ahead && self.has_place(lane)
    }

    fn wait(&mut self, lane: Lane, repository: &Repository, ticket: T) -> Result<(), Full> {
        if self.crowd.waiting >= self.limits.waiting {
            return Err(Full);
        }
        self.crowd.waiting += 1;
        match lane {
            Lane::Small => self.small.push(repository, ticket),
            Lane::Layer => self.layers.push(repository, ticket),
        }
        Ok(())
    }

    fn leave(&mut self, lane: Lane) {
        self.crowd.running -= 1;
        self.crowd.layers -= usize::from(lane == Lane::Layer);
    }

    /// Whose turn it is, if there is a place. Those who have gone away are passed over.
    fn next(&mut self, alive: impl Fn(&T) -> bool) -> Option<(Lane, T)> {
        loop {
            let (lane, ticket) = match self.has_place(Lane::Small).then(|| self.small.pop()).flatten() {
                Some(ticket) => (Lane::Small, ticket),
                None => (Lane::Layer, self.has_place(Lane::Layer).then(|| self.layers.pop()).flatten()?),
            };
            self.crowd.waiting -= 1;
            if alive(&ticket) {
                self.start(lane);
                return Some((lane, ticket));
            }
        }
    }

    fn forget(&mut self, keep: impl Fn(&T) -> bool) {
        let mut gone = 0;
        let mut keep = |ticket: &T| {
            let keep = keep(ticket);
            gone += usize::from(!keep);
            keep
        };
        self.small.retain(&mut keep);
        self.layers.retain(&mut keep);
        self.crowd.waiting -= gone;
    }
}

type Ticket = oneshot::Sender<Slot>;

/// The queue of one upstream.
#[derive(Debug)]
pub(super) struct Queue(Mutex<Line<Ticket>>);

/// A place among the running requests; free again when it is dropped.
#[derive(Debug)]
pub(super) struct Slot {
    queue: Arc<Queue>,
    lane: Lane,
}

impl Queue {
    pub(super) fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Line::new(limits))))
    }

    /// Waits for a place. Cancel-safe: a caller that goes away gives its turn to the next.
    pub(super) async fn enter(self: &Arc<Self>, lane: Lane, repository: &Repository) -> Result<Slot, Full> {
        let turn = {
            let mut line = self.line();
            if line.enter(lane) {
                return Ok(Slot { queue: self.clone(), lane });
            }
            if line.crowd.waiting >= line.limits.waiting {
                // Places of those who went away.
                line.forget(|ticket| !ticket.is_closed());
            }
            let (ticket, turn) = oneshot::channel();
            line.wait(lane, repository, ticket)?;
            turn
        };
        // The sender goes only with the queue itself, of which this holds a share.
        turn.await.map_err(|_| Full)
    }

    /// A place, if one is free and nobody waits for it.
    pub(super) fn try_enter(self: &Arc<Self>, lane: Lane) -> Option<Slot> {
        let mut line = self.line();
        line.forget(|ticket| !ticket.is_closed());
        line.enter(lane).then(|| Slot { queue: self.clone(), lane })
    }

    /// Whether [`Queue::try_enter`] would give a place.
    pub(super) fn has_room(&self, lane: Lane) -> bool {
        let mut line = self.line();
        line.forget(|ticket| !ticket.is_closed());
        line.is_free(lane)
    }

    /// How many run and wait.
    pub(super) fn crowd(&self) -> Crowd {
        let mut line = self.line();
        line.forget(|ticket| !ticket.is_closed());
        line.crowd
    }

    fn line(&self) -> MutexGuard<'_, Line<Ticket>> {
        self.0.lock()
    }

    fn advance(self: &Arc<Self>) {
        loop {
            let Some((lane, ticket)) = self.line().next(|ticket| !ticket.is_closed()) else { return };
            // Not under the lock: a slot that comes back, because its owner went away just now, is dropped here.
            drop(ticket.send(Slot { queue: self.clone(), lane }));
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.queue.line().leave(self.lane);
        self.queue.advance();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    fn repository(name: &str) -> Repository {
        name.parse().unwrap()
    }

    const LIMITS: Limits = Limits { layers: 2, all: 3, waiting: 5 };

    #[tokio::test(start_paused = true)]
    async fn tags_and_manifests_go_ahead_and_repositories_take_turns() {
        let queue = Queue::new(LIMITS);
        let (a, b) = (repository("a/a"), repository("b/b"));
        let mut slots = Vec::new();
        for _ in 0..2 {
            slots.push(queue.enter(Lane::Layer, &a).await.unwrap());
        }
        slots.push(queue.enter(Lane::Small, &a).await.unwrap());
        let order: Arc<Mutex<Vec<&str>>> = Arc::default();
        let waiting = [
            (Lane::Layer, &a, "a1"),
            (Lane::Layer, &a, "a2"),
            (Lane::Layer, &a, "a3"),
            (Lane::Layer, &b, "b1"),
            (Lane::Small, &b, "manifest"),
        ];
        let tasks: Vec<_> = waiting
            .into_iter()
            .map(|(lane, repository, name)| {
                let (queue, repository, order) = (queue.clone(), repository.clone(), order.clone());
                tokio::spawn(async move {
                    let slot = queue.enter(lane, &repository).await.unwrap();
                    order.lock().push(name);
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    drop(slot);
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(queue.crowd(), Crowd { running: 3, layers: 2, waiting: 5 });
        assert_eq!(queue.enter(Lane::Small, &b).await.unwrap_err(), Full);
        // One layer ends: the manifest goes first although it came last.
        slots.pop();
        slots.clear();
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(*order.lock(), ["manifest", "a1", "b1", "a2", "a3"]);
        assert_eq!(queue.crowd(), Crowd::default());
    }

    #[tokio::test(start_paused = true)]
    async fn a_spare_part_takes_only_what_nobody_waits_for() {
        let queue = Queue::new(Limits { layers: 2, all: 3, waiting: 5 });
        let a = repository("a/a");
        let first = queue.enter(Lane::Layer, &a).await.unwrap();
        let spare = queue.try_enter(Lane::Layer).unwrap();
        assert!(queue.try_enter(Lane::Layer).is_none() && !queue.has_room(Lane::Layer));
        let waiting = tokio::spawn({
            let (queue, a) = (queue.clone(), a.clone());
            async move { queue.enter(Lane::Layer, &a).await.unwrap() }
        });
        tokio::task::yield_now().await;
        drop(spare);
        assert!(queue.try_enter(Lane::Layer).is_none(), "it is the turn of the one who waits");
        drop((waiting.await.unwrap(), first));
        assert!(queue.has_room(Lane::Layer));
    }

    #[tokio::test(start_paused = true)]
    async fn who_goes_away_holds_no_place() {
        let queue = Queue::new(Limits { layers: 1, all: 1, waiting: 2 });
        let a = repository("a/a");
        let running = queue.enter(Lane::Layer, &a).await.unwrap();
        for _ in 0..10 {
            let turn = tokio::time::timeout(Duration::from_secs(1), queue.enter(Lane::Layer, &a)).await;
            assert!(turn.is_err(), "waits");
        }
        let last = tokio::spawn({
            let (queue, a) = (queue.clone(), a.clone());
            async move { queue.enter(Lane::Layer, &a).await.map(drop) }
        });
        tokio::task::yield_now().await;
        drop(running);
        last.await.unwrap().unwrap();
        assert_eq!(queue.crowd(), Crowd::default());
    }

    proptest! {
        /// Limits hold, no place is lost, nobody waits beside a free place that is his.
        #[test]
        fn no_place_is_lost(steps in proptest::collection::vec((0u8..3, any::<bool>(), 0usize..4), 1..300)) {
            let mut line: Line<(usize, bool)> = Line::new(LIMITS);
            let mut running: Vec<Lane> = Vec::new();
            for (number, (step, small, which)) in steps.into_iter().enumerate() {
                let lane = if small { Lane::Small } else { Lane::Layer };
                match step {
                    0 | 1 => {
                        let name = repository(["a/a", "b/b", "c/c", "d/d"][which]);
                        if line.enter(lane) {
                            running.push(lane);
                        } else {
                            let full = line.crowd.waiting == LIMITS.waiting;
                            // Every fifth goes away while it waits.
                            prop_assert_eq!(line.wait(lane, &name, (number, number % 5 != 0)).is_err(), full);
                        }
                    }
                    _ if !running.is_empty() => {
                        line.leave(running.swap_remove(which % running.len()));
                        while let Some((lane, ticket)) = line.next(|(_, alive)| *alive) {
                            prop_assert!(ticket.1);
                            running.push(lane);
                        }
                    }
                    _ => {}
                }
                let layers = running.iter().filter(|lane| **lane == Lane::Layer).count();
                prop_assert_eq!((line.crowd.running, line.crowd.layers), (running.len(), layers));
                prop_assert!(running.len() <= LIMITS.all && layers <= LIMITS.layers && line.crowd.waiting <= LIMITS.waiting);
                prop_assert!(line.small.order.is_empty() || running.len() == LIMITS.all);
                prop_assert!(line.layers.order.is_empty() || running.len() == LIMITS.all || layers == LIMITS.layers);
            }
        }
    }
}
