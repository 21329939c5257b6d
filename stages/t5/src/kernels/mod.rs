//! The operations that a T5 is made of.
//!
//! A T5 step made of burn's own operations spends much of its time moving intermediate results through memory. On the
//! CPU and on libtorch whole pieces (a norm, an attention, a loss) are therefore one operation each, with a hand-written
//! backward pass, over rows that lie one after another without padding: `fused`, which `flex` brings for burn's CPU
//! backend and `torch` for libtorch, one to a library. On the other devices that burn has they are made of burn's own
//! operations, which burn differentiates: `portable`. The functions here go one way or the other by where the first
//! tensor is.

mod cpu;
mod fused;
mod graph;
mod ops;
mod padding;
mod plan;
mod portable;
mod several;
pub mod update;
mod values;

#[cfg(feature = "flex")]
#[path = "flex/mod.rs"]
mod native;
#[cfg(feature = "torch")]
#[path = "torch/mod.rs"]
mod native;

use std::sync::Arc;

use burn::tensor::{Device, Tensor, TensorData};

pub use self::cpu::{Again, Peaks, add_to_all, not_finite};
pub use self::plan::{AttentionPlan, Keys, Segment};
pub use self::several::{linear_three, linear_two};
pub use self::values::{read_values, with_values};
use crate::{config::Activation, device::has_fused, random::Dropout};

/// How the values of a weight, `[out, in]`, lie in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Row by row.
    Plain,
    /// Row by row, and rounded to bf16 for the product, as is what they are multiplied with; sums are of f32.
    Halves,
    /// As the matrix product of the CPU reads them. For weights that do not change: there are no gradients.
    Panels,
    /// The same in bf16, two numbers in the place of one.
    HalfPanels,
    /// The same in whole numbers of 8 bits, four in the place of one, and a scale for each row.
    BytePanels,
}

impl Order {
    /// Whether it is one for weights that do not change.
    pub(crate) fn is_panels(self) -> bool {
        matches!(self, Self::Panels | Self::HalfPanels | Self::BytePanels)
    }
}

/// What the loss counts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LossScale {
    /// Factor on the sum over targets: 1 / the number of targets gives a mean.
    pub factor: f32,
    /// Share of the target's probability that is spread over the vocabulary.
    pub smoothing: f32,
}

/// Rows of `table` (`[rows, columns]`) by `ids`, each below the number of rows.
pub fn embed(table: &Tensor<2>, ids: &[u32]) -> Tensor<2> {
    if is_fused(table) { fused::embed(table, ids) } else { portable::embed(table, ids) }
}

/// RMS norm of the rows of `x` with the weights `w`, `[1, columns]`.
pub fn norm(x: Tensor<2>, w: &Tensor<2>, eps: f64) -> Tensor<2> {
    if is_fused(&x) { fused::norm(x, w, eps) } else { portable::norm(x, w, eps) }
}

/// `x * w^T`: `[rows, in]` and `[out, in]` give `[rows, out]`.
pub fn linear(x: Tensor<2>, w: &Tensor<2>, order: Order) -> Tensor<2> {
    if is_fused(&x) { fused::linear(x, w, order) } else { portable::linear(x, w, order) }
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

/// Keys or values, `[rows, width]`, as [`attend`] reads them faster where products are in this order of weights: in bf16,
/// two numbers in the place of one, `[rows, width / 2]`. In other orders they stay as they are.
pub fn cached(rows: Tensor<2>, order: Order) -> Tensor<2> {
    let [count, width] = rows.dims();
    if !matches!(order, Order::HalfPanels | Order::BytePanels) || width % 2 == 1 || count == 0 {
        return rows;
    }
    let words = read_values(&rows, |rows| cpu::half_rows(rows, width));
    matrix(words.expect("activations are of f32"), count, &rows.device())
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

/// Whether the matrix product on this device has an order of its own for weights.
pub fn has_panels(device: &Device) -> bool {
    has_fused(device) && native::has_panels(device)
}

/// Whether products of bf16 are known to be slower than those of f32 on this device.
pub fn has_slow_halves(device: &Device) -> bool {
    has_panels(device) && !cpu::has_half_instructions()
}

/// Whether products of bf16 on the CPU are summed up by tiles, which rounds otherwise than vectors do.
pub(crate) fn has_half_tiles() -> bool {
    cpu::has_half_tiles()
}

/// A weight, `[out, in]`, in another order.
pub fn reordered(weight: &Tensor<2>, order: Order) -> Tensor<2> {
    let [rows, depth] = weight.dims();
    let words = read_values(weight, |values| words(values, depth, order));
    match words.expect("weights are of f32") {
        Some(words) => matrix(words, rows, &weight.device()),
        None => weight.clone(),
    }
}

/// A weight, `[out, in]`, of its values row by row.
pub fn in_order(values: Vec<f32>, shape: [usize; 2], order: Order, device: &Device) -> Tensor<2> {
    let [rows, depth] = shape;
    let words = words(&values, depth, order).unwrap_or(values);
    matrix(words, rows, device)
}

/// The words of a weight in an order, unless they are its values.
fn words(values: &[f32], depth: usize, order: Order) -> Option<Vec<f32>> {
    match order {
        Order::Plain | Order::Halves => None,
        Order::Panels => Some(cpu::panels(values, depth)),
        Order::HalfPanels => Some(cpu::half_panels(values, depth)),
        Order::BytePanels => Some(cpu::byte_panels(values, depth)),
    }
}

fn matrix(words: Vec<f32>, rows: usize, device: &Device) -> Tensor<2> {
    let width = words.len() / rows;
    Tensor::from_data(TensorData::new(words, [rows, width]), device)
}
