//! `x * w^T`, with its gradients. Each writes all of `out`.

use std::mem::MaybeUninit;

use super::int8::multiply_int8;
use super::operands::{Left, Right};
use super::product::{multiply, multiply_half};
use crate::kernels::Order;

/// The products of `x`, rows of `depth`, and the transposes of weights, each into its place.
pub(super) fn forward(
    x: &[f32],
    depth: usize,
    order: Order,
    products: &mut [(&[f32], &mut [MaybeUninit<f32>])],
) {
    let right = match order {
        Order::Plain | Order::Halves => Right::Transposed,
        Order::Panels | Order::HalfPanels | Order::BytePanels => Right::Panels,
    };
    let mut products: Vec<_> = products.iter_mut().map(|(w, out)| (right(w), &mut **out)).collect();
    match order {
        Order::Plain | Order::Panels => multiply(Left::Rows(x), depth, &mut products),
        Order::Halves | Order::HalfPanels => multiply_half(Left::Rows(x), depth, &mut products),
        Order::BytePanels => multiply_int8(x, depth, &mut products),
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
    backward(order, Left::Rows(grad), columns, (Right::Rows(w), out));
}

/// The gradient of `w`, into `out`.
pub(super) fn backward_w(
    grad: &[f32],
    x: &[f32],
    depth: usize,
    order: Order,
    out: &mut [MaybeUninit<f32>],
) {
    backward(order, Left::Transposed(grad), x.len() / depth, (Right::Rows(x), out));
}

fn backward(
    order: Order,
    left: Left<'_>,
    depth: usize,
    product: (Right<'_>, &mut [MaybeUninit<f32>]),
) {
    match order {
        Order::Plain => multiply(left, depth, &mut [product]),
        Order::Halves => multiply_half(left, depth, &mut [product]),
        Order::Panels | Order::HalfPanels | Order::BytePanels => {
            unreachable!("weights in panels are only read")
        }
    }
}
