//! Products of whole numbers: weights in 8 bits, what they are multiplied with in up to 16, sums in 32, all exact.
//!
//! A weight, `[columns, depth]`, has a scale for each of its rows, and `x` one for each of its own; both are made of the
//! largest number there. Rows of `x` get as many bits as sums can hold at that depth (14 at a depth of 2,048), so that
//! nearly all of the error is that of the weights.
//!
//! In registers a word is a pair, as in bf16: the first number in its lower half. In memory weights take half of that.

use std::mem::MaybeUninit;

use pulp::{Arch, Simd, WithSimd};

use super::arithmetic::Arithmetic;
use super::operands::{Depth, Left, Right, SHORT_STRIP, STRIP};
use super::product::{PANEL, Run, Strips, share};
use super::simd::{made_in_blocks, vectorized};

/// The largest weight.
const LARGEST: f32 = i8::MAX as f32;
/// Weights in a word of memory.
const BYTES: usize = size_of::<f32>();

/// The product of `x`, rows of `depth`, and the transpose of a weight that [`byte_panels`] gave, into `out`.
pub(super) fn multiply_int8(x: &[f32], w: &[f32], depth: usize, out: &mut [MaybeUninit<f32>]) {
    #[cfg(target_arch = "x86_64")]
    {
        use pulp::x86::{V3, V4};
        if let Some(work) = vnni::in_long_pairs() {
            return multiply_by(x, w, depth, out, STRIP, work);
        }
        if let Some(v4) = V4::try_new() {
            let work = |run: Run<'_>| {
                v4.vectorize(
                    #[inline(always)]
                    || run.vectors::<V4, x86::Pairs>(v4),
                );
            };
            return multiply_by(x, w, depth, out, STRIP, work);
        }
        if let Some(work) = vnni::in_short_pairs() {
            return multiply_by(x, w, depth, out, SHORT_STRIP, work);
        }
        if let Some(v3) = V3::try_new() {
            let work = |run: Run<'_>| {
                v3.vectorize(
                    #[inline(always)]
                    || run.vectors::<V3, x86::Pairs>(v3),
                );
            };
            return multiply_by(x, w, depth, out, SHORT_STRIP, work);
        }
    }
    multiply_by(x, w, depth, out, SHORT_STRIP, |run| Arch::new().dispatch(InPairs(run)));
}

