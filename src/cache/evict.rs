//! Which object goes first: pure bookkeeping behind one small trait, no I/O, no clock.
//!
//! A policy knows objects by a dense number ([`Id`]) and keeps a few bytes for each. Called by [`super::index`] under
//! its lock. `examples/eviction.rs` replays traces against every policy here; docs/EVICTION.md has its table, by which
//! [`Kind::default`] was chosen.

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

    /// The objects in the order in which they would go now, as far as that can be told without evicting them.
    fn order(&self) -> Vec<Id>;
}

/// The policies there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// Least recently used.
    Lru,
    /// SIEVE (Zhang et al., NSDI '24).
    Sieve,
    /// S3-FIFO (Yang et al., SOSP '23).
    S3Fifo,
    /// Greedy-Dual-Size-Frequency (Cherkasova 1998): small and often used objects stay.
    Gdsf,
    /// LFU with dynamic aging (Arlitt et al. 2000): often used objects stay, whatever their size.
    #[default]
    LfuDa,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Lru, Self::Sieve, Self::S3Fifo, Self::Gdsf, Self::LfuDa];

    /// The name in the configuration and in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lru => "lru",
            Self::Sieve => "sieve",
            Self::S3Fifo => "s3-fifo",
            Self::Gdsf => "gdsf",
            Self::LfuDa => "lfu-da",
        }
    }

    /// A policy of this kind that knows no object.
    pub fn policy(self) -> Box<dyn Policy> {
        match self {
            Self::Lru => Box::new(Lru::default()),
            Self::Sieve => Box::new(Sieve::default()),
            Self::S3Fifo => Box::new(S3Fifo::default()),
            Self::Gdsf => Box::new(Greedy::gdsf()),
            Self::LfuDa => Box::new(Greedy::lfu_da()),
        }
    }
}
