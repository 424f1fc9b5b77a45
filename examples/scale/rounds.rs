//! Costs at several sizes, taken in turns: whatever makes the machine slow for a while makes it slow for all of them.

/// Costs of one operation in microseconds, by size, one of each round.
pub struct Rounds(Vec<Vec<f64>>);

/// What may be called the same cost.
const FLAT: f64 = 0.10;

impl Rounds {
    pub fn new(sizes: usize) -> Self {
        Self(vec![Vec::new(); sizes])
    }

    pub fn add(&mut self, size: usize, microseconds: f64) {
        self.0[size].push(microseconds);
    }

    /// What it costs at one size: the round of a tenth from below. Whatever else the machine does makes rounds dearer and
    /// none cheaper; the very cheapest may have left something to the next.
    pub fn cost(&self, size: usize) -> f64 {
        let mut rounds = self.0[size].clone();
        rounds.sort_unstable_by(f64::total_cmp);
        rounds[rounds.len() / 10]
    }

    /// Its ratio to the smallest size.
    pub fn ratio(&self, size: usize) -> f64 {
        self.cost(size) / self.cost(0)
    }

    /// As cells of a table, and whether it is flat.
    pub fn cells(&self, digits: usize) -> String {
        let cells: Vec<String> =
            (0..self.0.len()).map(|size| format!("{:.digits$} ({:.2})", self.cost(size), self.ratio(size))).collect();
        let flat = (0..self.0.len()).all(|size| self.ratio(size) <= 1.0 + FLAT);
        format!("{} | {}", cells.join(" | "), if flat { "yes" } else { "NO" })
    }
}