/// By `work`, in strips of `height` rows.
fn multiply_by(
    x: &[f32],
    w: &[f32],
    depth: usize,
    out: &mut [MaybeUninit<f32>],
    height: usize,
    work: impl Fn(Run<'_>) + Sync,
) {
    if out.is_empty() {
        return;
    }
    let columns = w.len() / (depth.div_ceil(BYTES) + 1);
    let (values, scales) = w.split_at(w.len() - columns);
    let (pairs, row_scales) = whole_rows(x, depth);
    let depth = Depth::Singles(filled(depth) / 2);
    let words = Left::Rows(&pairs).strips(row_scales.len(), depth, height);
    let left = Strips { words: &words, height, scales: &row_scales };
    share(left, Right::Bytes { values, scales }, depth, columns, out, work);
}

/// Numbers of a row with the zeros after it.
fn filled(depth: usize) -> usize {
    depth.next_multiple_of(BYTES)
}

/// Rows of `depth` numbers as rows of pairs, filled up with zeros, and the scale of each.
fn whole_rows(rows: &[f32], depth: usize) -> (Vec<f32>, Vec<f32>) {
    // The sum of so many products with the largest weight is an i32.
    let largest = (i32::MAX / (i32::from(i8::MAX) * filled(depth) as i32)).min(i16::MAX.into());
    let largest = largest as f32;
    let scales: Vec<f32> = rows.chunks_exact(depth).map(|row| scale(row, largest)).collect();
    let words = filled(depth) / 2;
    let pairs = made_in_blocks(scales.len() * words, words, |first, block| {
        let rows = rows.chunks_exact(depth).zip(&scales).skip(first);
        for (to, (row, scale)) in block.chunks_exact_mut(words).zip(rows) {
            round(bytemuck::cast_slice_mut(to), row, *scale, |x| x as i16);
        }
    });
    (pairs, scales)
}

/// Numbers as multiples of a scale, to the nearest and of two to the even one; `whole` takes the lower bits. What is no
/// number, nothing divided by nothing among them, may become anything: its scale is none either, or zero.
fn round<T>(to: &mut [T], numbers: &[f32], scale: f32, whole: impl Fn(u32) -> T) {
    /// Between two to the 23 and the 24, whole numbers alone are floats, and their lower bits are as in an integer. This
    /// one has none, so what is added to it is rounded and found there: in a few instructions for 16, which a cast is not.
    const LOWER_BITS_ARE_WHOLE: f32 = (3 << 22) as f32;
    vectorized(
        #[inline(always)]
        || {
            for (to, x) in to.iter_mut().zip(numbers) {
                *to = whole((x / scale + LOWER_BITS_ARE_WHOLE).to_bits());
            }
        },
    );
}

/// What numbers are divided by so that none is above `largest`; not finite where one of them is not.
fn scale(numbers: &[f32], largest: f32) -> f32 {
    // Ordered as their bits are: first what is finite, then infinity, then NaN.
    let bits = vectorized(
        #[inline(always)]
        || numbers.iter().map(|x| x.abs().to_bits()).fold(0, u32::max),
    );
    f32::from_bits(bits) / largest
}

/// A weight `[columns, depth]` in panels of whole numbers, four to a word, and then the scale of each column:
/// `[columns, depth / 4 + 1]`.
pub(in crate::kernels) fn byte_panels(rows: &[f32], depth: usize) -> Vec<f32> {
    let words = depth.div_ceil(BYTES);
    let scales: Vec<f32> = rows.chunks_exact(depth).map(|row| scale(row, LARGEST)).collect();
    let panel = PANEL * words;
    let mut made = made_in_blocks(scales.len() * words, panel, |block, to| {
        let mut whole = vec![0; depth];
        for (number, to) in (block..).zip(to.chunks_mut(panel)) {
            let width = to.len() / words;
            let columns = rows.chunks_exact(depth).zip(&scales).skip(number * PANEL);
            let to: &mut [i8] = bytemuck::cast_slice_mut(to);
            for (column, (row, scale)) in columns.take(width).enumerate() {
                round(&mut whole, row, *scale, |x| x as i8);
                for (to, pair) in to[2 * column..].chunks_mut(2 * width).zip(whole.chunks(2)) {
                    to[..pair.len()].copy_from_slice(pair);
                }
            }
        }
    });
    made.extend(scales);
    made
}

/// Takes a panel of bytes apart into rows of pairs, `stride` words apart.
#[inline(always)]
pub(super) fn unpack(to: &mut [f32], stride: usize, panel: &[f32], width: usize) {
    let bytes: &[i8] = bytemuck::cast_slice(panel);
    for (to, from) in to.chunks_exact_mut(stride).zip(bytes.chunks_exact(2 * width)) {
        for (to, from) in bytemuck::cast_slice_mut(to).iter_mut().zip(from) {
            *to = i16::from(*from);
        }
    }
}

/// Writes sums of whole numbers, as many as there are columns, each times the scale of its row and that of its column.
#[inline(always)]
pub(super) fn store_scaled<S: Simd, const C: usize>(
    out: &mut [MaybeUninit<f32>],
    sums: [S::f32s; C],
    row_scale: f32,
    column_scales: &[f32],
) {
    let sums: &[i32] = bytemuck::cast_slice(&sums);
    for ((out, sum), scale) in out.iter_mut().zip(sums).zip(column_scales) {
        out.write(*sum as f32 * (row_scale * scale));
    }
}

/// A word is a pair, and a sum is whole too.
struct Pairs;

impl<S: Simd> Arithmetic<S> for Pairs {
    #[inline(always)]
    fn add_product(_: S, factor: f32, row: S::f32s, mut sum: S::f32s) -> S::f32s {
        let [first, second] = bytemuck::cast::<f32, [i16; 2]>(factor).map(i32::from);
        let row: &[[i16; 2]] = bytemuck::cast_slice(std::slice::from_ref(&row));
        let lanes: &mut [i32] = bytemuck::cast_slice_mut(std::slice::from_mut(&mut sum));
        for (sum, pair) in lanes.iter_mut().zip(row) {
            *sum += first * i32::from(pair[0]) + second * i32::from(pair[1]);
        }
        sum
    }
}

struct InPairs<'a>(Run<'a>);

