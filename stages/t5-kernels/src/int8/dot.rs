//! The innermost operation of int8: dot products of four bytes, signed on the left and unsigned on the right, added to 32-bit sums.

use pulp::{Simd, WithSimd};

use super::PER_WORD;
use crate::arithmetic::MultiplyAdd;
use crate::matmul::Run;

/// The portable form. Sums wrap around: whatever the depth, only the corrected sum has to fit into an i32.
pub(super) struct Dot4;

impl<S: Simd> MultiplyAdd<S> for Dot4 {
    #[inline(always)]
    fn multiply_add(_: S, factor: f32, row: S::f32s, mut sum: S::f32s) -> S::f32s {
        let factor = bytemuck::cast::<f32, [i8; PER_WORD]>(factor).map(i32::from);
        let row: &[[u8; PER_WORD]] = bytemuck::cast_slice(std::slice::from_ref(&row));
        let lanes: &mut [i32] = bytemuck::cast_slice_mut(std::slice::from_mut(&mut sum));
        for (sum, bytes) in lanes.iter_mut().zip(row) {
            for place in 0..PER_WORD {
                *sum = sum.wrapping_add(factor[place].wrapping_mul(bytes[place].into()));
            }
        }
        sum
    }

    #[inline(always)]
    fn sums_as_f32(_: S, mut sum: S::f32s, correction: i32) -> S::f32s {
        let lanes: &mut [i32] = bytemuck::cast_slice_mut(std::slice::from_mut(&mut sum));
        for sum in lanes {
            *sum = (sum.wrapping_sub(correction) as f32).to_bits().cast_signed();
        }
        sum
    }
}

/// Runs micro-kernels of the portable form.
pub(super) struct Portable<'a>(pub(super) Run<'a>);

impl WithSimd for Portable<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        self.0.vectors::<S, Dot4>(simd);
    }
}

/// By `vpmaddwd`, the dot product of pairs of 16 bits: one for the bytes at even positions, one for those at odd ones.
#[cfg(target_arch = "x86_64")]
pub(super) mod x86 {
    use pulp::x86::{V3, V4};
    use pulp::{Simd, cast, f32x8, f32x16};

    use super::MultiplyAdd;

    /// Masks the lower of two bytes.
    const LOWER: i16 = 0xff;

    pub(in super::super) struct Dot4;

    impl MultiplyAdd<V3> for Dot4 {
        #[inline(always)]
        fn multiply_add(v3: V3, factor: f32, row: f32x8, sum: f32x8) -> f32x8 {
            let (avx2, factor, row) = (v3.avx2, cast(v3.splat_f32s(factor)), cast(row));
            let lower = cast(v3.splat_i16x16(LOWER));
            let even = avx2._mm256_srai_epi16::<8>(avx2._mm256_slli_epi16::<8>(factor));
            let even = avx2._mm256_madd_epi16(avx2._mm256_and_si256(row, lower), even);
            let odd = avx2._mm256_srai_epi16::<8>(factor);
            let odd = avx2._mm256_madd_epi16(avx2._mm256_srli_epi16::<8>(row), odd);
            cast(avx2._mm256_add_epi32(cast(sum), avx2._mm256_add_epi32(even, odd)))
        }

        #[inline(always)]
        fn sums_as_f32(v3: V3, sum: f32x8, correction: i32) -> f32x8 {
            let whole = v3.avx2._mm256_sub_epi32(cast(sum), cast(v3.splat_i32x8(correction)));
            cast(v3.avx._mm256_cvtepi32_ps(whole))
        }
    }

