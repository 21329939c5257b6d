//! The operations that a T5 is made of.
//!
//! A T5 step made of burn's own operations spends much of its time moving intermediate results through memory. On the
//! CPU and on libtorch whole pieces (a norm, an attention, a loss) are therefore one operation each, with a hand-written
//! backward pass, over rows that lie one after another without padding: `fused`, which `flex` brings for burn's CPU
//! backend and `torch` for libtorch, one to a library. On the other devices that burn has they are made of burn's own
//! operations, which burn differentiates: `portable`. The functions here go one way or the other by where the first
//! tensor is.

mod fused;
mod graph;
mod on_cpu;
mod ops;
mod packed;
mod padding;
mod plan;
mod portable;
pub mod update;
mod values;

#[cfg(feature = "flex")]
#[path = "flex/mod.rs"]
mod native;
#[cfg(feature = "torch")]
#[path = "torch/mod.rs"]
mod native;

use std::sync::Arc;

use burn::tensor::{Tensor, TensorData};
use paraloom_t5_kernels::{attention, dropout::Dropout, elementwise::Activation};
pub use paraloom_t5_kernels::{
    linear::Rounding,
    loss::LossScale,
    plan::{Keys, Segment},
};

pub use self::packed::linear_packed;
pub use self::plan::AttentionPlan;
pub use self::values::{read_values, with_values};
use crate::device::has_fused;

/// Rows of `table` (`[rows, columns]`) by `ids`, each below the number of rows.
pub fn embed(table: &Tensor<2>, ids: &[u32]) -> Tensor<2> {
    if is_fused(table) { fused::embed(table, ids) } else { portable::embed(table, ids) }
}

/// RMS norm of the rows of `x` with the weights `w`, `[1, columns]`.
pub fn norm(x: Tensor<2>, w: &Tensor<2>, eps: f64) -> Tensor<2> {
    if is_fused(&x) { fused::norm(x, w, eps) } else { portable::norm(x, w, eps) }
}

/// `x * w^T`: `[rows, in]` and `[out, in]` give `[rows, out]`.
pub fn linear(x: Tensor<2>, w: &Tensor<2>, rounding: Rounding) -> Tensor<2> {
    if is_fused(&x) { fused::linear(x, w, rounding) } else { portable::linear(x, w, rounding) }
}

/// `dropout(activation(x) * gate)`, elementwise; without a gate, `dropout(activation(x))`.
pub fn activate(
    x: Tensor<2>,
    gate: Option<Tensor<2>>,
    activation: Activation,
    dropout: Option<Dropout>,
) -> Tensor<2> {
    if is_fused(&x) {
        fused::activate(x, gate, activation, dropout)
    } else {
        portable::activate(x, gate, activation, dropout)
    }
}

/// `residual + dropout(x)`, elementwise.
pub fn add(residual: Tensor<2>, x: Tensor<2>, dropout: Option<Dropout>) -> Tensor<2> {
    match dropout {
        Some(dropout) if is_fused(&x) => fused::add_dropped(residual, x, dropout),
        None if is_fused(&x) => fused::add(residual, x),
        _ => residual + portable::drop(x, dropout),
    }
}

/// Dropout where there is some.
pub fn drop(x: Tensor<2>, dropout: Option<Dropout>) -> Tensor<2> {
    match dropout {
        Some(dropout) if is_fused(&x) => fused::drop(x, dropout),
        _ => portable::drop(x, dropout),
    }
}

/// Attention as `plan` says; `bias` is `[buckets, heads]`.
pub fn attend(
    q: Tensor<2>,
    k: Tensor<2>,
    v: Tensor<2>,
    bias: Option<&Tensor<2>>,
    plan: &Arc<AttentionPlan>,
) -> Tensor<2> {
    if is_fused(&q) {
        fused::attend([q, k, v], bias, plan)
    } else {
        portable::attend([q, k, v], bias, plan)
    }
}

/// Keys or values, `[rows, width]`, in bf16, as [`attend`] reads them faster where they are kept for many queries: two numbers
/// in the place of one, `[rows, width / 2]`. Of an odd width they stay as they are.
pub fn half_rows(rows: Tensor<2>) -> Tensor<2> {
    let [count, width] = rows.dims();
    if width % 2 == 1 || count == 0 {
        return rows;
    }
    let words = read_values(&rows, |rows| attention::half_rows(rows, width));
    let words = TensorData::new(words.expect("activations are of f32"), [count, width / 2]);
    Tensor::from_data(words, &rows.device())
}

/// Cross-entropy of `logits` (`[rows, vocab]`) against one target per row, summed and scaled.
pub fn cross_entropy(logits: Tensor<2>, targets: &[u32], scale: LossScale) -> Tensor<1> {
    if is_fused(&logits) {
        fused::cross_entropy(logits, targets, scale)
    } else {
        portable::cross_entropy(logits, targets, scale)
    }
}

/// Whether an operation on this tensor is one of [`fused`].
fn is_fused(tensor: &Tensor<2>) -> bool {
    has_fused(&tensor.device())
}