impl WithSimd for InPairs<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        self.0.vectors::<S, Pairs>(simd);
    }
}

/// The same by an instruction that multiplies pairs and adds them up.
#[cfg(target_arch = "x86_64")]
mod x86 {
    use pulp::x86::{V3, V4};
    use pulp::{Simd, cast, f32x8, f32x16};

    use super::Arithmetic;

    pub(super) struct Pairs;

    impl Arithmetic<V3> for Pairs {
        #[inline(always)]
        fn add_product(v3: V3, factor: f32, row: f32x8, sum: f32x8) -> f32x8 {
            let product = v3.avx2._mm256_madd_epi16(cast(v3.splat_f32s(factor)), cast(row));
            cast(v3.avx2._mm256_add_epi32(cast(sum), product))
        }
    }

    impl Arithmetic<V4> for Pairs {
        #[inline(always)]
        fn add_product(v4: V4, factor: f32, row: f32x16, sum: f32x16) -> f32x16 {
            let product = v4.avx512bw._mm512_madd_epi16(cast(v4.splat_f32s(factor)), cast(row));
            cast(v4.avx512f._mm512_add_epi32(cast(sum), product))
        }
    }
}

/// The same by an instruction that adds to the sum as well: of AVX-512 on some processors, of AVX2 on some that have no
/// AVX-512.
#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "instructions that not every processor has")]
mod vnni {
    use std::arch::x86_64::{__m256i, __m512i, _mm256_dpwssd_avx_epi32, _mm512_dpwssd_epi32};
    use std::mem::transmute;
    use std::sync::LazyLock;

    use pulp::{
        Simd, f32x8, f32x16,
        x86::{V3, V4},
    };

    use super::{Arithmetic, Run};

