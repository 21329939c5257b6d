//! Optimizer steps: one pass over a weight, its gradient and its state.

use rayon::prelude::*;

use super::simd::{for_row_blocks, reduce_rows, vectorized};

/// The parameters of an AdamW step, with torch's meaning.
#[derive(Debug, Clone, Copy)]
pub struct AdamStep {
    /// Learning rate.
    pub learning_rate: f64,
    /// Decay of the two running means.
    pub betas: [f64; 2],
    /// Added to the root of the second mean.
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// This step's number, from 1.
    pub step: u64,
    /// Factor on the gradient, from clipping.
    pub gradient_scale: f64,
}

/// The parameters of an Adafactor step, with transformers' meaning.
#[derive(Debug, Clone, Copy)]
pub struct AdafactorStep {
    /// Learning rate.
    pub learning_rate: f64,
    /// Whether the learning rate is relative to the size of the weights.
    pub scale_parameter: bool,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// This step's number, from 1.
    pub step: u64,
    /// Factor on the gradient, from clipping.
    pub gradient_scale: f64,
}

impl AdamStep {
    /// What the running means are divided by, since they start at zero: the first, and the root of the second.
    pub fn bias(&self) -> [f64; 2] {
        let [first, second] = self.betas.map(|beta| 1.0 - beta.powf(self.step as f64));
        [first, second.sqrt()]
    }
}

impl AdafactorStep {
    /// Keeps squares away from zero.
    pub const TINY: f32 = 1e-30;
    /// Smallest size of a weight that a relative step assumes.
    pub const SMALLEST: f64 = 1e-3;
    /// Root mean square that an update is cut to.
    pub const CLIP: f64 = 1.0;

    /// What a running mean keeps of what it was.
    pub fn keep(&self) -> f64 {
        1.0 - (self.step as f64).powf(-0.8)
    }
}

/// Elements that a thread updates at once, and that a sum covers before partial sums are added.
const BLOCK: usize = 1 << 13;

/// One AdamW step of a weight and its two running means, all of the same length.
pub fn adam(
    weight: &mut [f32],
    gradient: &[f32],
    [first, second]: [&mut [f32]; 2],
    step: AdamStep,
) {
    let [beta1, beta2] = step.betas;
    let [bias1, bias2] = step.bias();
    let [keep1, keep2, take1, take2] = [beta1, beta2, 1.0 - beta1, 1.0 - beta2].map(|x| x as f32);
    let (decay, rate) = (
        (1.0 - step.learning_rate * step.weight_decay) as f32,
        (step.learning_rate / bias1) as f32,
    );
    let (root, eps, scale) = (bias2 as f32, step.eps as f32, step.gradient_scale as f32);
    let blocks = weight
        .par_chunks_mut(BLOCK)
        .zip(first.par_chunks_mut(BLOCK))
        .zip(second.par_chunks_mut(BLOCK))
        .zip(gradient.par_chunks(BLOCK));
    blocks.with_min_len(4).for_each(|(((weight, first), second), gradient)| {
        vectorized(
            #[inline(always)]
            || {
                for (((w, m), v), g) in weight.iter_mut().zip(first).zip(second).zip(gradient) {
                    let g = g * scale;
                    *m = keep1 * *m + take1 * g;
                    *v = keep2 * *v + take2 * g * g;
                    *w = *w * decay - rate * *m / (v.sqrt() / root + eps);
                }
            },
        );
    });
}

