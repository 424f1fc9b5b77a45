//! Which bytes of a blob are here: sorted, disjoint ranges, of which neighbours are one.
//!
//! Pure, std only: loom compiles it beside [`super::progress`]. There are as many ranges as parts are under way, and a
//! few more, so that a sorted vector is the right thing.

use std::ops::Range;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extents(Vec<Range<u64>>);

impl Extents {
    /// The first `length` bytes.
    pub fn prefix(length: u64) -> Self {
        let mut extents = Self::default();
        extents.insert(0..length);
        extents
    }

    /// Adds a range, which may overlap what is there.
    pub fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        // All that touch it become one with it.
        let first = self.0.partition_point(|extent| extent.end < range.start);
        let beyond = self.0.partition_point(|extent| extent.start <= range.end);
        let touched = &self.0[first..beyond];
        let start = touched.first().map_or(range.start, |extent| extent.start.min(range.start));
        let end = touched.last().map_or(range.end, |extent| extent.end.max(range.end));
        self.0.splice(first..beyond, [start..end]);
    }

    /// The end of the range that holds byte `at`; `None` if that byte is not here.
    pub fn end_from(&self, at: u64) -> Option<u64> {
        let found = self.0[..self.0.partition_point(|extent| extent.start <= at)].last();
        found.filter(|extent| at < extent.end).map(|extent| extent.end)
    }

    /// Where the next range begins that begins after byte `at`.
    pub fn next_after(&self, at: u64) -> Option<u64> {
        self.0.get(self.0.partition_point(|extent| extent.start <= at)).map(|extent| extent.start)
    }

    /// Number of bytes from the first one on without a hole.
    pub fn frontier(&self) -> u64 {
        self.end_from(0).unwrap_or(0)
    }

    /// Number of bytes in all.
    pub fn bytes(&self) -> u64 {
        self.0.iter().map(|extent| extent.end - extent.start).sum()
    }

    /// What is missing of `range`, in order.
    pub fn missing(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let (mut at, mut gaps) = (range.start, Vec::new());
        while at < range.end {
            match self.end_from(at) {
                Some(end) => at = end,
                None => {
                    let end = self.next_after(at).map_or(range.end, |next| next.min(range.end));
                    gaps.push(at..end);
                    at = end;
                }
            }
        }
        gaps
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// The same as a bit for each byte, whatever the order and overlap.
        #[test]
        fn they_are_a_set_of_bytes(ranges in proptest::collection::vec((0u64..60, 0u64..12), 0..12)) {
            let (mut extents, mut bits) = (Extents::default(), [false; 80]);
            for (start, length) in ranges {
                extents.insert(start..start + length);
                bits[start as usize..(start + length) as usize].fill(true);
            }
            for (at, here) in bits.iter().enumerate() {
                let end = bits[at..].iter().position(|here| !here).map_or(80, |length| at + length) as u64;
                prop_assert_eq!(extents.end_from(at as u64), here.then_some(end));
            }
            prop_assert_eq!(extents.bytes(), bits.iter().filter(|here| **here).count() as u64);
            prop_assert_eq!(extents.frontier(), bits.iter().position(|here| !here).unwrap_or(80) as u64);
            let gaps = extents.missing(5..70);
            let mut missing = [false; 80];
            gaps.iter().for_each(|gap| missing[gap.start as usize..gap.end as usize].fill(true));
            for at in 5..70 {
                prop_assert_eq!(missing[at], !bits[at]);
            }
            prop_assert!(extents.0.windows(2).all(|pair| pair[0].end < pair[1].start));
        }
    }
}
