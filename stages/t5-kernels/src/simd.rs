//! Vector loops: written so that the compiler vectorizes them, compiled for the widest instructions of the machine, and rows divided
//! among threads.
//!
//! Every result is a fixed function of its inputs: blocks have fixed sizes and partial sums are added in a fixed
//! order, so the number of threads never changes a bit.

use std::mem::MaybeUninit;

use rayon::prelude::*;

/// Lanes of explicit accumulators: one register of AVX-512, two of AVX2, four of NEON.
pub(super) const LANES: usize = 16;

/// Elements below which waking another thread costs more than it saves.
const PARALLEL_FROM: usize = 1 << 15;

/// Rows that are reduced together before the partial sums are added up.
const REDUCTION_ROWS: usize = 64;

/// Runs `f`, compiled for the best instruction set of this machine.
#[inline(always)]
pub(super) fn vectorized<R>(f: impl FnOnce() -> R) -> R {
    pulp::Arch::new().dispatch(f)
}

/// Prefetches a cache line into the second-level cache; any address is allowed.
#[inline(always)]
#[cfg_attr(target_arch = "x86_64", expect(unsafe_code, reason = "an intrinsic"))]
pub(super) fn prefetch(address: *const f32) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch of an invalid address does nothing.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T1 }>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// Calls `f(first_row, rows)` on blocks of `width`-wide rows of `out`, in parallel where that pays.
pub(super) fn for_row_blocks(out: &mut [f32], width: usize, f: impl Fn(usize, &mut [f32]) + Sync) {
    in_blocks(out, width, f);
}

/// The same for any type.
pub(super) fn in_blocks<T: Send>(out: &mut [T], width: usize, f: impl Fn(usize, &mut [T]) + Sync) {
    let mut nothing = vec![(); out.len().div_ceil(width)];
    in_blocks_beside(out, width, &mut nothing, |first, rows, _| f(first, rows));
}

/// The same with `beside`, which has an element for each row: `f(first_row, rows, beside)`.
fn in_blocks_beside<T: Send, U: Send>(
    out: &mut [T],
    width: usize,
    beside: &mut [U],
    f: impl Fn(usize, &mut [T], &mut [U]) + Sync,
) {
    if out.len() < PARALLEL_FROM {
        return f(0, out, beside);
    }
    let rows = (PARALLEL_FROM / 4 / width).max(1);
    let blocks = out.par_chunks_mut(rows * width).zip(beside.par_chunks_mut(rows));
    blocks.enumerate().for_each(|(block, (out, beside))| f(block * rows, out, beside));
}

/// `len` elements in rows of `width`, zeroed and then filled by `f(first_row, rows)`, block by block.
pub(super) fn made_in_blocks(
    len: usize,
    width: usize,
    f: impl Fn(usize, &mut [f32]) + Sync,
) -> Vec<f32> {
    made_in_blocks_beside(len, width, 0, |first, rows, _: &mut [()]| f(first, rows)).0
}

/// The same, and an element beside each row: `f(first_row, rows, beside)`. To the first, `room` elements can be added without a copy.
///
/// Each block is cleared by the thread that fills it and just before, so that the zeros do not get beyond its cache.
#[expect(unsafe_code, reason = "memory that is cleared block by block")]
pub(super) fn made_in_blocks_beside<T: Clone + Default + Send>(
    len: usize,
    width: usize,
    room: usize,
    f: impl Fn(usize, &mut [f32], &mut [T]) + Sync,
) -> (Vec<f32>, Vec<T>) {
    let mut made = Vec::with_capacity(len + room);
    let mut beside = vec![T::default(); len.div_ceil(width)];
    let out = &mut made.spare_capacity_mut()[..len];
    in_blocks_beside(out, width, &mut beside, |first, block, beside| {
        block.fill(MaybeUninit::new(0.0));
        // SAFETY: the line above has initialized it.
        f(first, unsafe { block.assume_init_mut() }, beside);
    });
    // SAFETY: the blocks are all of it, and are initialized.
    unsafe { made.set_len(len) };
    (made, beside)
}

/// Sums over rows: `f(rows, partial)` adds the contribution of a range of rows to a zeroed `partial` of `width`.
pub(super) fn reduce_rows(
    rows: usize,
    width: usize,
    f: impl Fn(std::ops::Range<usize>, &mut [f32]) + Sync,
) -> Vec<f32> {
    let blocks = rows.div_ceil(REDUCTION_ROWS);
    let partials: Vec<Vec<f32>> = (0..blocks)
        .into_par_iter()
        .with_min_len((PARALLEL_FROM / (REDUCTION_ROWS * width)).max(1))
        .map(|block| {
            let mut partial = vec![0.0; width];
            let first = block * REDUCTION_ROWS;
            f(first..rows.min(first + REDUCTION_ROWS), &mut partial);
            partial
        })
        .collect();
    let mut total = vec![0.0; width];
    for partial in partials {
        add_to(&mut total, &partial);
    }
    total
}

