//! ROUGE, as Google's rouge-score has it without stemming: F1 of words, of pairs of words, and of the longest common subsequence.

use crate::words::{common, runs};

/// ROUGE-1, ROUGE-2 and ROUGE-L of a text, in words, 0 to 1.
pub fn scores(text: &[String], reference: &[String]) -> [f64; 3] {
    let of_runs = |length| {
        let (own, its) = (runs(text, length), runs(reference, length));
        f1(common(&own, &its), own.values().sum(), its.values().sum())
    };
    let longest = subsequence(text, reference);
    [of_runs(1), of_runs(2), f1(longest, text.len() as u64, reference.len() as u64)]
}

/// The harmonic mean of precision and recall.
fn f1(both: u64, own: u64, its: u64) -> f64 {
    // rouge-score divides by one where there is nothing.
    let (precision, recall) = (both as f64 / own.max(1) as f64, both as f64 / its.max(1) as f64);
    if both == 0 { 0.0 } else { 2.0 * precision * recall / (precision + recall) }
}

/// The length of the longest common subsequence.
fn subsequence(one: &[String], other: &[String]) -> u64 {
    let mut lengths = vec![0; other.len() + 1];
    for word in one {
        let mut diagonal = 0;
        for (at, its) in other.iter().enumerate() {
            let above = lengths[at + 1];
            lengths[at + 1] = if word == its { diagonal + 1 } else { lengths[at].max(above) };
            diagonal = above;
        }
    }
    lengths[other.len()]
}
