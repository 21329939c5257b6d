//! Products of whole numbers: both factors in 8 bits, sums in 32, all exact.
//!
//! A weight, `[columns, depth]`, has a scale for each of its rows, and `x` one for each of its own; each is made of the
//! largest number there. A word is four numbers that lie one after another along the depth, the first in its lowest bits.
//! Weights are kept 128 above what they are, since the instruction multiplies numbers without a sign with such that have
//! one; what that adds to a sum is 128 times the sum of the row of `x`, which is taken off at the end.

use std::mem::MaybeUninit;

use pulp::{Arch, Simd, WithSimd};

use super::arithmetic::Arithmetic;
use super::operands::{Depth, Left, Right, SHORT_STRIP, STRIP, panels};
use super::product::{Products, Run, Scales, Strips, share};
use super::simd::{made_in_blocks, vectorized};
use super::tiles::{self, SIDE, Tiles};

/// The largest number.
const LARGEST: f32 = i8::MAX as f32;
/// What weights are kept above themselves.
const OFFSET: u8 = 128;
/// Numbers in a word.
const BYTES: usize = size_of::<f32>();

/// The products of `x`, rows of `depth`, and the transposes of weights in panels that [`byte_panels`] gave.
pub(super) fn multiply_int8(x: &[f32], depth: usize, products: Products<'_, '_>) {
    if let Some(tiles) = tiles::of_bytes()
        && fits_tiles(depth)
    {
        return multiply_tiles(x, depth, products, tiles);
    }
    #[cfg(target_arch = "x86_64")]
    {
        use pulp::x86::{V3, V4};
        if let Some(work) = vnni::in_long_vectors() {
            return multiply_by(x, depth, products, STRIP, work);
        }
        if let Some(v4) = V4::try_new() {
            let work = |run: Run<'_>| {
                v4.vectorize(
                    #[inline(always)]
                    || run.vectors::<V4, x86::Quads>(v4),
                );
            };
            return multiply_by(x, depth, products, STRIP, work);
        }
        if let Some(work) = vnni::in_short_vectors() {
            return multiply_by(x, depth, products, SHORT_STRIP, work);
        }
        if let Some(v3) = V3::try_new() {
            let work = |run: Run<'_>| {
                v3.vectorize(
                    #[inline(always)]
                    || run.vectors::<V3, x86::Quads>(v3),
                );
            };
            return multiply_by(x, depth, products, SHORT_STRIP, work);
        }
    }
    multiply_by(x, depth, products, SHORT_STRIP, |run| Arch::new().dispatch(InQuads(run)));
}

/// By `work`, in strips of `height` rows.
fn multiply_by(
    x: &[f32],
    depth: usize,
    products: Products<'_, '_>,
    height: usize,
    work: impl Fn(Run<'_>) + Sync,
) {
    let left = whole_rows(x, depth, 0, 1);
    let rows = left.scales.len();
    let strips =
        Left::Rows(&left.quads).strips(rows, Depth::Singles(depth.div_ceil(BYTES)), height);
    multiply_whole(&left, &strips, height, depth, products, work);
}

/// Whether rows are whole tiles: their words are then read as they are.
fn fits_tiles(depth: usize) -> bool {
    depth.is_multiple_of(BYTES * SIDE)
}

/// By instructions for tiles.
fn multiply_tiles(x: &[f32], depth: usize, products: Products<'_, '_>, tiles: impl Tiles) {
    let left = whole_rows(x, depth, 0, SIDE);
    let work = |run: Run<'_>| {
        vectorized(
            #[inline(always)]
            || run.tiles(tiles),
        );
    };
    multiply_whole(&left, &left.quads, SIDE, depth, products, work);
}

