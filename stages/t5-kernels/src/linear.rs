//! Linear layers, `x * w^T`, with their gradients. Each function writes all of `out`.

use std::mem::MaybeUninit;

use super::matmul::{matmul, matmul_bf16};
use super::packing::{Lhs, Rhs};

/// What the factors of a product are rounded to. Sums are in f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rounding {
    /// They stay in f32.
    None,
    /// bf16.
    Bf16,
}

/// The product of `x`, `[rows, depth]`, and the transpose of `w`, `[out, depth]`.
pub fn forward(
    x: &[f32],
    depth: usize,
    rounding: Rounding,
    w: &[f32],
    out: &mut [MaybeUninit<f32>],
) {
    product(rounding, Lhs::Rows(x), depth, (Rhs::Transposed(w), out));
}

/// The gradient of `x`, into `out`, from that of the product, `[rows, columns]`.
pub fn backward_x(
    grad: &[f32],
    w: &[f32],
    columns: usize,
    rounding: Rounding,
    out: &mut [MaybeUninit<f32>],
) {
    product(rounding, Lhs::Rows(grad), columns, (Rhs::Rows(w), out));
}

/// The gradient of `w`, into `out`.
pub fn backward_w(
    grad: &[f32],
    x: &[f32],
    depth: usize,
    rounding: Rounding,
    out: &mut [MaybeUninit<f32>],
) {
    product(rounding, Lhs::Transposed(grad), x.len() / depth, (Rhs::Rows(x), out));
}

fn product(
    rounding: Rounding,
    lhs: Lhs<'_>,
    depth: usize,
    product: (Rhs<'_>, &mut [MaybeUninit<f32>]),
) {
    match rounding {
        Rounding::None => matmul(lhs, depth, &mut [product]),
        Rounding::Bf16 => matmul_bf16(lhs, depth, &mut [product]),
    }
}