/// One Adafactor step of a matrix, `[rows, width]`, and its running means over rows and columns: `rows` and `width` numbers.
pub fn adafactor(
    weight: &mut [f32],
    width: usize,
    gradient: &[f32],
    [rows, columns]: [&mut [f32]; 2],
    step: AdafactorStep,
) {
    let scale = step.gradient_scale as f32;
    let height = gradient.len() / width;
    let square = |g: f32| g * scale * (g * scale) + AdafactorStep::TINY;
    let mut row_means = vec![0.0; height];
    for_row_blocks(&mut row_means, 1, |first, means| {
        vectorized(
            #[inline(always)]
            || {
                for (mean, row) in
                    means.iter_mut().zip(gradient[first * width..].chunks_exact(width))
                {
                    *mean = row.iter().map(|&g| square(g)).sum::<f32>() / width as f32;
                }
            },
        );
    });
    let column_sums = reduce_rows(height, width, |range, sums| {
        vectorized(
            #[inline(always)]
            || {
                for row in gradient[range.start * width..range.end * width].chunks_exact(width) {
                    for (sum, &g) in sums.iter_mut().zip(row) {
                        *sum += square(g);
                    }
                }
            },
        );
    });
    let column_means: Vec<f32> = column_sums.iter().map(|sum| sum / height as f32).collect();
    blend(step, rows, &row_means);
    blend(step, columns, &column_means);
    let average = rows.iter().sum::<f32>() / height as f32;
    let row_factors: Vec<f32> = rows.iter().map(|row| 1.0 / (row / average).sqrt()).collect();
    let column_factors: Vec<f32> = columns.iter().map(|column| 1.0 / column.sqrt()).collect();
    let mut update = gradient.to_vec();
    for_row_blocks(&mut update, width, |first, block| {
        vectorized(
            #[inline(always)]
            || {
                for (row, factor) in block.chunks_exact_mut(width).zip(&row_factors[first..]) {
                    for (u, column) in row.iter_mut().zip(&column_factors) {
                        *u *= factor * column * scale;
                    }
                }
            },
        );
    });
    apply(step, weight, &update);
}

/// One Adafactor step of a vector and its running mean.
pub fn adafactor_vector(
    weight: &mut [f32],
    gradient: &[f32],
    mean: &mut [f32],
    step: AdafactorStep,
) {
    let scale = step.gradient_scale as f32;
    let squares: Vec<f32> =
        gradient.iter().map(|g| g * scale * (g * scale) + AdafactorStep::TINY).collect();
    blend(step, mean, &squares);
    let update: Vec<f32> =
        gradient.iter().zip(mean.iter()).map(|(g, mean)| g * scale / mean.sqrt()).collect();
    apply(step, weight, &update);
}

/// Moves a running mean towards `new`.
fn blend(step: AdafactorStep, mean: &mut [f32], new: &[f32]) {
    let keep = step.keep();
    for (mean, new) in mean.iter_mut().zip(new) {
        *mean = *mean * keep as f32 + new * (1.0 - keep) as f32;
    }
}

/// Subtracts the clipped and scaled update.
fn apply(step: AdafactorStep, weight: &mut [f32], update: &[f32]) {
    let root_mean_square = |x: &[f32]| (square_sum(x) / x.len() as f64).sqrt();
    let relative = if step.scale_parameter {
        root_mean_square(weight).max(AdafactorStep::SMALLEST)
    } else {
        1.0
    };
    let learning_rate = step.learning_rate * relative;
    let factor = (learning_rate / (root_mean_square(update) / AdafactorStep::CLIP).max(1.0)) as f32;
    let decay = (1.0 - step.weight_decay * learning_rate) as f32;
    for_row_blocks(weight, 1, |first, block| {
        vectorized(
            #[inline(always)]
            || {
                for (w, u) in block.iter_mut().zip(&update[first..]) {
                    *w = *w * decay - u * factor;
                }
            },
        );
    });
}

/// The sum of squares, in f64 over blocks of fixed size.
pub fn square_sum(x: &[f32]) -> f64 {
    let partials: Vec<f64> = x
        .par_chunks(BLOCK)
        .with_min_len(8)
        .map(|block| {
            vectorized(
                #[inline(always)]
                || {
                    let mut lanes = [0.0f64; 8];
                    let chunks = block.chunks_exact(8);
                    let tail: f64 =
                        chunks.remainder().iter().map(|&x| f64::from(x) * f64::from(x)).sum();
                    for chunk in chunks {
                        for (lane, &x) in lanes.iter_mut().zip(chunk) {
                            *lane += f64::from(x) * f64::from(x);
                        }
                    }
                    lanes.iter().sum::<f64>() + tail
                },
            )
        })
        .collect();
    partials.iter().sum()
}
