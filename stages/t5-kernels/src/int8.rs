//! Products in int8: both factors have 8 bits, sums 32, and are exact.
//!
//! Quantization is symmetric, to -127..127: a weight, `[columns, depth]`, has a scale for each output, which is a row of it, and `x` a
//! scale for each row, made as it comes (dynamic quantization). A word is four elements next to each other along the depth, the
//! first in its lowest bits. Weights are stored with a zero point of 128, since the instructions multiply unsigned bytes with
//! signed ones; that adds 128 times the sum of the row of `x` to every sum, which is subtracted at the end.

use std::mem::MaybeUninit;

use pulp::{Arch, Simd};

use self::dot::Portable;
use super::arithmetic::MultiplyAdd;
use super::matmul::{NR, PackedLhs, Products, Quantization, Run, run_tasks};
use super::packing::{Layout, Lhs, MR, Rhs, SHORT_MR, pack_panels_beside};
use super::simd::{made_in_blocks_beside, vectorized};
use super::tiles::{self, SIDE, Tiles};

mod dot;

/// The largest quantized value.
const MAX: f32 = i8::MAX as f32;
/// What is added to quantized weights, so that they are unsigned.
const ZERO_POINT: u8 = 128;
/// Elements in a word.
const PER_WORD: usize = size_of::<f32>();

/// The products of `x`, `[rows, depth]`, and the transposes of weights in panels by [`pack_int8_panels`].
pub(super) fn matmul_int8(x: &[f32], depth: usize, products: Products<'_, '_>) {
    if let Some(tiles) = tiles::int8_tiles()
        && fits_tiles(depth)
    {
        return by_tiles(x, depth, products, tiles);
    }
    #[cfg(target_arch = "x86_64")]
    {
        use self::dot::{vnni, x86};
        use pulp::x86::{V3, V4};
        if let Some(kernel) = vnni::avx512() {
            return by_vectors(x, depth, products, MR, kernel);
        }
        if let Some(v4) = V4::try_new() {
            let kernel = |run: Run<'_>| {
                v4.vectorize(
                    #[inline(always)]
                    || run.vectors::<V4, x86::Dot4>(v4),
                );
            };
            return by_vectors(x, depth, products, MR, kernel);
        }
        if let Some(kernel) = vnni::avx2() {
            return by_vectors(x, depth, products, SHORT_MR, kernel);
        }
        if let Some(v3) = V3::try_new() {
            let kernel = |run: Run<'_>| {
                v3.vectorize(
                    #[inline(always)]
                    || run.vectors::<V3, x86::Dot4>(v3),
                );
            };
            return by_vectors(x, depth, products, SHORT_MR, kernel);
        }
    }
    by_vectors(x, depth, products, SHORT_MR, |run| Arch::new().dispatch(Portable(run)));
}

/// By vector instructions, in the micro-kernels that `kernel` runs, on strips of so many rows.
fn by_vectors(
    x: &[f32],
    depth: usize,
    products: Products<'_, '_>,
    strip: usize,
    kernel: impl Fn(Run<'_>) + Sync,
) {
    let x = quantize_rows(x, depth, 1);
    let layout = Layout::F32(depth.div_ceil(PER_WORD));
    let words = Lhs::Rows(&x.words).pack_strips(x.rows.len(), layout, strip);
    run_products(&x, &words, strip, depth, products, kernel);
}

/// Whether rows are whole tiles, which are then read without being packed.
fn fits_tiles(depth: usize) -> bool {
    depth.is_multiple_of(PER_WORD * SIDE)
}

/// By tiles.
fn by_tiles(x: &[f32], depth: usize, products: Products<'_, '_>, tiles: impl Tiles) {
    let x = quantize_rows(x, depth, SIDE);
    let kernel = |run: Run<'_>| {
        vectorized(
            #[inline(always)]
            || run.tiles(tiles),
        );
    };
    run_products(&x, &x.words, SIDE, depth, products, kernel);
}

/// The products of `x`, whose packed form is `words`, by `kernel`.
fn run_products(
    x: &Quantized,
    words: &[f32],
    strip: usize,
    depth: usize,
    products: Products<'_, '_>,
    kernel: impl Fn(Run<'_>) + Sync,
) {
    let row_words = depth.div_ceil(PER_WORD);
    for (rhs, out) in products {
        let Rhs::Panels(w) = rhs else { unreachable!("weights in int8 are in panels") };
        let (panels, column_scales) = w.split_at(w.len() / (row_words + 1) * row_words);
        let by = Quantization { rows: &x.rows, column_scales };
        let lhs = PackedLhs { words, strip, quantized: Some(by) };
        run_tasks(lhs, Rhs::Panels(panels), Layout::F32(row_words), out, &kernel);
    }
}

/// A quantized matrix: rows of words, and how each was quantized.
struct Quantized {
    words: Vec<f32>,
    rows: Vec<QuantizedRow>,
}

/// How a row was quantized.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct QuantizedRow {
    /// What a step of the quantized values is.
    pub(super) scale: f32,
    /// What the zero point of the weights adds to every sum of the row.
    pub(super) correction: i32,
}

