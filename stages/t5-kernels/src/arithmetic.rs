//! The element types of the micro-kernel: f32, and pairs of bf16 with sums in f32. Those of int8 are in [`int8`](super::int8).
//!
//! A pair is one word of 32 bits: the first element in the lower half, the second in the upper one.

use pulp::{Simd, WithSimd};

use super::matmul::Run;
use super::simd::{made_in_blocks, vectorized};

/// The innermost operation of the micro-kernel, on registers of 32-bit words.
pub(super) trait MultiplyAdd<S: Simd> {
    /// `sum + factor * row`, with `factor` broadcast to all lanes.
    fn multiply_add(simd: S, factor: f32, row: S::f32s, sum: S::f32s) -> S::f32s;

    /// Sums as f32. Those of whole numbers are corrected for the zero point of the weights; those of floats are so already.
    #[inline(always)]
    fn sums_as_f32(_: S, sums: S::f32s, _correction: i32) -> S::f32s {
        sums
    }
}

/// A word is an element in f32.
pub(super) struct F32;

impl<S: Simd> MultiplyAdd<S> for F32 {
    #[inline(always)]
    fn multiply_add(simd: S, factor: f32, row: S::f32s, sum: S::f32s) -> S::f32s {
        simd.mul_add_e_f32s(simd.splat_f32s(factor), row, sum)
    }
}

/// Rounds rows of `depth` elements to bf16 and packs them in pairs: `count` rows of `width` words, zero where there is no element.
pub(super) fn pack_rows(rows: &[f32], depth: usize, [count, width]: [usize; 2]) -> Vec<f32> {
    made_in_blocks(count * width, width, |first, block| {
        vectorized(
            #[inline(always)]
            || {
                let rows = rows.chunks_exact(depth).skip(first);
                for (out, row) in block.chunks_exact_mut(width).zip(rows) {
                    let (pairs, rest) = row.as_chunks::<2>();
                    for (to, &[first, second]) in out.iter_mut().zip(pairs) {
                        *to = pack_pair(first, second);
                    }
                    if let [last] = rest {
                        out[pairs.len()] = pack_pair(*last, 0.0);
                    }
                }
            },
        );
    })
}

/// Pairs the elements of one row with those of another, or with zeros.
#[inline(always)]
pub(super) fn pack_row_pair(out: &mut [f32], first: &[f32], second: Option<&[f32]>) {
    match second {
        Some(second) => {
            for ((to, first), second) in out.iter_mut().zip(first).zip(second) {
                *to = pack_pair(*first, *second);
            }
        }
        None => {
            for (to, first) in out.iter_mut().zip(first) {
                *to = pack_pair(*first, 0.0);
            }
        }
    }
}

/// A pair, rounded to bf16.
#[inline(always)]
pub(super) fn pack_pair(first: f32, second: f32) -> f32 {
    f32::from_bits(rounded(second) & 0xffff_0000 | rounded(first) >> 16)
}

/// The first element of a pair.
#[inline(always)]
pub(super) fn first_of(pair: f32) -> f32 {
    f32::from_bits(pair.to_bits() << 16)
}

/// The second element of a pair.
#[inline(always)]
pub(super) fn second_of(pair: f32) -> f32 {
    f32::from_bits(pair.to_bits() & 0xffff_0000)
}

/// Rounds to bf16, but stays in f32.
#[inline(always)]
pub(super) fn to_bf16(x: f32) -> f32 {
    f32::from_bits(rounded(x) & 0xffff_0000)
}

/// Bits whose upper half is the bf16 nearest to `x`, ties to even; NaN stays NaN. The lower half has no meaning.
#[inline(always)]
fn rounded(x: f32) -> u32 {
    let bits = x.to_bits();
    if x.is_nan() { bits | 0x0040_0000 } else { bits.wrapping_add(0x7fff + (bits >> 16 & 1)) }
}

/// Runs micro-kernels of f32.
pub(super) struct InF32<'a>(pub(super) Run<'a>);

impl WithSimd for InF32<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        self.0.vectors::<S, F32>(simd);
    }
}

