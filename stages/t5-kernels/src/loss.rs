//! Cross-entropy over logits, with its gradient written over the logits.

use rayon::prelude::*;

use super::simd::{exp, max, sum, vectorized};

/// What the loss counts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LossScale {
    /// Factor on the sum over targets: 1 / the number of targets gives a mean.
    pub factor: f32,
    /// Share of the target's probability that is spread over the vocabulary.
    pub smoothing: f32,
}

/// Replaces `logits` (rows of `width`) by the gradient of the loss; returns the loss.
pub fn forward_backward(
    logits: &mut [f32],
    width: usize,
    targets: &[u32],
    scale: LossScale,
) -> f32 {
    let losses: Vec<f64> = logits
        .par_chunks_exact_mut(width)
        .zip(targets)
        .with_min_len(4)
        .map(|(row, &target)| {
            vectorized(
                #[inline(always)]
                || one_row(row, target as usize, scale),
            )
        })
        .collect();
    (losses.iter().sum::<f64>() * f64::from(scale.factor)) as f32
}

/// The loss of one row; the row becomes its gradient.
#[inline(always)]
fn one_row(row: &mut [f32], target: usize, LossScale { factor, smoothing }: LossScale) -> f64 {
    let uniform = smoothing / row.len() as f32;
    let (top, chosen, total) =
        (max(row), row[target], if smoothing > 0.0 { sum(row) } else { 0.0 });
    for logit in row.iter_mut() {
        *logit = exp(*logit - top);
    }
    let mass = sum(row);
    let log_mass = f64::from(top) + f64::from(mass).ln();
    let scale = factor / mass;
    for value in row.iter_mut() {
        *value = *value * scale - uniform * factor;
    }
    row[target] -= (1.0 - smoothing) * factor;
    let smooth = f64::from(uniform) * (log_mass * row.len() as f64 - f64::from(total));
    f64::from(1.0 - smoothing) * (log_mass - f64::from(chosen)) + smooth
}
