//! Byte ranges: RFC 9110 §14, as registries' clients use it.
//!
//! A `Range` header is parsed before the size of the blob is known and resolved once it is, so that a cached, a
//! filling and a cold blob are answered alike.

use std::fmt;
use std::ops::Range;

/// Parts that one request may name: what podman's zstd:chunked asks for at most. A longer list is refused rather than
/// overlooked: who sends it would get the whole blob and want a thousand bytes of it.
pub const MAX_PARTS: usize = 1024;

/// A `Range` header with the unit `bytes`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeHeader(Vec<Spec>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spec {
    /// `a-b`, both included; `b < a` is kept, as unsatisfiable.
    FromTo(u64, u64),
    /// `a-`
    From(u64),
    /// `-n`
    Last(u64),
}

/// What a request means for a blob of known size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// All of it: 200.
    Whole,
    /// One part: 206. Never empty.
    One(Range<u64>),
    /// Several parts, in the order asked for: 206 multipart/byteranges. None is empty.
    Many(Vec<Range<u64>>),
    /// No part of it: 416.
    Unsatisfiable,
}

impl RangeHeader {
    /// `None` for another unit or a malformed header: both mean the whole blob (RFC 9110 §14.2). More than [`MAX_PARTS`]
    /// parts satisfy nobody (416).
    pub fn parse(value: &str) -> Option<Self> {
        let (unit, specs) = value.split_once('=')?;
        if !unit.trim().eq_ignore_ascii_case("bytes") {
            return None;
        }
        let mut parsed = Vec::new();
        for spec in specs.split(',').map(str::trim).filter(|spec| !spec.is_empty()) {
            if parsed.len() == MAX_PARTS {
                // Nothing of it is satisfiable.
                return Some(Self(Vec::new()));
            }
            parsed.push(match spec.split_once('-')? {
                ("", last) => Spec::Last(number(last)?),
                (first, "") => Spec::From(number(first)?),
                (first, last) => Spec::FromTo(number(first)?, number(last)?),
            });
        }
        (!parsed.is_empty()).then_some(Self(parsed))
    }

    /// What it selects of a blob of `size` bytes. An empty blob is always answered whole: containerd, when it splits layers,
    /// puts `bytes=0-` on every request, and a 416 would fail its pull.
    pub fn resolve(&self, size: u64) -> Selection {
        if size == 0 {
            return Selection::Whole;
        }
        let mut ranges: Vec<_> = self.0.iter().filter_map(|spec| spec.resolve(size)).collect();
        match ranges.len() {
            0 => Selection::Unsatisfiable,
            // One of several asked for is still one part; a client that asked for one gets no multipart.
            1 => Selection::One(ranges.swap_remove(0)),
            _ => {
                // Overlapping parts beyond the blob's own size serve nobody but an attacker (RFC 9110 §14.2).
                let bytes = ranges.iter().try_fold(0u64, |sum, range| sum.checked_add(range.end - range.start));
                if bytes.is_some_and(|bytes| bytes <= size) { Selection::Many(ranges) } else { Selection::Whole }
            }
        }
    }
}

impl Spec {
    fn resolve(self, size: u64) -> Option<Range<u64>> {
        let range = match self {
            Self::FromTo(first, last) if first <= last => first..last.saturating_add(1).min(size),
            Self::FromTo(..) => return None,
            Self::From(first) => first..size,
            Self::Last(count) => size.saturating_sub(count)..size,
        };
        (range.start < range.end).then_some(range)
    }
}

/// Digits only: `u64::from_str` would take a plus sign. A number beyond all sizes is as good as the largest.
fn number(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|c| c.is_ascii_digit()) {
        return None;
    }
    Some(text.parse().unwrap_or(u64::MAX))
}

/// A `Content-Range` header with the unit `bytes` (RFC 9110 §14.4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContentRange {
    /// `bytes a-b/T`, or `bytes a-b/*` where the total is not known.
    Part {
        /// What follows.
        range: Range<u64>,
        /// Size of the whole.
        total: Option<u64>,
    },
    /// `bytes */T`: not satisfiable.
    Unsatisfied(u64),
}

impl ContentRange {
    /// `None` for another unit, or a malformed or contradictory header.
    pub fn parse(value: &str) -> Option<Self> {
        let (unit, rest) = value.trim().split_once(' ')?;
        if !unit.eq_ignore_ascii_case("bytes") {
            return None;
        }
        let (range, total) = rest.trim().split_once('/')?;
        if range == "*" {
            return Some(Self::Unsatisfied(number(total)?));
        }
        let (first, last) = range.split_once('-')?;
        let range = number(first)?..number(last)?.checked_add(1)?;
        let total = if total == "*" { None } else { Some(number(total)?) };
        (range.start < range.end && total.is_none_or(|total| range.end <= total)).then_some(Self::Part { range, total })
    }
}

