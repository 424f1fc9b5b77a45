//! Who fetches which bytes of a blob that comes in parts. Pure.
//!
//! A part is claimed before it is asked for, so that no byte is fetched twice (I3), and in order, so that the frontier
//! moves and the disk is written nearly in sequence; but where a reader waits for bytes that nobody fetches, the next
//! part begins there. One claim may be open: that of an answer which goes on to the end of the blob unless it is cut. It
//! grows, part by part, until it meets what somebody else has or fetches; what somebody has only asked for it takes over.

use std::ops::Range;

use super::extents::Extents;

/// A part's number, from its claim to its release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Id(u64);

/// What kind of answer a claim is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    /// To the end of its range.
    Part,
    /// As far as nobody else is in its way.
    Open,
    /// To the end of the blob, past what is here already: the upstream serves no parts.
    Whole,
}

#[derive(Debug)]
struct Claim {
    id: Id,
    range: Range<u64>,
    /// Where its next byte belongs.
    at: u64,
    reach: Reach,
    /// Until it is answered it gives way to an open claim: nothing is lost if the answer is a refusal.
    answered: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Plan {
    total: u64,
    /// The size of a part.
    step: u64,
    /// What is in the file.
    written: Extents,
    claims: Vec<Claim>,
    next_id: u64,
}

/// Of a large blob's parts; the first that is asked for may be known before the plan.
pub fn step(total: u64, threshold: u64) -> u64 {
    /// A part takes long enough that the pause before the next one does not count, and what is read back to be hashed is
    /// still in memory.
    const LARGEST: u64 = 32 << 20;
    (total / 64).clamp((threshold / 8).clamp(1, LARGEST), LARGEST)
}

impl Plan {
    /// Of a blob of `total` bytes, of which `written` is here.
    pub fn new(total: u64, step: u64, written: Extents) -> Self {
        Self { total, step: step.max(1), written, claims: Vec::new(), next_id: 0 }
    }

    /// Claims this very range, for an answer that has come already. Nobody has claimed any of it.
    pub fn claim(&mut self, range: Range<u64>) -> Id {
        self.add(range, Reach::Part, true)
    }

    /// Claims what an answer brings that begins at `from` and goes on to the end of the blob.
    pub fn claim_open(&mut self, from: u64) -> Id {
        self.add(from..from, Reach::Open, true)
    }

    /// Claims everything, for the one answer of an upstream that serves no parts.
    pub fn claim_whole(&mut self, from: u64) -> Id {
        self.add(from..self.total, Reach::Whole, true)
    }

    /// The first of these bytes that is neither here nor claimed.
    pub fn neglected(&self, wanted: &[u64]) -> Option<u64> {
        let taken = self.taken();
        wanted.iter().copied().find(|at| *at < self.total && taken.end_from(*at).is_none())
    }

    /// Claims the next part, `steps` times as large as usual: where somebody waits for bytes that nobody fetches, else
    /// the first that is missing.
    pub fn claim_next(&mut self, wanted: &[u64], steps: u64) -> Option<(Id, Range<u64>)> {
        let taken = self.taken();
        let start = self.neglected(wanted).unwrap_or_else(|| taken.frontier());
        if start >= self.total {
            return None;
        }
        // To the next border of a part, so that what is steered elsewhere leaves no splinters.
        let border = (start / self.step + steps) * self.step;
        let border = if border - start < self.step / 2 { border + self.step } else { border };
        let end = taken.next_after(start).unwrap_or(self.total).min(border).min(self.total);
        Some((self.add(start..end, Reach::Part, false), start..end))
    }

    /// There is an answer to a part; whether any of it is still wanted.
    pub fn answered(&mut self, id: Id) -> bool {
        let claim = self.claims.iter_mut().find(|claim| claim.id == id);
        claim.is_some_and(|claim| {
            claim.answered = true;
            !claim.range.is_empty()
        })
    }

    /// Whether at most `bytes` are still to come of all that is claimed. Never while an answer goes on to the end.
    pub fn ends_within(&self, bytes: u64) -> bool {
        let left = |claim: &Claim| claim.range.end.saturating_sub(claim.at);
        self.claims.iter().all(|claim| claim.reach == Reach::Part) && self.claims.iter().map(left).sum::<u64>() <= bytes
    }

