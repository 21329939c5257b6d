//! `x * w^T`, with its gradients.

use std::borrow::Cow;

use super::product::{Left, Right, from_panels, multiply, panels};
use crate::kernels::Order;

/// The product of `x`, rows of `depth`, and the transpose of `w`, into `out`.
pub(super) fn forward(x: &[f32], w: &[f32], depth: usize, order: Order, out: &mut [f32]) {
    let w = match order {
        Order::Plain => Right::Transposed(w),
        Order::Panels => Right::Panels(w),
    };
    multiply(Left::Rows(x), w, depth, out);
}

/// The gradient of `x`, into `out`, from that of the product, rows of `columns`.
pub(super) fn backward_x(grad: &[f32], w: &[f32], columns: usize, order: Order, out: &mut [f32]) {
    let plain = match order {
        Order::Plain => Cow::Borrowed(w),
        Order::Panels => Cow::Owned(from_panels(w, w.len() / columns)),
    };
    multiply(Left::Rows(grad), Right::Rows(&plain), columns, out);
}

/// The gradient of `w`, into `out`, in the order of `w`.
pub(super) fn backward_w(grad: &[f32], x: &[f32], depth: usize, order: Order, out: &mut [f32]) {
    multiply(Left::Transposed(grad), Right::Rows(x), x.len() / depth, out);
    if order == Order::Panels {
        let reordered = panels(out, depth);
        out.copy_from_slice(&reordered);
    }
}
