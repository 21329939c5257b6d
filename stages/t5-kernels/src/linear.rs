//! `x * w^T`, with its gradients. Each writes all of `out`.

use std::mem::MaybeUninit;

use super::operands::{Left, Right};
use super::product::{multiply, multiply_half};

/// What the factors of a product are rounded to. Sums are of f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rounding {
    /// They stay as they are, in f32.
    None,
    /// To bf16.
    Bf16,
}

/// The product of `x`, rows of `depth`, and the transpose of `w`, `[out, depth]`.
pub fn forward(
    x: &[f32],
    depth: usize,
    rounding: Rounding,
    w: &[f32],
    out: &mut [MaybeUninit<f32>],
) {
    product(rounding, Left::Rows(x), depth, (Right::Transposed(w), out));
}

/// The gradient of `x`, into `out`, from that of the product, rows of `columns`.
pub fn backward_x(
    grad: &[f32],
    w: &[f32],
    columns: usize,
    rounding: Rounding,
    out: &mut [MaybeUninit<f32>],
) {
    product(rounding, Left::Rows(grad), columns, (Right::Rows(w), out));
}

/// The gradient of `w`, into `out`.
pub fn backward_w(
    grad: &[f32],
    x: &[f32],
    depth: usize,
    rounding: Rounding,
    out: &mut [MaybeUninit<f32>],
) {
    product(rounding, Left::Transposed(grad), x.len() / depth, (Right::Rows(x), out));
}

fn product(
    rounding: Rounding,
    left: Left<'_>,
    depth: usize,
    product: (Right<'_>, &mut [MaybeUninit<f32>]),
) {
    match rounding {
        Rounding::None => multiply(left, depth, &mut [product]),
        Rounding::Bf16 => multiply_half(left, depth, &mut [product]),
    }
}
