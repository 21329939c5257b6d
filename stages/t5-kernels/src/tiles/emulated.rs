//! AMX's sums in scalar arithmetic, for tests.

use super::{Factors, SIDE, SubMatrixMut, Tiles};

#[derive(Clone, Copy)]
pub(crate) struct Bf16;

#[derive(Clone, Copy)]
pub(crate) struct Int8;

impl Tiles for Bf16 {
    fn configured(self, work: impl FnOnce()) {
        work();
    }

    fn multiply(self, factors: Factors<'_>, out: SubMatrixMut<'_>) {
        let number = |word: f32, place: u32| f32::from_bits(word.to_bits() >> (16 * place) << 16);
        each(factors, out, |words| {
            words.chunks(SIDE).fold(0.0, |sum, tile| {
                let chain = |place| {
                    let products = tile.iter().map(|(a, b)| [number(*a, place), number(*b, place)]);
                    products.fold(0.0, |sum: f32, [a, b]| a.mul_add(b, sum))
                };
                sum + (chain(0) + chain(1))
            })
        });
    }
}

impl Tiles for Int8 {
    fn configured(self, work: impl FnOnce()) {
        work();
    }

    fn multiply(self, factors: Factors<'_>, out: SubMatrixMut<'_>) {
        each(factors, out, |words| {
            let product = |(a, b): &(f32, f32)| -> i32 {
                let pairs = a.to_bits().to_le_bytes().into_iter().zip(b.to_bits().to_le_bytes());
                pairs.map(|(a, b)| i32::from(a.cast_signed()) * i32::from(b)).sum()
            };
            let sum = words.iter().map(product).fold(0, i32::wrapping_add);
            f32::from_bits(sum.cast_unsigned())
        });
    }
}

/// Each element of the product, from the words of its row and its column.
fn each(factors: Factors<'_>, mut out: SubMatrixMut<'_>, f: impl Fn(&[(f32, f32)]) -> f32) {
    let Factors { lhs, lhs_stride, rhs, rhs_stride, .. } = factors;
    for (row, lhs) in lhs.chunks_exact(lhs_stride).enumerate() {
        for (column, out) in out.row(row).iter_mut().enumerate() {
            let rhs = rhs[column..].iter().step_by(rhs_stride);
            let words: Vec<_> = lhs.iter().copied().zip(rhs.copied()).collect();
            out.write(f(&words));
        }
    }
}