impl fmt::Display for ContentRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Part { range, total: Some(total) } => write!(f, "bytes {}-{}/{total}", range.start, range.end - 1),
            Self::Part { range, total: None } => write!(f, "bytes {}-{}/*", range.start, range.end - 1),
            Self::Unsatisfied(total) => write!(f, "bytes */{total}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn select(header: &str, size: u64) -> Selection {
        RangeHeader::parse(header).map_or(Selection::Whole, |header| header.resolve(size))
    }

    #[test]
    fn t6_the_table_of_a_2048_byte_blob() {
        for (header, expected) in [
            ("bytes=500-1499", Selection::One(500..1500)),
            ("bytes=500-", Selection::One(500..2048)),
            ("bytes=-500", Selection::One(1548..2048)),
            ("bytes=2000-5000", Selection::One(2000..2048)),
            ("bytes=0-", Selection::One(0..2048)),
            ("bytes=-5000", Selection::One(0..2048)),
            ("bytes=0-0", Selection::One(0..1)),
            ("Bytes=2047-99999999999999999999999", Selection::One(2047..2048)),
            ("bytes=500-0", Selection::Unsatisfiable),
            ("bytes=5000-10000", Selection::Unsatisfiable),
            ("bytes=2048-", Selection::Unsatisfiable),
            ("bytes=-0", Selection::Unsatisfiable),
            ("bytes=0-1, 10-19,-1", Selection::Many(vec![0..2, 10..20, 2047..2048])),
            ("bytes=0-1,9000-", Selection::One(0..2)),
            ("bytes=9000-,-0", Selection::Unsatisfiable),
            ("bytes=0-,0-", Selection::Whole),
            ("items=0-1", Selection::Whole),
            ("bytes=", Selection::Whole),
            ("bytes=a-b", Selection::Whole),
            ("bytes=+1-2", Selection::Whole),
            ("bytes=1-2-3", Selection::Whole),
            ("bytes 1-2", Selection::Whole),
        ] {
            assert_eq!(select(header, 2048), expected, "{header}");
        }
    }

    #[test]
    fn an_empty_blob_is_always_whole() {
        for header in ["bytes=0-", "bytes=0-0", "bytes=-1", "bytes=-0", "bytes=5-", "bytes=0-1,2-3", "bytes=500-0"] {
            assert_eq!(select(header, 0), Selection::Whole, "{header}");
        }
    }

    #[test]
    fn too_many_parts_are_the_whole() {
        let parts = |count: usize| format!("bytes={}", (0..count).map(|n| format!("{n}-{n}")).collect::<Vec<_>>().join(","));
        assert!(matches!(select(&parts(MAX_PARTS), 1 << 20), Selection::Many(_)));
        assert_eq!(select(&parts(MAX_PARTS + 1), 1 << 20), Selection::Unsatisfiable);
    }

    #[test]
    fn content_ranges() {
        assert_eq!(ContentRange::parse("bytes 0-99/100"), Some(ContentRange::Part { range: 0..100, total: Some(100) }));
        assert_eq!(ContentRange::parse("bytes 5-5/*"), Some(ContentRange::Part { range: 5..6, total: None }));
        assert_eq!(ContentRange::parse("bytes */100"), Some(ContentRange::Unsatisfied(100)));
        for bad in [
            "",
            "bytes",
            "bytes 0-99",
            "bytes 9-1/100",
            "bytes 0-100/100",
            "items 0-1/2",
            "bytes */*",
            "bytes a-b/c",
            "bytes 5-/10",
            "bytes -5/10",
            "bytes +5-9/10",
            "bytes 5-9/10 x",
            "bytes 0-18446744073709551615/*",
        ] {
            assert_eq!(ContentRange::parse(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_asked_lies_within(header in "bytes=[0-9,\\- ]{0,24}", size in 0..3000u64) {
            match select(&header, size) {
                Selection::One(range) => prop_assert!(range.start < range.end && range.end <= size),
                Selection::Many(ranges) => {
                    prop_assert!(ranges.len() > 1);
                    for range in &ranges {
                        prop_assert!(range.start < range.end && range.end <= size);
                    }
                    prop_assert!(ranges.iter().map(|range| range.end - range.start).sum::<u64>() <= size);
                }
                Selection::Whole | Selection::Unsatisfiable => {}
            }
        }

        #[test]
        fn no_header_panics(header in any::<String>(), size in any::<u64>()) {
            select(&header, size);
            let _ = ContentRange::parse(&header);
        }

        #[test]
        fn content_range_round_trip(start in 0..u64::MAX / 2, len in 1..1000u64, known in any::<bool>()) {
            let part = ContentRange::Part { range: start..start + len, total: known.then_some(start + len) };
            prop_assert_eq!(ContentRange::parse(&part.to_string()), Some(part));
        }
    }
}
