//! The operations that a T5 is made of.
//!
//! A step made of burn's own operations spends much of its time moving intermediate results through memory. On the CPU and on libtorch
//! a norm, an attention or a loss is therefore one fused operation with a hand-written backward pass, over rows without padding:
//! `fused`, implemented in `flex` for burn's CPU backend and in `torch` for libtorch, one to a library. On other devices they are made
//! of burn's own operations, which burn differentiates: `portable`. The functions here dispatch on the device of the first tensor.

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

/// Keys or values, `[rows, width]`, rounded to bf16, two to a word: `[rows, width / 2]`. [`attend`] reads such a cache faster. An odd
/// width stays in f32.
pub fn to_bf16_rows(rows: Tensor<2>) -> Tensor<2> {
    let [count, width] = rows.dims();
    if width % 2 == 1 || count == 0 {
        return rows;
    }
    let words = read_values(&rows, |rows| attention::to_bf16_rows(rows, width));
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

/// Whether operations on this tensor are fused.
fn is_fused(tensor: &Tensor<2>) -> bool {
    has_fused(&tensor.device())
}
