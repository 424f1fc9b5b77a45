//! Which object goes first: pure bookkeeping behind one small trait, no I/O, no clock.
//!
//! A policy knows objects by a dense number ([`Id`]) and keeps a few bytes for each. Called by [`super::index`] under
//! its lock. `examples/eviction.rs` replays traces against every policy here; docs/EVICTION.md has its table, by which
//! the default was chosen.

mod chain;
mod greedy;
mod lru;
mod s3fifo;
mod sieve;
#[cfg(test)]
mod tests;

use std::fmt;

pub use greedy::Greedy;
pub use lru::Lru;
pub use s3fifo::S3Fifo;
pub use sieve::Sieve;

/// An object's place in the index. Small numbers, used again after an object has gone: policies are arrays over them.
pub type Id = u32;

/// The greatest [`Policy::heat`].
pub const MAX_HEAT: u8 = 7;

/// The order in which objects go. Every operation costs O(1), or O(log n) where the policy says so.
pub trait Policy: fmt::Debug + Send {
    /// Takes in an object of `size` bytes. `name` tells objects apart for ever, unlike `id`: for policies that remember
    /// what they have evicted. An object that is known already is none of this function's: remove it first.
    fn insert(&mut self, id: Id, name: u64, size: u64);

    /// Notes a use of an object that is known.
    fn touch(&mut self, id: Id);

    /// Forgets an object, for another reason than space. One that is not known is no harm.
    fn remove(&mut self, id: Id);

    /// Chooses the object to go, and forgets it.
    fn evict(&mut self) -> Option<Id>;

    /// The object that is looked at next; near enough to what [`Policy::evict`] would choose to compare policies by it.
    fn candidate(&self) -> Option<Id>;

    /// The objects in the order in which they would go now, as far as that can be told without evicting them. Made as
    /// it is asked for: the first few of 10^6 cost little.
    fn order(&self) -> Box<dyn Iterator<Item = Id> + '_>;

    /// What of an object's uses is worth to survive a restart, beside when the last one was: at most [`MAX_HEAT`].
    fn heat(&self, _id: Id) -> u8 {
        0
    }

    /// As [`Policy::insert`], for an object of which an earlier process said this heat.
    fn restore(&mut self, id: Id, name: u64, size: u64, _heat: u8) {
        self.insert(id, name, size);
    }
}

pub use crate::config::Eviction as Kind;

/// A policy of this kind that knows no object.
pub fn policy(kind: Kind) -> Box<dyn Policy> {
    match kind {
        Kind::Lru => Box::new(Lru::default()),
        Kind::Sieve => Box::new(Sieve::default()),
        Kind::S3Fifo => Box::new(S3Fifo::default()),
        Kind::Gdsf => Box::new(Greedy::gdsf()),
        Kind::LfuDa => Box::new(Greedy::lfu_da()),
    }
}
