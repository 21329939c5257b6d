//! BLEU, as sacreBLEU has it: tokenizer `13a`, runs of up to four words, the closest reference, exponential smoothing.

use std::collections::HashMap;
use std::ops::AddAssign;

use crate::words::{common, runs};

const ORDER: usize = 4;

/// What BLEU needs of texts; that of a corpus is the sum of its texts'.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Runs of one to four words that a reference has too, and all.
    correct: [u64; ORDER],
    total: [u64; ORDER],
    /// Words of the text, and of the reference.
    length: u64,
    reference: u64,
}

impl AddAssign<&Self> for Counts {
    fn add_assign(&mut self, other: &Self) {
        for order in 0..ORDER {
            self.correct[order] += other.correct[order];
            self.total[order] += other.total[order];
        }
        self.length += other.length;
        self.reference += other.reference;
    }
}

impl Counts {
    /// Of one text and its reference, in words.
    pub fn new(text: &[String], reference: &[String]) -> Self {
        let mut counts = Self::of_lengths(text.len(), reference.len());
        for order in 0..ORDER {
            counts.correct[order] = common(&runs(text, order + 1), &runs(reference, order + 1));
        }
        counts
    }

    fn of_lengths(length: usize, reference: usize) -> Self {
        let total = std::array::from_fn(|order| length.saturating_sub(order) as u64);
        Self { correct: [0; ORDER], total, length: length as u64, reference: reference as u64 }
    }

    /// The score, 0 to 100. For one text (`single`) runs that are longer than it do not count.
    pub fn score(&self, single: bool) -> f64 {
        if self.correct.iter().all(|count| *count == 0) {
            return 0.0;
        }
        let mut logs = [f64::NEG_INFINITY; ORDER];
        let (mut smoothing, mut orders) = (1.0, ORDER);
        let counts = self.correct.iter().zip(&self.total).take_while(|(_, total)| **total > 0);
        for (order, ((correct, total), log)) in counts.zip(&mut logs).enumerate() {
            if single {
                orders = order + 1;
            }
            let precision = if *correct == 0 {
                smoothing *= 2.0;
                100.0 / (smoothing * *total as f64)
            } else {
                100.0 * *correct as f64 / *total as f64
            };
            *log = precision.ln();
        }
        let brevity = match (self.length as f64, self.reference as f64) {
            (length, reference) if length < reference => (1.0 - reference / length).exp(),
            _ => 1.0,
        };
        brevity * (logs[..orders].iter().sum::<f64>() / orders as f64).exp()
    }
}

/// The BLEU of each of some texts against all the others: how alike they are. In time that grows with the words, since of each
/// run only the two texts count that have it most often.
pub fn against_others(texts: &[&[String]]) -> Vec<f64> {
    let mut counts: Vec<_> = texts.iter().map(|_| Counts::default()).collect();
    let mut lengths: Vec<_> = texts.iter().map(|text| text.len()).collect();
    lengths.sort_unstable();
    for (text, counts) in texts.iter().zip(&mut counts) {
        *counts = Counts::of_lengths(text.len(), closest(&lengths, text.len()));
    }
    for order in 0..ORDER {
        let all: Vec<_> = texts.iter().map(|text| runs(text, order + 1)).collect();
        // The most that a text has of a run, which text, and the most that another has.
        let mut most: HashMap<&[String], (u64, usize, u64)> = HashMap::new();
        for (at, runs) in all.iter().enumerate() {
            for (run, &count) in runs {
                let (first, whose, second) = most.entry(run).or_default();
                if count > *first {
                    (*first, *whose, *second) = (count, at, *first);
                } else {
                    *second = count.max(*second);
                }
            }
        }
        for (at, runs) in all.iter().enumerate() {
            let correct = runs.iter().map(|(run, count)| {
                let (first, whose, second) = most[run];
                *count.min(if whose == at { &second } else { &first })
            });
            counts[at].correct[order] = correct.sum();
        }
    }
    counts.iter().map(|counts| counts.score(true)).collect()
}

/// The length that is closest to `own` among the others of `sorted`, which has it too; of two the shorter one.
fn closest(sorted: &[usize], own: usize) -> usize {
    let at = sorted.partition_point(|length| *length < own);
    let below = at.checked_sub(1).map(|at| sorted[at]);
    let above = sorted.get(at + 1).copied();
    match (below, above) {
        (Some(below), Some(above)) if own - below <= above - own => below,
        (_, Some(above)) => above,
        (Some(below), None) => below,
        (None, None) => 0,
    }
}