    /// What runs products of pairs on a processor that has the instruction, by AVX-512.
    pub(super) fn in_long_pairs() -> Option<impl Fn(Run<'_>) + Sync> {
        static THERE: LazyLock<Option<V4>> =
            LazyLock::new(|| V4::try_new().filter(|_| is_x86_feature_detected!("avx512vnni")));
        #[target_feature(
            enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512vnni,avx2,fma,bmi1,bmi2,lzcnt,popcnt"
        )]
        fn with_instruction(v4: V4, run: Run<'_>) {
            run.vectors::<V4, Pairs>(v4);
        }
        // SAFETY: the processor has been seen to have all of these.
        THERE.map(|v4| move |run: Run<'_>| unsafe { with_instruction(v4, run) })
    }

    /// The same by AVX2.
    pub(super) fn in_short_pairs() -> Option<impl Fn(Run<'_>) + Sync> {
        static THERE: LazyLock<Option<V3>> =
            LazyLock::new(|| V3::try_new().filter(|_| is_x86_feature_detected!("avxvnni")));
        #[target_feature(enable = "avx2,fma,avxvnni,bmi1,bmi2,lzcnt,popcnt")]
        fn with_instruction(v3: V3, run: Run<'_>) {
            run.vectors::<V3, Pairs>(v3);
        }
        // SAFETY: the processor has been seen to have all of these.
        THERE.map(|v3| move |run: Run<'_>| unsafe { with_instruction(v3, run) })
    }

    struct Pairs;

    impl Arithmetic<V4> for Pairs {
        #[inline(always)]
        fn add_product(v4: V4, factor: f32, row: f32x16, sum: f32x16) -> f32x16 {
            let factor = v4.splat_f32s(factor);
            // SAFETY: all are 512 bits without any meaning of their own; only what has the instruction comes here.
            unsafe {
                let [sum, factor, row] =
                    [sum, factor, row].map(|x| transmute::<f32x16, __m512i>(x));
                transmute(_mm512_dpwssd_epi32(sum, factor, row))
            }
        }
    }

    impl Arithmetic<V3> for Pairs {
        #[inline(always)]
        fn add_product(v3: V3, factor: f32, row: f32x8, sum: f32x8) -> f32x8 {
            let factor = v3.splat_f32s(factor);
            // SAFETY: all are 256 bits without any meaning of their own; only what has the instruction comes here.
            unsafe {
                let [sum, factor, row] = [sum, factor, row].map(|x| transmute::<f32x8, __m256i>(x));
                transmute(_mm256_dpwssd_avx_epi32(sum, factor, row))
            }
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
        written(count, |out| multiply_int8(x, &panels, depth, out))
    }

    #[test]
    fn errors_are_those_of_rounding_the_weights() {
        for [rows, depth, columns] in
            [[1, 1, 1], [3, 5, 7], [13, 33, 50], [70, 64, 130], [300, 21, 95], [65, 2048, 33]]
        {
            let (x, w) = (matrix(rows, depth, 0.37), matrix(columns, depth, 0.73));
            let products = product(&x, &w, depth);
            for (index, product) in products.iter().enumerate() {
                let (x, w) = (&x[index / columns * depth..], &w[index % columns * depth..]);
                let (mut exact, mut bound, mut sizes) = (0.0_f64, 1e-5_f64, 0.0_f64);
                for (x, w) in x[..depth].iter().zip(&w[..depth]) {
                    exact += f64::from(x * w);
                    // Half a step of a weight, which is at most 1; and at this depth one of `x` is 1 / 8,000 at most.
                    bound += f64::from(x.abs()) * 0.5 / 127.0;
                    sizes += f64::from(w.abs());
                }
                bound += sizes * 0.5 / 8000.0;
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
        // With scales of powers of two nothing is rounded.
        for row in x.chunks_mut(depth) {
            row[0] = 32767.0;
        }
        for row in w.chunks_mut(depth) {
            row[0] = 127.0;
        }
        let exact = |index: usize| -> f32 {
            let (x, w) = (&x[index / columns * depth..], &w[index % columns * depth..]);
            x[..depth].iter().zip(w).map(|(x, w)| *x as i64 * *w as i64).sum::<i64>() as f32
        };
        let panels = byte_panels(&w, depth);
        let slow = written(rows * columns, |out| {
            let work = |run: Run<'_>| Arch::new().dispatch(InPairs(run));
            multiply_by(&x, &panels, depth, out, SHORT_STRIP, work);
        });
        assert_eq!(slow, (0..rows * columns).map(exact).collect::<Vec<_>>());
        assert_eq!(slow, product(&x, &w, depth));
        // Also where there is a faster instruction.
        #[cfg(target_arch = "x86_64")]
        {
            use pulp::x86::{V3, V4};
            let check = |height: usize, work: &(dyn Fn(Run<'_>) + Sync)| {
                let fast = written(rows * columns, |out| {
                    multiply_by(&x, &panels, depth, out, height, work);
                });
                assert_eq!(slow, fast);
            };
            if let Some(v4) = V4::try_new() {
                check(STRIP, &|run| v4.vectorize(|| run.vectors::<_, x86::Pairs>(v4)));
            }
            if let Some(v3) = V3::try_new() {
                check(SHORT_STRIP, &|run| v3.vectorize(|| run.vectors::<_, x86::Pairs>(v3)));
            }
            if let Some(work) = vnni::in_short_pairs() {
                check(SHORT_STRIP, &work);
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
