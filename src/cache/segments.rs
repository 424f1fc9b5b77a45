//! An array over dense numbers that never moves what it holds.
//!
//! A `Vec` of 10^6 elements that grows copies them all, under the index's lock, while pulls wait. This one grows by a
//! segment at a time. Pure; used by [`super::objects`] and the policies of [`super::evict`].

use std::ops::{Index, IndexMut};

use super::evict::Id;

/// Elements of a segment.
const SEGMENT: usize = 4096;

/// See the module.
#[derive(Debug)]
pub struct Segments<T>(Vec<Box<[T]>>);

impl<T> Default for Segments<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Clone + Default> Segments<T> {
    /// Makes sure that there is an element of this number.
    pub fn grow(&mut self, id: Id) {
        while self.0.len() * SEGMENT <= id as usize {
            self.0.push(vec![T::default(); SEGMENT].into());
        }
    }

    /// The element of this number, if there is room for one.
    pub fn get(&self, id: Id) -> Option<&T> {
        self.0.get(id as usize / SEGMENT).map(|segment| &segment[id as usize % SEGMENT])
    }

    /// The element of this number, if there is room for one.
    pub fn get_mut(&mut self, id: Id) -> Option<&mut T> {
        self.0.get_mut(id as usize / SEGMENT).map(|segment| &mut segment[id as usize % SEGMENT])
    }

    /// Bytes of memory that it takes.
    pub fn memory(&self) -> usize {
        self.0.len() * SEGMENT * size_of::<T>()
    }
}

impl<T> Index<Id> for Segments<T> {
    type Output = T;

    fn index(&self, id: Id) -> &T {
        &self.0[id as usize / SEGMENT][id as usize % SEGMENT]
    }
}

impl<T> IndexMut<Id> for Segments<T> {
    fn index_mut(&mut self, id: Id) -> &mut T {
        &mut self.0[id as usize / SEGMENT][id as usize % SEGMENT]
    }
}