    /// Whether one of these bytes belongs to a part of which none has come, and some before it are missing, too.
    pub fn keeps_waiting(&self, wanted: &[u64]) -> bool {
        let unread = |claim: &&Claim| claim.at == claim.range.start && claim.range.start > self.frontier();
        self.claims.iter().filter(unread).any(|claim| wanted.iter().any(|at| claim.range.contains(at)))
    }

    /// The length in steps of parts of about `bytes`: one at the least, and no more than half of what each of `parts` at one
    /// time would get of all that nobody has claimed, so that the last ones end together.
    pub fn steps(&self, bytes: u64, parts: usize) -> u64 {
        let share = self.total.saturating_sub(self.taken().bytes()) / (2 * parts.max(1) as u64);
        bytes.div_ceil(self.step).min(share / self.step).max(1)
    }

    /// Whether some bytes are neither here nor claimed.
    pub fn has_gap(&self) -> bool {
        self.taken().frontier() < self.total
    }

    /// Where the next byte of a part belongs.
    pub fn position(&self, id: Id) -> u64 {
        self.claims.iter().find(|claim| claim.id == id).map_or(self.total, |claim| claim.at)
    }

    /// So many bytes have come for a part. What of them is to be written, in order; and whether to read on.
    pub fn take(&mut self, id: Id, length: u64) -> (Vec<Range<u64>>, bool) {
        let Some(number) = self.claims.iter().position(|claim| claim.id == id) else { return (Vec::new(), false) };
        let mut end = self.claims[number].range.end;
        let came = self.claims[number].at..self.claims[number].at + length;
        while self.claims[number].reach == Reach::Open && end < came.end {
            let others = self.taken_but(id);
            let next = if others.end_from(end).is_some() { end } else { others.next_after(end).unwrap_or(self.total) };
            let grown = next.min(end + self.step).min(self.total);
            if grown == end {
                break;
            }
            end = grown;
        }
        let claim = &mut self.claims[number];
        claim.range.end = end;
        claim.at = came.end.min(end);
        let pieces = self.written.missing(came.start.max(claim.range.start).min(claim.at)..claim.at);
        let own = claim.range.clone();
        if claim.reach == Reach::Open {
            for other in self.claims.iter_mut().filter(|other| !other.answered && other.range.start >= own.start) {
                other.range.start = other.range.start.max(own.end.min(other.range.end));
            }
        }
        let claim = &self.claims[number];
        let (at, open) = (claim.at, claim.reach == Reach::Open);
        (pieces, at < end || (open && end < self.total && self.taken_but(id).end_from(end).is_none()))
    }

    /// These bytes are in the file.
    pub fn wrote(&mut self, range: Range<u64>) {
        self.written.insert(range);
    }

    /// The part is over. What of it was not written is missing again.
    pub fn release(&mut self, id: Id) {
        self.claims.retain(|claim| claim.id != id);
    }

    /// Bytes in the file without a hole.
    pub fn frontier(&self) -> u64 {
        self.written.frontier()
    }

    /// Bytes in the file.
    pub fn bytes(&self) -> u64 {
        self.written.bytes()
    }

    fn add(&mut self, range: Range<u64>, reach: Reach, answered: bool) -> Id {
        debug_assert!(range.end <= self.total);
        let id = Id(self.next_id);
        self.next_id += 1;
        self.claims.push(Claim { id, at: range.start, range, reach, answered });
        id
    }

    /// Here or claimed.
    fn taken(&self) -> Extents {
        let mut taken = self.written.clone();
        for claim in &self.claims {
            // An open claim has its first part to itself even before a byte has come.
            let end = match claim.reach {
                Reach::Open => claim.range.end.max((claim.range.start + self.step).min(self.total)),
                Reach::Part | Reach::Whole => claim.range.end,
            };
            taken.insert(claim.range.start..end);
        }
        taken
    }

    /// What stands in the way of an open answer.
    fn taken_but(&self, id: Id) -> Extents {
        let mut taken = self.written.clone();
        let others = self.claims.iter().filter(|claim| claim.id != id && claim.answered);
        others.for_each(|claim| taken.insert(claim.range.clone()));
        taken
    }
}

#[cfg(test)]
mod tests;
