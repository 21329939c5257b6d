//! Optimizer steps: one pass over a weight, its gradient and its state.

use burn::backend::TensorMetadata;
use rayon::prelude::*;

use super::embedding;
use super::simd::{for_row_blocks, reduce_rows, vectorized};
use crate::kernels::{
    graph::Array,
    native::{dense, matrix, scalar, values, values_mut},
    update::{AdafactorStep, AdamStep},
};

/// Elements that a thread updates at once, and that a sum covers before partial sums are added.
const BLOCK: usize = 1 << 13;

/// [`UpdateBackend::t5_adam`](crate::kernels::update::UpdateBackend::t5_adam).
pub(in crate::kernels) fn adam(tensors: [Array; 4], step: AdamStep) -> [Array; 3] {
    let [mut weight, gradient, mut first, mut second] = tensors.map(dense);
    let [beta1, beta2] = step.betas;
    let [bias1, bias2] = step.bias();
    let [keep1, keep2, take1, take2] = [beta1, beta2, 1.0 - beta1, 1.0 - beta2].map(|x| x as f32);
    let (decay, rate) = (
        (1.0 - step.learning_rate * step.weight_decay) as f32,
        (step.learning_rate / bias1) as f32,
    );
    let (root, eps, scale) = (bias2 as f32, step.eps as f32, step.gradient_scale as f32);
    let blocks = values_mut(&mut weight)
        .par_chunks_mut(BLOCK)
        .zip(values_mut(&mut first).par_chunks_mut(BLOCK))
        .zip(values_mut(&mut second).par_chunks_mut(BLOCK))
        .zip(values(&gradient).par_chunks(BLOCK));
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
    [weight, first, second]
}

/// [`UpdateBackend::t5_adafactor`](crate::kernels::update::UpdateBackend::t5_adafactor).
pub(in crate::kernels) fn adafactor(tensors: [Array; 4], step: AdafactorStep) -> [Array; 3] {
    let [weight, gradient, mut rows, mut cols] = tensors.map(dense);
    let width = weight.shape()[1];
    let scale = step.gradient_scale as f32;
    let g = values(&gradient);
    let height = g.len() / width;
    let square = |g: f32| g * scale * (g * scale) + AdafactorStep::TINY;
    let mut row_means = vec![0.0; height];
    for_row_blocks(&mut row_means, 1, |first, means| {
        vectorized(
            #[inline(always)]
            || {
                for (mean, row) in means.iter_mut().zip(g[first * width..].chunks_exact(width)) {
                    *mean = row.iter().map(|&g| square(g)).sum::<f32>() / width as f32;
                }
            },
        );
    });
    let column_sums = reduce_rows(height, width, |range, sums| {
        vectorized(
            #[inline(always)]
            || {
                for row in g[range.start * width..range.end * width].chunks_exact(width) {
                    for (sum, &g) in sums.iter_mut().zip(row) {
                        *sum += square(g);
                    }
                }
            },
        );
    });
    let column_means: Vec<f32> = column_sums.iter().map(|sum| sum / height as f32).collect();
    blend(step, values_mut(&mut rows), &row_means);
    blend(step, values_mut(&mut cols), &column_means);
    let average = values(&rows).iter().sum::<f32>() / height as f32;
    let row_factors: Vec<f32> =
        values(&rows).iter().map(|row| 1.0 / (row / average).sqrt()).collect();
    let column_factors: Vec<f32> = values(&cols).iter().map(|column| 1.0 / column.sqrt()).collect();
    let mut update = g.to_vec();
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
    [apply(step, weight, &update), rows, cols]
}

/// [`UpdateBackend::t5_adafactor_vector`](crate::kernels::update::UpdateBackend::t5_adafactor_vector).
pub(in crate::kernels) fn adafactor_vector(tensors: [Array; 3], step: AdafactorStep) -> [Array; 2] {
    let [weight, gradient, mut mean] = tensors.map(dense);
    let scale = step.gradient_scale as f32;
    let squares: Vec<f32> =
        values(&gradient).iter().map(|g| g * scale * (g * scale) + AdafactorStep::TINY).collect();
    blend(step, values_mut(&mut mean), &squares);
    let update: Vec<f32> = values(&gradient)
        .iter()
        .zip(values(&mean))
        .map(|(g, mean)| g * scale / mean.sqrt())
        .collect();
    [apply(step, weight, &update), mean]
}

/// [`UpdateBackend::t5_add_rows`](crate::kernels::update::UpdateBackend::t5_add_rows).
pub(in crate::kernels) fn add_rows(table: Array, rows: Array, ids: &[u32]) -> Array {
    let [mut table, rows] = [table, rows].map(dense);
    let width = table.shape()[1];
    embedding::add_rows(values_mut(&mut table), width, ids, values(&rows));
    table
}

/// The sum of squares, `[1]`.
pub(in crate::kernels) fn square_sum(x: Array) -> Array {
    scalar(sum_of_squares(values(&dense(x))) as f32)
}

/// Moves a running mean towards `new`.
fn blend(step: AdafactorStep, mean: &mut [f32], new: &[f32]) {
    let keep = step.keep();
    for (mean, new) in mean.iter_mut().zip(new) {
        *mean = *mean * keep as f32 + new * (1.0 - keep) as f32;
    }
}

/// Subtracts the clipped and scaled update.
fn apply(step: AdafactorStep, weight: Array, update: &[f32]) -> Array {
    let width = weight.shape()[1];
    let root_mean_square = |x: &[f32]| (sum_of_squares(x) / x.len() as f64).sqrt();
    let relative = if step.scale_parameter {
        root_mean_square(values(&weight)).max(AdafactorStep::SMALLEST)
    } else {
        1.0
    };
    let learning_rate = step.learning_rate * relative;
    let factor = (learning_rate / (root_mean_square(update) / AdafactorStep::CLIP).max(1.0)) as f32;
    let decay = (1.0 - step.weight_decay * learning_rate) as f32;
    let mut new = values(&weight).to_vec();
    for_row_blocks(&mut new, 1, |first, block| {
        vectorized(
            #[inline(always)]
            || {
                for (w, u) in block.iter_mut().zip(&update[first..]) {
                    *w = *w * decay - u * factor;
                }
            },
        );
    });
    matrix(new, width)
}

/// The sum of squares, in f64 over blocks of fixed size.
fn sum_of_squares(x: &[f32]) -> f64 {
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
