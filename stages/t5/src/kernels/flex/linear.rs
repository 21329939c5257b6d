//! `x * w^T` by dot products, straight from the weights as they are stored.
//!
//! A general matrix product copies the weights into another order first, which costs more than the product itself when
//! there are few rows, as in every decoding step. Here every element is the dot product of a row of `x` and a row of
//! `w`, summed in an order that depends on nothing else: a row's result is the same, to the bit, in any batch.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

/// Rows of `x` and of `w` in a register tile.
const TILE: usize = 4;
/// Rows of `x` that stay in the second-level cache while the weights stream by.
const X_BLOCK: usize = 64;
/// Rows of `w` that a thread takes at a time.
const W_BLOCK: usize = 64;
/// Multiplications below which one thread does it all.
const PARALLEL_FROM: usize = 1 << 19;

/// The product of `x`, rows of `depth`, and the transpose of `w`, rows of `depth`.
pub(super) fn forward(x: &[f32], w: &[f32], depth: usize) -> Vec<f32> {
    let (rows, columns) = (x.len() / depth, w.len() / depth);
    let mut out = vec![0.0; rows * columns];
    let blocks: Vec<_> = (0..rows)
        .step_by(X_BLOCK)
        .flat_map(|row| (0..columns).step_by(W_BLOCK).map(move |column| (row, column)))
        .collect();
    let product = |&(row, column): &(usize, usize)| {
        let x = &x[row * depth..x.len().min((row + X_BLOCK) * depth)];
        let w = &w[column * depth..w.len().min((column + W_BLOCK) * depth)];
        Arch::new().dispatch(Block { x, w, depth })
    };
    let parts: Vec<Vec<f32>> = if rows * w.len() < PARALLEL_FROM {
        blocks.iter().map(product).collect()
    } else {
        blocks.par_iter().map(product).collect()
    };
    for (&(row, column), part) in blocks.iter().zip(&parts) {
        let width = W_BLOCK.min(columns - column);
        for (offset, part) in part.chunks_exact(width).enumerate() {
            out[(row + offset) * columns + column..][..width].copy_from_slice(part);
        }
    }
    out
}

/// The products of some rows of `x` with some rows of `w`.
struct Block<'a> {
    x: &'a [f32],
    w: &'a [f32],
    depth: usize,
}

impl WithSimd for Block<'_> {
    type Output = Vec<f32>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Vec<f32> {
        let (rows, columns) = (self.x.len() / self.depth, self.w.len() / self.depth);
        let mut out = vec![0.0; rows * columns];
        for column in (0..columns).step_by(TILE) {
            for row in (0..rows).step_by(TILE) {
                self.tile(simd, row, column, &mut out);
            }
        }
        out
    }
}

impl Block<'_> {
    /// One register tile; at the edges the last row is computed more than once.
    #[inline(always)]
    fn tile<S: Simd>(&self, simd: S, row: usize, column: usize, out: &mut [f32]) {
        let columns = self.w.len() / self.depth;
        let (xs, ws) =
            (split::<S>(self.x, row, self.depth), split::<S>(self.w, column, self.depth));
        let mut sums = [[simd.splat_f32s(0.0); TILE]; TILE];
        for k in 0..self.depth / S::F32_LANES {
            let w: [S::f32s; TILE] = std::array::from_fn(|j| ws[j].0[k]);
            for i in 0..TILE {
                let x = xs[i].0[k];
                for j in 0..TILE {
                    sums[i][j] = simd.mul_add_e_f32s(x, w[j], sums[i][j]);
                }
            }
        }
        for i in 0..TILE.min(self.x.len() / self.depth - row) {
            for j in 0..TILE.min(columns - column) {
                let tail: f32 = xs[i].1.iter().zip(ws[j].1).map(|(x, w)| x * w).sum();
                out[(row + i) * columns + column + j] = simd.reduce_sum_f32s(sums[i][j]) + tail;
            }
        }
    }
}

/// The rows of a tile, whole registers and the rest; past the end, the last row again.
#[inline(always)]
fn split<S: Simd>(rows: &[f32], first: usize, depth: usize) -> [(&[S::f32s], &[f32]); TILE] {
    let last = rows.len() / depth - 1;
    std::array::from_fn(|offset| {
        let start = (first + offset).min(last) * depth;
        S::as_simd_f32s(&rows[start..start + depth])
    })
}
