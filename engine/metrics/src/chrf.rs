//! chrF, as sacreBLEU has it: runs of up to six characters without white space, recall counted twice.

use crate::words::{common, is_space, runs};

const ORDER: usize = 6;
const BETA: f64 = 2.0;

/// Runs of a text, of its reference, and of both; those of a corpus are the sums.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts([[u64; 3]; ORDER]);

impl Counts {
    pub fn new(text: &str, reference: &str) -> Self {
        let [text, reference] = [text, reference]
            .map(|text| text.chars().filter(|char| !is_space(*char)).collect::<Vec<_>>());
        Self(std::array::from_fn(|order| {
            let (own, its) = (runs(&text, order + 1), runs(&reference, order + 1));
            // Where the reference has none, none can be right.
            let hypothesis = if its.is_empty() { 0 } else { own.values().sum() };
            [hypothesis, its.values().sum(), common(&own, &its)]
        }))
    }

    pub fn add(&mut self, other: &Self) {
        for (own, other) in self.0.iter_mut().flatten().zip(other.0.iter().flatten()) {
            *own += other;
        }
    }

    /// The score, 0 to 100.
    pub fn score(&self) -> f64 {
        let known: Vec<_> = self.0.iter().filter(|[own, its, _]| *own > 0 && *its > 0).collect();
        let mean = |of: fn(&[u64; 3]) -> f64| {
            known.iter().map(|counts| of(counts)).sum::<f64>() / known.len() as f64
        };
        let precision = mean(|[own, _, both]| *both as f64 / *own as f64);
        let recall = mean(|[_, its, both]| *both as f64 / *its as f64);
        let factor = BETA * BETA;
        let score = 100.0 * (1.0 + factor) * precision * recall / (factor * precision + recall);
        if score.is_nan() { 0.0 } else { score }
    }
}
