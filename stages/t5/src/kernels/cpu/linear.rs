//! `x * w^T`, with its gradients.

use std::borrow::Cow;

use super::product::{Left, multiply, pack, pack_transposed, unpack_transposed};
use crate::kernels::Order;

/// The product of `x`, rows of `depth`, and the transpose of `w`, into `out`.
pub(super) fn forward(x: &[f32], w: &[f32], depth: usize, order: Order, out: &mut [f32]) {
    let panels = match order {
        Order::Plain => Cow::Owned(pack_transposed(w, depth)),
        Order::Panels => Cow::Borrowed(w),
    };
    multiply(Left::Rows(x), &panels, depth, out);
}

/// The gradient of `x`, into `out`, from that of the product, rows of `columns`.
pub(super) fn backward_x(grad: &[f32], w: &[f32], columns: usize, order: Order, out: &mut [f32]) {
    let depth = w.len() / columns;
    let plain = match order {
        Order::Plain => Cow::Borrowed(w),
        Order::Panels => Cow::Owned(unpack_transposed(w, depth)),
    };
    multiply(Left::Rows(grad), &pack(&plain, depth), columns, out);
}

/// The gradient of `w`, into `out`, in the order of `w`.
pub(super) fn backward_w(grad: &[f32], x: &[f32], depth: usize, order: Order, out: &mut [f32]) {
    multiply(Left::Transposed(grad), &pack(x, depth), x.len() / depth, out);
    if order == Order::Panels {
        let panels = pack_transposed(out, depth);
        out.copy_from_slice(&panels);
    }
}