/// Quantizes rows of `depth` elements, padded with zeros to whole words. Rows of zeros are added up to a multiple of `side`.
fn quantize_rows(rows: &[f32], depth: usize, side: usize) -> Quantized {
    let width = depth.div_ceil(PER_WORD);
    let padded = (rows.len() / depth).next_multiple_of(side);
    let (words, rows) = made_in_blocks_beside(padded * width, width, 0, |first, block, beside| {
        let rows = rows[(first * depth).min(rows.len())..].chunks_exact(depth);
        for ((to, row), about) in block.chunks_exact_mut(width).zip(rows).zip(beside) {
            let scale = scale(row);
            quantize(bytemuck::cast_slice_mut(to), row, 1.0 / scale, 0);
            *about = QuantizedRow { scale, correction: correction(to) };
        }
    });
    Quantized { words, rows }
}

/// What the zero point of the weights adds to every sum of a row of words.
fn correction(words: &[f32]) -> i32 {
    let elements: &[i8] = bytemuck::cast_slice(words);
    vectorized(
        #[inline(always)]
        || elements.iter().fold(0_i32, |sum, x| sum.wrapping_add((*x).into())),
    )
    .wrapping_mul(ZERO_POINT.into())
}

/// Rounds values times `inverse_scale`, ties to even. NaN, also that of zero times infinity, may become anything: the scale of
/// such a row is NaN, infinite or as good as zero.
fn quantize(to: &mut [u8], values: &[f32], inverse_scale: f32, flipped: u8) {
    /// Between 2^23 and 2^24 a float has no fraction, and its low bits are those of the integer. Adding this rounds and leaves the
    /// integer there, in a few instructions for 16 values; a cast takes more.
    const INTEGER_IN_LOW_BITS: f32 = (3 << 22) as f32;
    vectorized(
        #[inline(always)]
        || {
            for (to, x) in to.iter_mut().zip(values) {
                *to = (x * inverse_scale + INTEGER_IN_LOW_BITS).to_bits() as u8 ^ flipped;
            }
        },
    );
}

/// The scale of a row: its largest magnitude becomes [`MAX`]. Not finite where a value is not.
fn scale(values: &[f32]) -> f32 {
    // Magnitudes are ordered as their bits are: finite ones, infinity, NaN.
    let bits = vectorized(
        #[inline(always)]
        || values.iter().map(|x| x.abs().to_bits()).fold(0, u32::max),
    );
    f32::from_bits(bits) / MAX
}

/// Quantizes a weight, `[columns, depth]`, and packs it into panels, followed by the scale of each column: `[columns, depth / 4 + 1]`.
pub(super) fn pack_int8_panels(rows: &[f32], depth: usize) -> Vec<f32> {
    let (columns, width) = (rows.len() / depth, depth.div_ceil(PER_WORD));
    let quantized = |rows: &[f32], scales: &mut [f32; NR]| {
        let mut words = vec![0.0; rows.len() / depth * width];
        let rows = rows.chunks_exact(depth);
        for ((to, row), to_scale) in words.chunks_exact_mut(width).zip(rows).zip(scales) {
            *to_scale = scale(row);
            quantize(bytemuck::cast_slice_mut(to), row, 1.0 / *to_scale, ZERO_POINT);
        }
        words.into()
    };
    let (mut packed, scales) = pack_panels_beside(rows, depth, width, columns, quantized);
    packed.extend(scales.iter().flatten().take(columns));
    packed
}

/// Dequantizes sums of a row, in registers; there are as many scales as columns.
#[inline(always)]
pub(super) fn dequantize<S: Simd, A: MultiplyAdd<S>, const C: usize>(
    simd: S,
    mut sums: [S::f32s; C],
    correction: i32,
    row_scale: f32,
    column_scales: &[f32],
) -> [S::f32s; C] {
    let row_scale = simd.splat_f32s(row_scale);
    for (sum, scales) in sums.iter_mut().zip(column_scales.chunks(S::F32_LANES)) {
        let scale = simd.mul_f32s(row_scale, simd.partial_load_f32s(scales));
        *sum = simd.mul_f32s(A::sums_as_f32(simd, *sum, correction), scale);
    }
    sums
}

/// Dequantizes sums of a row, whose bits are in `sums`, into `out`.
#[inline(always)]
pub(super) fn write_dequantized(
    out: &mut [MaybeUninit<f32>],
    sums: &[f32],
    correction: i32,
    row_scale: f32,
    column_scales: &[f32],
) {
    for ((out, sum), column_scale) in out.iter_mut().zip(sums).zip(column_scales) {
        let sum = sum.to_bits().cast_signed().wrapping_sub(correction) as f32;
        out.write(sum * (row_scale * column_scale));
    }
}

#[cfg(test)]
mod tests;