/// Also where it is slow, to compare it.
#[cfg(all(test, target_arch = "x86_64"))]
pub(super) use self::avx512::bf16_pairs;
#[cfg(target_arch = "x86_64")]
pub(super) use self::avx512::fast_bf16_pairs;

/// There is an instruction for pairs on x86-64 alone.
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn fast_bf16_pairs() -> Option<impl Fn(Run<'_>) + Sync> {
    None::<fn(Run<'_>)>
}

#[cfg(all(test, not(target_arch = "x86_64")))]
pub(super) use self::fast_bf16_pairs as bf16_pairs;

/// `vdpbf16ps`, AVX-512's dot product of bf16 pairs.
#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "instructions that not every processor has")]
mod avx512 {
    use std::arch::x86_64::{__cpuid, __m512, __m512bh, _mm512_dpbf16_ps};
    use std::mem::transmute;
    use std::sync::LazyLock;

    use pulp::{f32x16, x86::V4};

    use super::{MultiplyAdd, Run};

    /// Runs micro-kernels of pairs, where the processor has the instruction.
    pub(in super::super) fn bf16_pairs() -> Option<impl Fn(Run<'_>) + Sync> {
        static THERE: LazyLock<Option<V4>> =
            LazyLock::new(|| V4::try_new().filter(|_| is_x86_feature_detected!("avx512bf16")));
        THERE.map(|v4| move |run: Run<'_>| run_pairs(v4, run))
    }

    /// The same where that is faster than multiply-adds of f32. On Intel's processors it is half as fast: they have AMX for this,
    /// which not every virtual machine lets through.
    pub(in super::super) fn fast_bf16_pairs() -> Option<impl Fn(Run<'_>) + Sync> {
        // Asked once: `cpuid` traps in a virtual machine.
        static IS_INTEL: LazyLock<bool> = LazyLock::new(|| {
            let vendor = __cpuid(0);
            let name = [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes);
            name.as_flattened() == b"GenuineIntel"
        });
        bf16_pairs().filter(|_| !*IS_INTEL)
    }

    fn run_pairs(v4: V4, run: Run<'_>) {
        #[target_feature(
            enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512bf16,avx2,fma,bmi1,bmi2,lzcnt,popcnt"
        )]
        fn with_instruction(v4: V4, run: Run<'_>) {
            run.vectors::<V4, Pairs>(v4);
        }
        // SAFETY: `bf16_pairs` has seen that the processor has all of these.
        unsafe { with_instruction(v4, run) }
    }

    /// A word is a pair of bf16.
    struct Pairs;

    impl MultiplyAdd<V4> for Pairs {
        #[inline(always)]
        fn multiply_add(v4: V4, factor: f32, row: f32x16, sum: f32x16) -> f32x16 {
            let factor = pulp::Simd::splat_f32s(v4, factor);
            // SAFETY: all are 512 bits of plain data, and only `with_instruction` comes here.
            unsafe {
                let sum = transmute::<f32x16, __m512>(sum);
                let (row, factor) =
                    (transmute::<f32x16, __m512bh>(row), transmute::<f32x16, __m512bh>(factor));
                transmute(_mm512_dpbf16_ps(sum, factor, row))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_to_bf16_is_that_of_the_half_crate() {
        let odd = [f32::NAN, f32::INFINITY, -0.0, f32::MAX, f32::MIN_POSITIVE, 1e-42];
        let ties = (0..8).map(|i| f32::from_bits(0x3f80_0000 + i * 0x4000));
        let many = (0..10_001).map(|i| (i as f32 * 0.7).sin() * 10f32.powi(i % 60 - 30));
        let numbers: Vec<f32> = odd.into_iter().chain(ties).chain(many).collect();
        let words = pack_rows(&numbers, numbers.len(), [1, numbers.len().div_ceil(2)]);
        for (pair, numbers) in words.iter().zip(numbers.chunks(2)) {
            for (place, number) in numbers.iter().enumerate() {
                let ours = (pair.to_bits() >> (16 * place)) as u16;
                assert_eq!(ours, half::bf16::from_f32(*number).to_bits(), "of {number}");
            }
        }
    }
}
