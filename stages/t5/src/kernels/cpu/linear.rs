//! `x * w^T`, with its gradients. Each writes all of `out`.

use std::mem::MaybeUninit;

use super::int8::multiply_int8;
use super::operands::{Left, Right};
use super::product::{multiply, multiply_half};
use crate::kernels::Order;

/// The product of `x`, rows of `depth`, and the transpose of `w`, into `out`.
pub(super) fn forward(
    x: &[f32],
    w: &[f32],
    depth: usize,
    order: Order,
    out: &mut [MaybeUninit<f32>],
) {
    let rows = Left::Rows(x);
    match order {
        Order::Plain => multiply(rows, Right::Transposed(w), depth, out),
        Order::Halves => multiply_half(rows, Right::Transposed(w), depth, out),
        Order::Panels => multiply(rows, Right::Panels(w), depth, out),
        Order::HalfPanels => multiply_half(rows, Right::Panels(w), depth, out),
        Order::BytePanels => multiply_int8(x, w, depth, out),
    }
}

/// The gradient of `x`, into `out`, from that of the product, rows of `columns`.
pub(super) fn backward_x(
    grad: &[f32],
    w: &[f32],
    columns: usize,
    order: Order,
    out: &mut [MaybeUninit<f32>],
) {
    product(order)(Left::Rows(grad), Right::Rows(w), columns, out);
}

/// The gradient of `w`, into `out`.
pub(super) fn backward_w(
    grad: &[f32],
    x: &[f32],
    depth: usize,
    order: Order,
    out: &mut [MaybeUninit<f32>],
) {
    product(order)(Left::Transposed(grad), Right::Rows(x), x.len() / depth, out);
}

fn product(order: Order) -> impl Fn(Left<'_>, Right<'_>, usize, &mut [MaybeUninit<f32>]) {
    match order {
        Order::Plain => multiply,
        Order::Halves => multiply_half,
        Order::Panels | Order::HalfPanels | Order::BytePanels => {
            unreachable!("weights in panels are only read")
        }
    }
}
