//! Products of tiles: matrices of 16 rows of 16 words in registers of AMX. A word is a pair of bf16, or four bytes.
//!
//! A sum of products of bf16 goes tile by tile: the first elements of the pairs of a tile are one chain of multiply-adds, the second
//! ones another, and the two are added to the sum of the tiles before. That does not depend on the batch or the threads, but is
//! rounded otherwise than by vector instructions. Sums of int8 are exact.

use std::mem::MaybeUninit;

use super::submatrix::SubMatrixMut;

/// Rows of a tile, and words in a row.
pub(super) const SIDE: usize = super::simd::LANES;

/// The operands of [`Tiles::multiply`].
#[derive(Clone, Copy)]
pub(super) struct Factors<'a> {
    /// One or two tiles of rows; a row is several tiles long.
    pub(super) lhs: &'a [f32],
    /// Words in a row of `lhs`.
    pub(super) lhs_stride: usize,
    /// One or two tiles of columns, with a row for each word of a row of `lhs`.
    pub(super) rhs: &'a [f32],
    /// Words in a row of `rhs`.
    pub(super) rhs_stride: usize,
    /// What to prefetch meanwhile.
    pub(super) next: Option<*const f32>,
}

/// An instruction that multiplies tiles.
pub(super) trait Tiles: Copy + Sync {
    /// Calls `work` with the tile registers configured.
    fn configured(self, work: impl FnOnce());

    /// Writes the product to all of `out`, which has as many whole tiles.
    fn multiply(self, factors: Factors<'_>, out: SubMatrixMut<'_>);

    /// The same into a row-major matrix.
    #[expect(unsafe_code, reason = "what is written is initialized")]
    fn product<'a>(self, factors: Factors<'_>, out: &'a mut [MaybeUninit<f32>]) -> &'a mut [f32] {
        self.multiply(factors, SubMatrixMut::whole(out, factors.rhs_stride));
        // SAFETY: the line above has written all of it.
        unsafe { out.assume_init_mut() }
    }
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub(super) use self::amx::{bf16_tiles, int8_tiles};

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
pub(super) use self::absent::{bf16_tiles, int8_tiles};

/// For platforms without AMX.
#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
mod absent {
    use super::{Factors, SubMatrixMut, Tiles};

    #[derive(Clone, Copy)]
    pub(crate) enum Absent {}

    impl Tiles for Absent {
        fn configured(self, _: impl FnOnce()) {
            match self {}
        }
        fn multiply(self, _: Factors<'_>, _: SubMatrixMut<'_>) {
            match self {}
        }
    }

    pub(crate) fn bf16_tiles() -> Option<Absent> {
        None
    }

    pub(crate) fn int8_tiles() -> Option<Absent> {
        None
    }
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod amx;
#[cfg(test)]
pub(super) mod emulated;
