//! `x * w^T`, with its gradients.

use super::product::{Left, Right, multiply, multiply_half};
use crate::kernels::Order;

/// The product of `x`, rows of `depth`, and the transpose of `w`, into `out`.
pub(super) fn forward(x: &[f32], w: &[f32], depth: usize, order: Order, out: &mut [f32]) {
    match order {
        Order::Plain => multiply(Left::Rows(x), Right::Transposed(w), depth, out),
        Order::Panels => multiply(Left::Rows(x), Right::Panels(w), depth, out),
        Order::HalfPanels => multiply_half(x, w, depth, out),
    }
}

/// The gradient of `x`, into `out`, from that of the product, rows of `columns`.
pub(super) fn backward_x(grad: &[f32], w: &[f32], columns: usize, out: &mut [f32]) {
    multiply(Left::Rows(grad), Right::Rows(w), columns, out);
}

/// The gradient of `w`, into `out`.
pub(super) fn backward_w(grad: &[f32], x: &[f32], depth: usize, out: &mut [f32]) {
    multiply(Left::Transposed(grad), Right::Rows(x), x.len() / depth, out);
}
