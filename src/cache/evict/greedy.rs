//! The Greedy-Dual family: the object of the lowest priority goes, and its priority becomes the floor for all that
//! come later, so that past favourites age. 22 bytes an object, O(log n).
//!
//! priority = floor + uses ÷ size^weight. Weight 1 is GDSF (Cherkasova 1998), which makes the most hits of a byte;
//! weight 0 is LFU-DA (Arlitt et al. 2000), which saves the most bytes. Equal priorities go in order of use.

use super::{Id, Policy};
use crate::cache::segments::Segments;

const NOWHERE: Place = Place(u32::MAX);

/// A place in the heap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place(u32);

impl Default for Place {
    fn default() -> Self {
        NOWHERE
    }
}

/// A turn's part of a priority: a tie-break. It takes 10^9 turns between the uses of two objects to outweigh a use of a
/// typical layer.
const TURN: f64 = 1e-9;

/// Uses that count. A favourite of last year must not stay for another one.
const MAX_USES: u16 = 1000;

/// See the module.
#[derive(Debug)]
pub struct Greedy {
    /// Sizes count in this unit, so that a use of a typical layer weighs about 1.
    unit: f64,
    weight: f64,
    /// A binary heap, lowest priority first.
    heap: Vec<(f64, Id)>,
    /// Where in the heap an object is.
    places: Segments<Place>,
    uses: Segments<u16>,
    /// Size^weight, in units. Empty for weight 0.
    costs: Segments<f32>,
    floor: f64,
    turn: f64,
}

impl Greedy {
    /// GDSF.
    pub fn gdsf() -> Self {
        Self::new(1.0)
    }

    /// LFU with dynamic aging.
    pub fn lfu_da() -> Self {
        Self::new(0.0)
    }

    fn new(weight: f64) -> Self {
        Self {
            unit: (1 << 20) as f64,
            weight,
            heap: Vec::new(),
            places: Segments::default(),
            uses: Segments::default(),
            costs: Segments::default(),
            floor: 0.0,
            turn: 0.0,
        }
    }

    fn priority(&mut self, id: Id) -> f64 {
        self.turn += TURN;
        let cost = self.costs.get(id).copied().map_or(1.0, f64::from);
        self.floor + f64::from(self.uses[id]) / cost + self.turn
    }

    fn place(&self, id: Id) -> Option<usize> {
        self.places.get(id).copied().filter(|place| *place != NOWHERE).map(|place| place.0 as usize)
    }

    fn swap(&mut self, a: usize, b: usize) {
        self.heap.swap(a, b);
        self.places[self.heap[a].1] = Place(a as u32);
        self.places[self.heap[b].1] = Place(b as u32);
    }

    fn up(&mut self, mut at: usize) {
        while at > 0 && self.heap[at].0 < self.heap[(at - 1) / 2].0 {
            self.swap(at, (at - 1) / 2);
            at = (at - 1) / 2;
        }
    }

    fn down(&mut self, mut at: usize) {
        loop {
            let Some(least) = [2 * at + 1, 2 * at + 2]
                .into_iter()
                .filter(|child| *child < self.heap.len())
                .min_by(|a, b| self.heap[*a].0.total_cmp(&self.heap[*b].0))
                .filter(|child| self.heap[*child].0 < self.heap[at].0)
            else {
                return;
            };
            self.swap(at, least);
            at = least;
        }
    }

    fn take(&mut self, place: usize) {
        let last = self.heap.len() - 1;
        self.swap(place, last);
        if let Some((_, id)) = self.heap.pop() {
            self.places[id] = NOWHERE;
        }
        if place < self.heap.len() {
            self.up(place);
            self.down(place);
        }
    }
}

impl Policy for Greedy {
    fn insert(&mut self, id: Id, _name: u64, size: u64) {
        self.places.grow(id);
        self.uses.grow(id);
        self.uses[id] = 1;
        if self.weight > 0.0 {
            self.costs.grow(id);
            // An empty object costs a file all the same.
            self.costs[id] = ((size.max(4096) as f64) / self.unit).powf(self.weight) as f32;
        }
        let priority = self.priority(id);
        self.places[id] = Place(self.heap.len() as u32);
        self.heap.push((priority, id));
        self.up(self.heap.len() - 1);
    }

    fn touch(&mut self, id: Id) {
        let Some(place) = self.place(id) else { return };
        let uses = &mut self.uses[id];
        *uses = (*uses + 1).min(MAX_USES);
        self.heap[place].0 = self.priority(id);
        self.down(place);
    }

    fn remove(&mut self, id: Id) {
        if let Some(place) = self.place(id) {
            self.take(place);
        }
    }

    fn evict(&mut self) -> Option<Id> {
        let (priority, id) = *self.heap.first()?;
        // Without the turn's part, which would otherwise count twice.
        self.floor = self.floor.max(priority - self.turn);
        self.take(0);
        Some(id)
    }

    fn candidate(&self) -> Option<Id> {
        self.heap.first().map(|(_, id)| *id)
    }

    fn order(&self) -> Box<dyn Iterator<Item = Id> + '_> {
        let mut all = self.heap.clone();
        all.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
        Box::new(all.into_iter().map(|(_, id)| id))
    }

    fn heat(&self, id: Id) -> u8 {
        // By powers of two: 1, 2 to 3, 4 to 7, … 64 uses and more.
        self.uses.get(id).map_or(0, |uses| uses.checked_ilog2().unwrap_or(0).min(6) as u8)
    }

    fn restore(&mut self, id: Id, name: u64, size: u64, heat: u8) {
        self.insert(id, name, size);
        self.uses[id] = 1 << heat.min(6);
        if let Some(place) = self.place(id) {
            self.heap[place].0 = self.priority(id);
            self.down(place);
        }
    }
}