    impl MultiplyAdd<V4> for Dot4 {
        #[inline(always)]
        fn multiply_add(v4: V4, factor: f32, row: f32x16, sum: f32x16) -> f32x16 {
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
        fn sums_as_f32(v4: V4, sum: f32x16, correction: i32) -> f32x16 {
            let whole = v4.avx512f._mm512_sub_epi32(cast(sum), cast(v4.splat_i32x16(correction)));
            cast(v4.avx512f._mm512_cvtepi32_ps(whole))
        }
    }
}

/// By `vpdpbusd` (VNNI), the dot product of four bytes: of AVX-512, or of AVX2 on processors without that.
#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "instructions that not every processor has")]
pub(super) mod vnni {
    use std::arch::x86_64::{__m256i, __m512i, _mm256_dpbusd_avx_epi32, _mm512_dpbusd_epi32};
    use std::mem::transmute;
    use std::sync::LazyLock;

    use pulp::{
        Simd, f32x8, f32x16,
        x86::{V3, V4},
    };

    use super::{MultiplyAdd, Run, x86};

    /// Runs micro-kernels by AVX-512's instruction, where the processor has it.
    pub(in super::super) fn avx512() -> Option<impl Fn(Run<'_>) + Sync> {
        static THERE: LazyLock<Option<V4>> =
            LazyLock::new(|| V4::try_new().filter(|_| is_x86_feature_detected!("avx512vnni")));
        #[target_feature(
            enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512vnni,avx2,fma,bmi1,bmi2,lzcnt,popcnt"
        )]
        fn with_instruction(v4: V4, run: Run<'_>) {
            run.vectors::<V4, Dot4>(v4);
        }
        // SAFETY: the processor has been seen to have all of these.
        THERE.map(|v4| move |run: Run<'_>| unsafe { with_instruction(v4, run) })
    }

    /// The same by AVX2's.
    pub(in super::super) fn avx2() -> Option<impl Fn(Run<'_>) + Sync> {
        static THERE: LazyLock<Option<V3>> =
            LazyLock::new(|| V3::try_new().filter(|_| is_x86_feature_detected!("avxvnni")));
        #[target_feature(enable = "avx2,fma,avxvnni,bmi1,bmi2,lzcnt,popcnt")]
        fn with_instruction(v3: V3, run: Run<'_>) {
            run.vectors::<V3, Dot4>(v3);
        }
        // SAFETY: the processor has been seen to have all of these.
        THERE.map(|v3| move |run: Run<'_>| unsafe { with_instruction(v3, run) })
    }

    struct Dot4;

    impl MultiplyAdd<V4> for Dot4 {
        #[inline(always)]
        fn multiply_add(v4: V4, factor: f32, row: f32x16, sum: f32x16) -> f32x16 {
            let factor = v4.splat_f32s(factor);
            // SAFETY: all are 512 bits of plain data; only `with_instruction` comes here.
            unsafe {
                let sum = transmute::<f32x16, __m512i>(sum);
                let (row, factor) =
                    (transmute::<f32x16, __m512i>(row), transmute::<f32x16, __m512i>(factor));
                transmute(_mm512_dpbusd_epi32(sum, row, factor))
            }
        }

        #[inline(always)]
        fn sums_as_f32(v4: V4, sum: f32x16, correction: i32) -> f32x16 {
            <x86::Dot4 as MultiplyAdd<V4>>::sums_as_f32(v4, sum, correction)
        }
    }

    impl MultiplyAdd<V3> for Dot4 {
        #[inline(always)]
        fn multiply_add(v3: V3, factor: f32, row: f32x8, sum: f32x8) -> f32x8 {
            let factor = v3.splat_f32s(factor);
            // SAFETY: all are 256 bits of plain data; only `with_instruction` comes here.
            unsafe {
                let sum = transmute::<f32x8, __m256i>(sum);
                let (row, factor) =
                    (transmute::<f32x8, __m256i>(row), transmute::<f32x8, __m256i>(factor));
                transmute(_mm256_dpbusd_avx_epi32(sum, row, factor))
            }
        }

        #[inline(always)]
        fn sums_as_f32(v3: V3, sum: f32x8, correction: i32) -> f32x8 {
            <x86::Dot4 as MultiplyAdd<V3>>::sums_as_f32(v3, sum, correction)
        }
    }
}