/// By `work`, from the words of the rows in the order that it wants.
fn multiply_whole(
    left: &Whole,
    words: &[f32],
    height: usize,
    depth: usize,
    products: Products<'_, '_>,
    work: impl Fn(Run<'_>) + Sync,
) {
    let row_words = depth.div_ceil(BYTES);
    let offsets: Vec<i32> = left.quads.chunks_exact(row_words).map(offset).collect();
    for (right, out) in products {
        let Right::Panels(w) = right else {
            unreachable!("weights of whole numbers are in panels")
        };
        let (values, columns) = w.split_at(w.len() / (row_words + 1) * row_words);
        let scales = Scales { rows: &left.scales, offsets: &offsets, columns };
        let left = Strips { words, height, scales: Some(scales) };
        share(left, Right::Panels(values), Depth::Singles(row_words), out, &work);
    }
}

/// What a sum with this row has too much.
fn offset(quads: &[f32]) -> i32 {
    let numbers: &[i8] = bytemuck::cast_slice(quads);
    vectorized(
        #[inline(always)]
        || numbers.iter().fold(0_i32, |sum, x| sum.wrapping_add((*x).into())),
    )
    .wrapping_mul(OFFSET.into())
}

/// Rows of whole numbers, four to a word, and what those of each row are multiples of.
struct Whole {
    quads: Vec<f32>,
    scales: Vec<f32>,
}

/// What a row is multiplied with so that its numbers are whole, from what they are then multiples of.
fn inverse(scale: f32) -> f32 {
    1.0 / scale
}

/// Rows of `depth` numbers as whole ones, filled up with zeros, with some bits of each turned over; and rows of zeros up to
/// a multiple of `side` of them.
fn whole_rows(rows: &[f32], depth: usize, turned: u8, side: usize) -> Whole {
    let words = depth.div_ceil(BYTES);
    let scales: Vec<f32> = rows.chunks_exact(depth).map(scale).collect();
    let filled = scales.len().next_multiple_of(side);
    let quads = made_in_blocks(filled * words, words, |first, block| {
        let rows = rows.chunks_exact(depth).zip(&scales).skip(first);
        for (to, (row, scale)) in block.chunks_exact_mut(words).zip(rows) {
            round(bytemuck::cast_slice_mut(to), row, inverse(*scale), turned);
        }
    });
    Whole { quads, scales }
}

/// Numbers times a factor as whole ones, to the nearest and of two to the even one. What is no number, nothing times infinity
/// among them, may become anything: its scale is none either, or next to nothing.
fn round(to: &mut [u8], numbers: &[f32], factor: f32, turned: u8) {
    /// Between two to the 23 and the 24, whole numbers alone are floats, and their lower bits are as in an integer. This
    /// one has none, so what is added to it is rounded and found there: in a few instructions for 16, which a cast is not.
    const LOWER_BITS_ARE_WHOLE: f32 = (3 << 22) as f32;
    vectorized(
        #[inline(always)]
        || {
            for (to, x) in to.iter_mut().zip(numbers) {
                *to = (x * factor + LOWER_BITS_ARE_WHOLE).to_bits() as u8 ^ turned;
            }
        },
    );
}

/// What numbers are divided by so that none is above the largest; not finite where one of them is not.
fn scale(numbers: &[f32]) -> f32 {
    // Ordered as their bits are: first what is finite, then infinity, then NaN.
    let bits = vectorized(
        #[inline(always)]
        || numbers.iter().map(|x| x.abs().to_bits()).fold(0, u32::max),
    );
    f32::from_bits(bits) / LARGEST
}

/// A weight `[columns, depth]` in panels of whole numbers, four to a word, and then the scale of each column:
/// `[columns, depth / 4 + 1]`.
pub(super) fn byte_panels(rows: &[f32], depth: usize) -> Vec<f32> {
    let Whole { quads, scales } = whole_rows(rows, depth, OFFSET, 1);
    let mut made = panels(&quads, depth.div_ceil(BYTES));
    made.extend(scales);
    made
}

/// What sums of whole numbers stand for: each less what its row has too much, times the scale of the row and that of its
/// column, of which there are as many as columns.
#[inline(always)]
pub(super) fn scaled<S: Simd, A: Arithmetic<S>, const C: usize>(
    simd: S,
    mut sums: [S::f32s; C],
    offset: i32,
    row_scale: f32,
    column_scales: &[f32],
) -> [S::f32s; C] {
    let row_scale = simd.splat_f32s(row_scale);
    for (sum, scales) in sums.iter_mut().zip(column_scales.chunks(S::F32_LANES)) {
        let scale = simd.mul_f32s(row_scale, simd.partial_load_f32s(scales));
        *sum = simd.mul_f32s(A::number(simd, *sum, offset), scale);
    }
    sums
}

/// The same for sums in the words of floats: one of each column of `out`.
#[inline(always)]
pub(super) fn write_scaled(
    out: &mut [MaybeUninit<f32>],
    sums: &[f32],
    offset: i32,
    row_scale: f32,
    column_scales: &[f32],
) {
    for ((out, sum), column_scale) in out.iter_mut().zip(sums).zip(column_scales) {
        let number = sum.to_bits().cast_signed().wrapping_sub(offset) as f32;
        out.write(number * (row_scale * column_scale));
    }
}

/// A word is four numbers, and a sum is whole too. Of weights and rows of any depth only the difference to the offset need
/// be an i32: what is above that wraps around, and back.
struct Quads;

impl<S: Simd> Arithmetic<S> for Quads {
    #[inline(always)]
    fn add_product(_: S, factor: f32, row: S::f32s, mut sum: S::f32s) -> S::f32s {
        let factor = bytemuck::cast::<f32, [i8; BYTES]>(factor).map(i32::from);
        let row: &[[u8; BYTES]] = bytemuck::cast_slice(std::slice::from_ref(&row));
        let lanes: &mut [i32] = bytemuck::cast_slice_mut(std::slice::from_mut(&mut sum));
        for (sum, quad) in lanes.iter_mut().zip(row) {
            for place in 0..BYTES {
                *sum = sum.wrapping_add(factor[place].wrapping_mul(quad[place].into()));
            }
        }
        sum
    }

    #[inline(always)]
    fn number(_: S, mut sum: S::f32s, offset: i32) -> S::f32s {
        let lanes: &mut [i32] = bytemuck::cast_slice_mut(std::slice::from_mut(&mut sum));
        for sum in lanes {
            *sum = (sum.wrapping_sub(offset) as f32).to_bits().cast_signed();
        }
        sum
    }
}

struct InQuads<'a>(Run<'a>);

