//! RMS layer norm: `y = w * x / sqrt(mean(x^2) + eps)` over rows.

use std::mem::MaybeUninit;

use super::simd::{dot, for_row_blocks, in_blocks, reduce_rows, vectorized};

/// The norm of every `w.len()`-wide row of `x`, into `out`.
pub fn forward(x: &[f32], w: &[f32], eps: f32, out: &mut [MaybeUninit<f32>]) {
    let width = w.len();
    in_blocks(out, width, |first, block| {
        vectorized(
            #[inline(always)]
            || {
                for (y, x) in
                    block.chunks_exact_mut(width).zip(x[first * width..].chunks_exact(width))
                {
                    let scale = inverse_rms(x, eps);
                    for ((y, x), w) in y.iter_mut().zip(x).zip(w) {
                        y.write(w * (x * scale));
                    }
                }
            },
        );
    });
}

/// Gradients of [`forward`] with respect to `x`, into `dx`, and `w`, given that of its result.
pub fn backward(x: &[f32], w: &[f32], eps: f32, grad: &[f32], dx: &mut [f32]) -> Vec<f32> {
    let width = w.len();
    for_row_blocks(dx, width, |first, block| {
        let rows =
            x[first * width..].chunks_exact(width).zip(grad[first * width..].chunks_exact(width));
        vectorized(
            #[inline(always)]
            || {
                for (dx, (x, g)) in block.chunks_exact_mut(width).zip(rows) {
                    let scale = inverse_rms(x, eps);
                    for ((d, g), w) in dx.iter_mut().zip(g).zip(w) {
                        *d = g * w;
                    }
                    let pull = dot(dx, x) * scale * scale / width as f32;
                    for (d, x) in dx.iter_mut().zip(x) {
                        *d = scale * (*d - x * pull);
                    }
                }
            },
        );
    });
    reduce_rows(x.len() / width, width, |rows, partial| {
        let span = rows.start * width..rows.end * width;
        vectorized(
            #[inline(always)]
            || {
                for (x, g) in
                    x[span.clone()].chunks_exact(width).zip(grad[span].chunks_exact(width))
                {
                    let scale = inverse_rms(x, eps);
                    for ((sum, x), g) in partial.iter_mut().zip(x).zip(g) {
                        *sum += g * (x * scale);
                    }
                }
            },
        );
    })
}

#[inline(always)]
fn inverse_rms(x: &[f32], eps: f32) -> f32 {
    1.0 / (dot(x, x) / x.len() as f32 + eps).sqrt()
}