/// `total += part`.
#[inline(always)]
pub(super) fn add_to(total: &mut [f32], part: &[f32]) {
    for (sum, value) in total.iter_mut().zip(part) {
        *sum += value;
    }
}

/// The dot product of two equally long slices.
#[inline(always)]
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (a_chunks, b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let tail: f32 = a_chunks.remainder().iter().zip(b_chunks.remainder()).map(|(x, y)| x * y).sum();
    let mut lanes = [0.0f32; LANES];
    for (x, y) in a_chunks.zip(b_chunks) {
        for lane in 0..LANES {
            lanes[lane] += x[lane] * y[lane];
        }
    }
    lane_sum(lanes) + tail
}

/// The sum of a slice.
#[inline(always)]
pub(super) fn sum(a: &[f32]) -> f32 {
    let chunks = a.chunks_exact(LANES);
    let tail: f32 = chunks.remainder().iter().sum();
    let mut lanes = [0.0f32; LANES];
    for chunk in chunks {
        for lane in 0..LANES {
            lanes[lane] += chunk[lane];
        }
    }
    lane_sum(lanes) + tail
}

/// The largest element; negative infinity for an empty slice.
#[inline(always)]
pub(super) fn max(a: &[f32]) -> f32 {
    let chunks = a.chunks_exact(LANES);
    let tail = chunks.remainder().iter().fold(f32::NEG_INFINITY, |best, &x| best.max(x));
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for chunk in chunks {
        for lane in 0..LANES {
            lanes[lane] = if chunk[lane] > lanes[lane] { chunk[lane] } else { lanes[lane] };
        }
    }
    lanes.iter().fold(tail, |best, &x| best.max(x))
}

#[inline(always)]
fn lane_sum(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// `e^x` to within two units in the last place (Cephes' polynomial), in operations that vectorise.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    // Adding 1.5 * 2^23 rounds to a whole number, which then stands in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let x = if x < -87.0 { -87.0 } else { x };
    let x = if x > 88.0 { 88.0 } else { x };
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(2.121_944_4e-4, n.mul_add(-0.693_359_4, x));
    let mut p = 1.987_569_1e-4_f32;
    for coefficient in [1.398_2e-3, 8.333_452e-3, 4.166_58e-2, 1.666_666_5e-1, 0.5] {
        p = p.mul_add(r, coefficient);
    }
    let scale = f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000));
    ((p * r).mul_add(r, r) + 1.0) * scale
}

/// How many elements are NaN or infinite.
pub fn not_finite(numbers: &[f32]) -> usize {
    /// So many fit into the sum that the compiler has in a lane.
    const BLOCK: usize = 1 << 16;
    vectorized(
        #[inline(always)]
        || {
            let count = |sum: u32, x: &f32| sum.wrapping_add(u32::from(!x.is_finite()));
            numbers.chunks(BLOCK).map(|block| block.iter().fold(0, count) as usize).sum()
        },
    )
}

/// Softmax, in place. The slice is whole registers, so that no loop has a remainder: padding is negative infinity.
#[inline(always)]
pub(super) fn softmax(scores: &mut [f32]) {
    let (registers, _) = scores.as_chunks_mut::<LANES>();
    let mut tops = [f32::NEG_INFINITY; LANES];
    for scores in registers.iter() {
        for lane in 0..LANES {
            tops[lane] = if scores[lane] > tops[lane] { scores[lane] } else { tops[lane] };
        }
    }
    let top = tops.iter().fold(f32::NEG_INFINITY, |best, &x| best.max(x));
    let mut sums = [0.0; LANES];
    for scores in registers.iter_mut() {
        for lane in 0..LANES {
            scores[lane] = exp(scores[lane] - top);
            sums[lane] += scores[lane];
        }
    }
    let scale = 1.0 / lane_sum(sums);
    for scores in registers {
        for score in scores {
            *score *= scale;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_accurate_over_its_range() {
        for step in -8_600..8_700 {
            let x = step as f32 * 0.01;
            let exact = f64::from(x).exp();
            let error = (f64::from(exp(x)) - exact).abs() / exact;
            assert!(error < 2.5e-7, "exp({x}) is off by {error:e}");
        }
    }

    #[test]
    fn reductions_agree_with_the_plain_ones_at_every_length() {
        for length in 0..50 {
            let a: Vec<f32> = (0..length).map(|i| (i as f32 * 0.7).sin()).collect();
            let b: Vec<f32> = (0..length).map(|i| (i as f32 * 0.3).cos()).collect();
            let exact: f64 = a.iter().zip(&b).map(|(&x, &y)| f64::from(x) * f64::from(y)).sum();
            assert!((f64::from(dot(&a, &b)) - exact).abs() < 1e-5);
            assert!((sum(&a) - a.iter().sum::<f32>()).abs() < 1e-5);
            let largest = a.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            assert!(max(&a).total_cmp(&largest).is_eq());
        }
    }
}