impl WithSimd for InQuads<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        self.0.vectors::<S, Quads>(simd);
    }
}

/// The same by an instruction that multiplies pairs of 16 bits and adds them up: of the numbers at even places, and of
/// those at odd ones.
#[cfg(target_arch = "x86_64")]
mod x86 {
    use pulp::x86::{V3, V4};
    use pulp::{Simd, cast, f32x8, f32x16};

    use super::Arithmetic;

    /// The lower bits of 16.
    const LOWER: i16 = 0xff;

    pub(super) struct Quads;

    impl Arithmetic<V3> for Quads {
        #[inline(always)]
        fn add_product(v3: V3, factor: f32, row: f32x8, sum: f32x8) -> f32x8 {
            let (avx2, factor, row) = (v3.avx2, cast(v3.splat_f32s(factor)), cast(row));
            let lower = cast(v3.splat_i16x16(LOWER));
            let even = avx2._mm256_srai_epi16::<8>(avx2._mm256_slli_epi16::<8>(factor));
            let even = avx2._mm256_madd_epi16(avx2._mm256_and_si256(row, lower), even);
            let odd = avx2._mm256_srai_epi16::<8>(factor);
            let odd = avx2._mm256_madd_epi16(avx2._mm256_srli_epi16::<8>(row), odd);
            cast(avx2._mm256_add_epi32(cast(sum), avx2._mm256_add_epi32(even, odd)))
        }

        #[inline(always)]
        fn number(v3: V3, sum: f32x8, offset: i32) -> f32x8 {
            let whole = v3.avx2._mm256_sub_epi32(cast(sum), cast(v3.splat_i32x8(offset)));
            cast(v3.avx._mm256_cvtepi32_ps(whole))
        }
    }

    impl Arithmetic<V4> for Quads {
        #[inline(always)]
        fn add_product(v4: V4, factor: f32, row: f32x16, sum: f32x16) -> f32x16 {
            let (f, bw) = (v4.avx512f, v4.avx512bw);
            let (factor, row) = (cast(v4.splat_f32s(factor)), cast(row));
            let lower = cast(v4.splat_i16x32(LOWER));
            let even = bw._mm512_srai_epi16::<8>(bw._mm512_slli_epi16::<8>(factor));
            let even = bw._mm512_madd_epi16(f._mm512_and_si512(row, lower), even);
            let odd = bw._mm512_srai_epi16::<8>(factor);
            let odd = bw._mm512_madd_epi16(bw._mm512_srli_epi16::<8>(row), odd);
            cast(f._mm512_add_epi32(cast(sum), f._mm512_add_epi32(even, odd)))
        }

        #[inline(always)]
        fn number(v4: V4, sum: f32x16, offset: i32) -> f32x16 {
            let whole = v4.avx512f._mm512_sub_epi32(cast(sum), cast(v4.splat_i32x16(offset)));
            cast(v4.avx512f._mm512_cvtepi32_ps(whole))
        }
    }
}

