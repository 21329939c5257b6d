//! Few queries, as in decoding with a KV cache: one dot product after the other. Keys and values are most of what is read, so the outer
//! loop is over them, and each is read from memory once, in order and prefetched.

use pulp::{Simd, WithSimd};

use super::super::arithmetic::{first_of, second_of};
use super::super::simd::{LANES, prefetch};
use super::{Scratch, Work};

pub(super) struct Few<'a> {
    pub(super) work: Work<'a>,
    pub(super) scratch: &'a mut Scratch,
    pub(super) out: &'a mut [f32],
    /// Called with the probabilities, before dropout.
    pub(super) keep: &'a mut dyn FnMut(&[f32]),
}

impl WithSimd for Few<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { work, scratch, out, keep } = self;
        let (segment, inputs, d) = (work.segment, work.inputs, work.d_kv());
        let (queries, keys, width) = (segment.queries.len(), segment.keys.len(), inputs.width);
        let stride = keys.next_multiple_of(LANES);
        let of_head = queries * stride;
        let Scratch { a, scores, .. } = scratch;
        let (rows, weights) = (&mut a.data, &mut scores.data);
        rows.resize(VALUES * width, 0.0);
        weights.clear();
        weights.resize(work.plan.heads * of_head, 0.0);
        for position in 0..keys {
            work.prefetch(inputs.k, position + AHEAD);
            let key = work.cached(inputs.k, position, rows);
            for row in (0..queries).filter(|row| position < work.visible(*row)) {
                let query = work.row(inputs.q, segment.queries.start + row);
                let heads = query.chunks_exact(d).zip(key.chunks_exact(d));
                let scores = weights[row * stride + position..].chunks_mut(of_head);
                for ((query, key), score) in heads.zip(scores) {
                    score[0] = dot_product(simd, query, key);
                }
            }
        }
        for (head, weights) in weights.chunks_exact_mut(of_head.max(1)).enumerate() {
            work.normalise(weights, stride, head);
        }
        keep(weights);
        for (head, weights) in weights.chunks_exact_mut(of_head.max(1)).enumerate() {
            work.drop(weights, head);
        }
        for first in (0..keys).step_by(VALUES) {
            let mut values: [&[f32]; VALUES] = [&[]; VALUES];
            let places = values.iter_mut().zip(rows.chunks_exact_mut(width));
            for (position, (value, place)) in (first..keys).zip(places) {
                work.prefetch(inputs.v, position + AHEAD);
                *value = work.cached(inputs.v, position, place);
            }
            for (row, out) in out.chunks_exact_mut(width).enumerate() {
                let count = VALUES.min(work.visible(row).saturating_sub(first));
                for (head, out) in out.chunks_exact_mut(d).enumerate() {
                    let weights = &weights[head * of_head + row * stride + first..][..count];
                    add_weighted(simd, weights, &values[..count], head * d, out);
                }
            }
        }
    }
}

impl Work<'_> {
    /// The key or value at a position; of bf16 it is widened into `buffer`.
    #[inline(always)]
    fn cached<'b>(&self, rows: &'b [f32], position: usize, buffer: &'b mut [f32]) -> &'b [f32] {
        let row = self.segment.keys.row(position);
        if !self.inputs.bf16_kv {
            return self.row(rows, row);
        }
        let half = self.inputs.width / 2;
        let (lower, upper) = buffer[..2 * half].split_at_mut(half);
        let words = lower.iter_mut().zip(upper).zip(&rows[row * half..][..half]);
        for ((lower, upper), word) in words {
            (*lower, *upper) = (first_of(*word), second_of(*word));
        }
        &buffer[..2 * half]
    }

    /// Prefetches the key or value at a position: rows of a cache are too short and too far apart for the hardware prefetcher.
    #[inline(always)]
    fn prefetch(&self, rows: &[f32], position: usize) {
        if position >= self.segment.keys.len() {
            return;
        }
        let words = if self.inputs.bf16_kv { self.inputs.width / 2 } else { self.inputs.width };
        let row = rows.as_ptr().wrapping_add(self.segment.keys.row(position) * words);
        for line in (0..words).step_by(LANES) {
            prefetch(row.wrapping_add(line));
        }
    }
}

/// How many positions ahead keys and values are prefetched.
const AHEAD: usize = 4;
/// Values that are summed together; their rows stay in the first-level cache.
const VALUES: usize = 8;
/// Registers of a weighted sum at a time.
const SUMS: usize = 4;

/// The dot product of two equally long slices, in registers.
#[inline(always)]
fn dot_product<S: Simd>(simd: S, a: &[f32], b: &[f32]) -> f32 {
    let ((a, a_rest), (b, b_rest)) = (S::as_simd_f32s(a), S::as_simd_f32s(b));
    let mut sum = simd.splat_f32s(0.0);
    for (a, b) in a.iter().zip(b) {
        sum = simd.mul_add_e_f32s(*a, *b, sum);
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    simd.reduce_sum_f32s(sum) + rest
}

/// Adds rows, from a column on, each times its weight.
#[inline(always)]
fn add_weighted<S: Simd>(
    simd: S,
    weights: &[f32],
    rows: &[&[f32]],
    column: usize,
    out: &mut [f32],
) {
    let width = out.len();
    let (registers, rest) = S::as_mut_simd_f32s(out);
    let whole = registers.len();
    let (blocks, single) = registers.as_chunks_mut::<SUMS>();
    for (block, out) in blocks.iter_mut().enumerate() {
        // A local array, so that it stays in registers.
        let mut sums = *out;
        for (weight, row) in weights.iter().zip(rows) {
            let (row, _) = S::as_simd_f32s(&row[column..][..width]);
            let Some(row) = row[block * SUMS..].first_chunk::<SUMS>() else { break };
            let weight = simd.splat_f32s(*weight);
            for index in 0..SUMS {
                sums[index] = simd.mul_add_e_f32s(weight, row[index], sums[index]);
            }
        }
        *out = sums;
    }
    for (index, out) in single.iter_mut().enumerate() {
        let index = whole / SUMS * SUMS + index;
        for (weight, row) in weights.iter().zip(rows) {
            let (row, _) = S::as_simd_f32s(&row[column..][..width]);
            *out = simd.mul_add_e_f32s(simd.splat_f32s(*weight), row[index], *out);
        }
    }
    for (weight, row) in weights.iter().zip(rows) {
        for (sum, value) in rest.iter_mut().zip(&row[column + whole * S::F32_LANES..]) {
            *sum += weight * value;
        }
    }
}
