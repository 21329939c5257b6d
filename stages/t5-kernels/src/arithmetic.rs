//! What the matrix product multiplies: numbers of f32, or pairs of bf16 that are summed up in f32.
//!
//! A pair is kept in the place of one f32: the first number in the lower half, the second in the upper one.

use pulp::{Simd, WithSimd};

use super::product::Run;
use super::simd::{made_in_blocks, vectorized};

/// Multiply-adds over registers of 32-bit words.
pub(super) trait Arithmetic<S: Simd> {
    /// What a sum becomes with the product of a factor, which is one word for all lanes, and a register.
    fn add_product(simd: S, factor: f32, row: S::f32s, sum: S::f32s) -> S::f32s;

    /// Sums in f32, each less what whole ones have too much; sums of floats are so already.
    #[inline(always)]
    fn number(_: S, sum: S::f32s, _offset: i32) -> S::f32s {
        sum
    }
}

/// A word is a number.
pub(super) struct Singles;

impl<S: Simd> Arithmetic<S> for Singles {
    #[inline(always)]
    fn add_product(simd: S, factor: f32, row: S::f32s, sum: S::f32s) -> S::f32s {
        simd.mul_add_e_f32s(simd.splat_f32s(factor), row, sum)
    }
}

/// Rows of `depth` numbers as rows of pairs, rounded to even: so many rows and words in each, zero where there is no number.
pub(super) fn pairs(rows: &[f32], depth: usize, [count, width]: [usize; 2]) -> Vec<f32> {
    made_in_blocks(count * width, width, |first, block| {
        vectorized(
            #[inline(always)]
            || {
                let rows = rows.chunks_exact(depth).skip(first);
                for (out, row) in block.chunks_exact_mut(width).zip(rows) {
                    let (whole, rest) = row.as_chunks::<2>();
                    for (to, &[first, second]) in out.iter_mut().zip(whole) {
                        *to = pair(first, second);
                    }
                    if let [last] = rest {
                        out[whole.len()] = pair(*last, 0.0);
                    }
                }
            },
        );
    })
}

/// Pairs the numbers of two rows, or of one and zeros.
#[inline(always)]
pub(super) fn pair_rows(out: &mut [f32], first: &[f32], second: Option<&[f32]>) {
    match second {
        Some(second) => {
            for ((to, first), second) in out.iter_mut().zip(first).zip(second) {
                *to = pair(*first, *second);
            }
        }
        None => {
            for (to, first) in out.iter_mut().zip(first) {
                *to = pair(*first, 0.0);
            }
        }
    }
}

/// Two numbers in one word.
#[inline(always)]
pub(super) fn pair(first: f32, second: f32) -> f32 {
    f32::from_bits(rounded(second) & 0xffff_0000 | rounded(first) >> 16)
}

/// The bf16 next to a number, as an f32.
#[inline(always)]
pub(super) fn halved(x: f32) -> f32 {
    f32::from_bits(rounded(x) & 0xffff_0000)
}

/// The first number of a pair.
#[inline(always)]
pub(super) fn first_of_pair(pair: f32) -> f32 {
    f32::from_bits(pair.to_bits() << 16)
}

/// The second number of a pair.
#[inline(always)]
pub(super) fn second_of_pair(pair: f32) -> f32 {
    f32::from_bits(pair.to_bits() & 0xffff_0000)
}

/// A number whose upper half is the bf16 next to it, and of two the even one.
#[inline(always)]
fn rounded(x: f32) -> u32 {
    let bits = x.to_bits();
    if x.is_nan() { bits | 0x0040_0000 } else { bits.wrapping_add(0x7fff + (bits >> 16 & 1)) }
}

/// Products of f32.
pub(super) struct InSingles<'a>(pub(super) Run<'a>);

impl WithSimd for InSingles<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        self.0.vectors::<S, Singles>(simd);
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use self::avx512::in_fast_pairs;
/// Also where it is slow, to compare it.
#[cfg(all(test, target_arch = "x86_64"))]
pub(super) use self::avx512::in_pairs;

/// No processor has an instruction for pairs.
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn in_fast_pairs() -> Option<impl Fn(Run<'_>) + Sync> {
    None::<fn(Run<'_>)>
}

#[cfg(all(test, not(target_arch = "x86_64")))]
pub(super) use self::in_fast_pairs as in_pairs;

/// The instruction for pairs that AVX-512 has on some processors.
#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "instructions that not every processor has")]
mod avx512 {
    use std::arch::x86_64::{__cpuid, __m512, __m512bh, _mm512_dpbf16_ps};
    use std::mem::transmute;
    use std::sync::LazyLock;

    use pulp::{f32x16, x86::V4};

    use super::{Arithmetic, Run};

    /// What runs products of pairs, on a processor that has the instruction.
    pub(in super::super) fn in_pairs() -> Option<impl Fn(Run<'_>) + Sync> {
        static THERE: LazyLock<Option<V4>> =
            LazyLock::new(|| V4::try_new().filter(|_| is_x86_feature_detected!("avx512bf16")));
        THERE.map(|v4| move |run: Run<'_>| run_pairs(v4, run))
    }

    /// The same where that is faster than multiply-adds of f32. Intel's is half as fast: its processors have tiles instead,
    /// which not every virtual machine lets through.
    pub(in super::super) fn in_fast_pairs() -> Option<impl Fn(Run<'_>) + Sync> {
        // Asked once: a virtual machine answers slowly.
        static IS_INTEL: LazyLock<bool> = LazyLock::new(|| {
            let vendor = __cpuid(0);
            let name = [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes);
            name.as_flattened() == b"GenuineIntel"
        });
        in_pairs().filter(|_| !*IS_INTEL)
    }

    fn run_pairs(v4: V4, run: Run<'_>) {
        #[target_feature(
            enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512bf16,avx2,fma,bmi1,bmi2,lzcnt,popcnt"
        )]
        fn with_instruction(v4: V4, run: Run<'_>) {
            run.vectors::<V4, Pairs>(v4);
        }
        // SAFETY: `in_pairs` has seen that the processor has all of these.
        unsafe { with_instruction(v4, run) }
    }

    /// A word is a pair.
    struct Pairs;

    impl Arithmetic<V4> for Pairs {
        #[inline(always)]
        fn add_product(v4: V4, factor: f32, row: f32x16, sum: f32x16) -> f32x16 {
            let factor = pulp::Simd::splat_f32s(v4, factor);
            // SAFETY: all are 512 bits without any meaning of their own, and only `with_instruction` comes here.
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
    fn numbers_are_rounded_as_the_standard_says() {
        let odd = [f32::NAN, f32::INFINITY, -0.0, f32::MAX, f32::MIN_POSITIVE, 1e-42];
        let ties = (0..8).map(|i| f32::from_bits(0x3f80_0000 + i * 0x4000));
        let many = (0..10_001).map(|i| (i as f32 * 0.7).sin() * 10f32.powi(i % 60 - 30));
        let numbers: Vec<f32> = odd.into_iter().chain(ties).chain(many).collect();
        let words = pairs(&numbers, numbers.len(), [1, numbers.len().div_ceil(2)]);
        for (pair, numbers) in words.iter().zip(numbers.chunks(2)) {
            for (place, number) in numbers.iter().enumerate() {
                let ours = (pair.to_bits() >> (16 * place)) as u16;
                assert_eq!(ours, half::bf16::from_f32(*number).to_bits(), "of {number}");
            }
        }
    }
}