/// The same by one instruction: of AVX-512 on some processors, of AVX2 on some that have no AVX-512.
#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "instructions that not every processor has")]
mod vnni {
    use std::arch::x86_64::{__m256i, __m512i, _mm256_dpbusd_avx_epi32, _mm512_dpbusd_epi32};
    use std::mem::transmute;
    use std::sync::LazyLock;

    use pulp::{
        Simd, f32x8, f32x16,
        x86::{V3, V4},
    };

    use super::{Arithmetic, Run, x86};

    /// What runs products on a processor that has the instruction, by AVX-512.
    pub(super) fn in_long_vectors() -> Option<impl Fn(Run<'_>) + Sync> {
        static THERE: LazyLock<Option<V4>> =
            LazyLock::new(|| V4::try_new().filter(|_| is_x86_feature_detected!("avx512vnni")));
        #[target_feature(
            enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512vnni,avx2,fma,bmi1,bmi2,lzcnt,popcnt"
        )]
        fn with_instruction(v4: V4, run: Run<'_>) {
            run.vectors::<V4, Quads>(v4);
        }
        // SAFETY: the processor has been seen to have all of these.
        THERE.map(|v4| move |run: Run<'_>| unsafe { with_instruction(v4, run) })
    }

    /// The same by AVX2.
    pub(super) fn in_short_vectors() -> Option<impl Fn(Run<'_>) + Sync> {
        static THERE: LazyLock<Option<V3>> =
            LazyLock::new(|| V3::try_new().filter(|_| is_x86_feature_detected!("avxvnni")));
        #[target_feature(enable = "avx2,fma,avxvnni,bmi1,bmi2,lzcnt,popcnt")]
        fn with_instruction(v3: V3, run: Run<'_>) {
            run.vectors::<V3, Quads>(v3);
        }
        // SAFETY: the processor has been seen to have all of these.
        THERE.map(|v3| move |run: Run<'_>| unsafe { with_instruction(v3, run) })
    }

    struct Quads;

    impl Arithmetic<V4> for Quads {
        #[inline(always)]
        fn add_product(v4: V4, factor: f32, row: f32x16, sum: f32x16) -> f32x16 {
            let factor = v4.splat_f32s(factor);
            // SAFETY: all are 512 bits without any meaning of their own; only what has the instruction comes here.
            unsafe {
                let sum = transmute::<f32x16, __m512i>(sum);
                let (row, factor) =
                    (transmute::<f32x16, __m512i>(row), transmute::<f32x16, __m512i>(factor));
                transmute(_mm512_dpbusd_epi32(sum, row, factor))
            }
        }

        #[inline(always)]
        fn number(v4: V4, sum: f32x16, offset: i32) -> f32x16 {
            <x86::Quads as Arithmetic<V4>>::number(v4, sum, offset)
        }
    }

    impl Arithmetic<V3> for Quads {
        #[inline(always)]
        fn add_product(v3: V3, factor: f32, row: f32x8, sum: f32x8) -> f32x8 {
            let factor = v3.splat_f32s(factor);
            // SAFETY: all are 256 bits without any meaning of their own; only what has the instruction comes here.
            unsafe {
                let sum = transmute::<f32x8, __m256i>(sum);
                let (row, factor) =
                    (transmute::<f32x8, __m256i>(row), transmute::<f32x8, __m256i>(factor));
                transmute(_mm256_dpbusd_avx_epi32(sum, row, factor))
            }
        }

        #[inline(always)]
        fn number(v3: V3, sum: f32x8, offset: i32) -> f32x8 {
            <x86::Quads as Arithmetic<V3>>::number(v3, sum, offset)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::product::tests::{matrix, written};
    use super::*;

    fn product(x: &[f32], w: &[f32], depth: usize) -> Vec<f32> {
        let panels = byte_panels(w, depth);
        let count = x.len() / depth * (w.len() / depth);
        written(count, |out| multiply_int8(x, depth, &mut [(Right::Panels(&panels), out)]))
    }

    #[test]
    fn errors_are_those_of_rounding() {
        for [rows, depth, columns] in
            [[1, 1, 1], [3, 5, 7], [13, 33, 50], [70, 64, 130], [300, 21, 95], [65, 2048, 33]]
        {
            let (x, w) = (matrix(rows, depth, 0.37), matrix(columns, depth, 0.73));
            let products = product(&x, &w, depth);
            for (index, product) in products.iter().enumerate() {
                let (x, w) = (&x[index / columns * depth..], &w[index % columns * depth..]);
                let (mut exact, mut bound) = (0.0_f64, 1e-5_f64);
                for (x, w) in x[..depth].iter().zip(&w[..depth]) {
                    exact += f64::from(x * w);
                    // Half a step of each, which is 1 / 127 at most.
                    let half = 0.5 / 127.0;
                    bound += f64::from(x.abs() + w.abs()) * half + half * half;
                }
                let off = (f64::from(*product) - exact).abs();
                assert!(off <= bound, "{product} is off {exact} by {off}, more than {bound}");
            }
        }
    }

    #[test]
    fn whole_numbers_are_multiplied_exactly_with_instructions_and_without() {
        let (rows, depth, columns) = (29, 38, 70);
        let whole = |count: usize, seed: usize| -> Vec<f32> {
            (0..count).map(|i| (i * seed % 255) as f32 - 127.0).collect()
        };
        let (mut x, mut w) = (whole(rows * depth, 89), whole(columns * depth, 53));
        // With a scale of 1 nothing is rounded.
        for row in x.chunks_mut(depth).chain(w.chunks_mut(depth)) {
            row[0] = 127.0;
        }
        let exact = |index: usize| -> f32 {
            let (x, w) = (&x[index / columns * depth..], &w[index % columns * depth..]);
            x[..depth].iter().zip(w).map(|(x, w)| *x as i64 * *w as i64).sum::<i64>() as f32
        };
        let panels = byte_panels(&w, depth);
        let slow = written(rows * columns, |out| {
            let work = |run: Run<'_>| Arch::new().dispatch(InQuads(run));
            multiply_by(&x, depth, &mut [(Right::Panels(&panels), out)], SHORT_STRIP, work);
        });
        assert_eq!(slow, (0..rows * columns).map(exact).collect::<Vec<_>>());
        assert_eq!(slow, product(&x, &w, depth));
        // Also where there is a faster instruction.
        #[cfg(target_arch = "x86_64")]
        {
            use pulp::x86::{V3, V4};
            let check = |height: usize, work: &(dyn Fn(Run<'_>) + Sync)| {
                let fast = written(rows * columns, |out| {
                    multiply_by(&x, depth, &mut [(Right::Panels(&panels), out)], height, work);
                });
                assert_eq!(slow, fast);
            };
            if let Some(v4) = V4::try_new() {
                check(STRIP, &|run| v4.vectorize(|| run.vectors::<_, x86::Quads>(v4)));
            }
            if let Some(v3) = V3::try_new() {
                check(SHORT_STRIP, &|run| v3.vectorize(|| run.vectors::<_, x86::Quads>(v3)));
            }
            if let Some(work) = vnni::in_short_vectors() {
                check(SHORT_STRIP, &work);
            }
        }
    }

    #[test]
    fn tiles_give_what_vectors_give() {
        for [rows, depth, columns] in [[1, 64, 1], [29, 128, 70], [33, 64, 64], [70, 512, 33]] {
            let (x, w) = (matrix(rows, depth, 0.37), matrix(columns, depth, 0.73));
            let panels = byte_panels(&w, depth);
            let by = |multiply: &dyn Fn(Products<'_, '_>)| {
                written(rows * columns, |out| multiply(&mut [(Right::Panels(&panels), out)]))
            };
            let vectors = by(&|products| {
                let work = |run: Run<'_>| Arch::new().dispatch(InQuads(run));
                multiply_by(&x, depth, products, SHORT_STRIP, work);
            });
            let emulated = tiles::emulated::Bytes;
            assert_eq!(vectors, by(&|products| multiply_tiles(&x, depth, products, emulated)));
            if let Some(tiles) = tiles::of_bytes() {
                assert_eq!(vectors, by(&|products| multiply_tiles(&x, depth, products, tiles)));
            }
        }
    }

    #[test]
    fn what_is_no_number_stays_in_its_row_and_is_not_hidden() {
        let (mut x, w) = (matrix(4, 8, 0.17), matrix(3, 8, 0.31));
        let before = product(&x, &w, 8);
        x[8..16].fill(0.0);
        (x[3], x[17]) = (f32::NAN, f32::INFINITY);
        let after = product(&x, &w, 8);
        assert!(after[..3].iter().chain(&after[6..9]).all(|x| !x.is_finite()), "{after:?}");
        assert_eq!(after[3..6], [0.0; 3]);
        assert_eq!(after[9..], before[9..]);
        assert!(product(&[], &w, 8).is_empty());
    }
}
