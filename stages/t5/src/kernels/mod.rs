//! The fused operations that this library adds to burn.
//!
//! A T5 step made of burn's own operations spends much of its time moving intermediate results through memory. Here
//! whole pieces (a norm, an attention, a loss) are one operation each, with a hand-written backward pass, over rows
//! that lie one after another without padding. [`T5Backend`] is what a backend has to bring; `flex` brings it for
//! burn's CPU backend and `torch` for libtorch, one to a library, and the functions below put [`Tensor`]s in front.

mod cpu;
mod graph;
mod ops;
mod plan;
pub mod update;

#[cfg(feature = "flex")]
#[path = "flex/mod.rs"]
mod native;
#[cfg(feature = "torch")]
#[path = "torch/mod.rs"]
mod native;

use std::sync::Arc;

use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::{Autodiff, Backend, Dispatch, backend_extension, tensor::FloatTensor};
use burn::tensor::{Device, Tensor, TensorData};

pub use self::plan::{AttentionPlan, Keys, Segment};
use self::{
    graph::{record, run},
    native::here,
};
use crate::{config::Activation, device::Native, random::Dropout};

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
}

/// What the loss counts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LossScale {
    /// Factor on the sum over targets: 1 / the number of targets gives a mean.
    pub factor: f32,
    /// Share of the target's probability that is spread over the vocabulary.
    pub smoothing: f32,
}

/// A burn backend that has the fused operations. Shapes are `[rows, columns]`; weights are `[out, in]`.
#[backend_extension(Flex: cfg(feature = "flex"), LibTorch: cfg(feature = "torch"), Autodiff)]
pub trait T5Backend: Backend {
    /// Rows of `table` by `ids`.
    fn t5_embed(table: FloatTensor<Self>, ids: Arc<[u32]>) -> FloatTensor<Self>;
    /// RMS norm of the rows of `x` with the weights `w`, `[1, columns]`.
    fn t5_norm(x: FloatTensor<Self>, w: FloatTensor<Self>, eps: f32) -> FloatTensor<Self>;
    /// `x * w^T`.
    fn t5_linear(x: FloatTensor<Self>, w: FloatTensor<Self>, order: Order) -> FloatTensor<Self>;
    /// The activation, then dropout.
    fn t5_activate(
        x: FloatTensor<Self>,
        activation: Activation,
        dropout: Option<Dropout>,
    ) -> FloatTensor<Self>;
    /// The activation of `x` times `gate`, then dropout.
    fn t5_gate(
        x: FloatTensor<Self>,
        gate: FloatTensor<Self>,
        activation: Activation,
        dropout: Option<Dropout>,
    ) -> FloatTensor<Self>;
    /// `residual` plus `x` after dropout.
    fn t5_add_dropped(
        residual: FloatTensor<Self>,
        x: FloatTensor<Self>,
        dropout: Dropout,
    ) -> FloatTensor<Self>;
    /// Dropout.
    fn t5_drop(x: FloatTensor<Self>, dropout: Dropout) -> FloatTensor<Self>;
    /// Attention without a position bias.
    fn t5_attend(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        plan: Arc<AttentionPlan>,
    ) -> FloatTensor<Self>;
    /// Attention with a position bias, `[buckets, heads]`.
    fn t5_attend_biased(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        plan: Arc<AttentionPlan>,
    ) -> FloatTensor<Self>;
    /// Cross-entropy, `[1]`.
    fn t5_cross_entropy(
        logits: FloatTensor<Self>,
        targets: Arc<[u32]>,
        scale: LossScale,
    ) -> FloatTensor<Self>;
}

/// Implements [`T5Backend`] by handing every operation to one function.
macro_rules! implement {
    ($execute:path) => {
        fn t5_embed(table: FloatTensor<Self>, ids: Arc<[u32]>) -> FloatTensor<Self> {
            $execute(here(ops::Embed { ids }), [table])
        }
        fn t5_norm(x: FloatTensor<Self>, w: FloatTensor<Self>, eps: f32) -> FloatTensor<Self> {
            $execute(here(ops::Norm { eps }), [x, w])
        }
        fn t5_linear(
            x: FloatTensor<Self>,
            w: FloatTensor<Self>,
            order: Order,
        ) -> FloatTensor<Self> {
            $execute(here(ops::Linear(order)), [x, w])
        }
        fn t5_activate(
            x: FloatTensor<Self>,
            activation: Activation,
            dropout: Option<Dropout>,
        ) -> FloatTensor<Self> {
            $execute(here(ops::Activate { activation, dropout }), [x])
        }
        fn t5_gate(
            x: FloatTensor<Self>,
            gate: FloatTensor<Self>,
            activation: Activation,
            dropout: Option<Dropout>,
        ) -> FloatTensor<Self> {
            $execute(here(ops::Activate { activation, dropout }), [x, gate])
        }
        fn t5_add_dropped(
            residual: FloatTensor<Self>,
            x: FloatTensor<Self>,
            dropout: Dropout,
        ) -> FloatTensor<Self> {
            $execute(here(ops::Drop(dropout)), [residual, x])
        }
        fn t5_drop(x: FloatTensor<Self>, dropout: Dropout) -> FloatTensor<Self> {
            $execute(here(ops::Drop(dropout)), [x])
        }
        fn t5_attend(
            q: FloatTensor<Self>,
            k: FloatTensor<Self>,
            v: FloatTensor<Self>,
            plan: Arc<AttentionPlan>,
        ) -> FloatTensor<Self> {
            $execute(here(ops::Attend(plan)), [q, k, v])
        }
        fn t5_attend_biased(
            q: FloatTensor<Self>,
            k: FloatTensor<Self>,
            v: FloatTensor<Self>,
            bias: FloatTensor<Self>,
            plan: Arc<AttentionPlan>,
        ) -> FloatTensor<Self> {
            $execute(here(ops::Attend(plan)), [q, k, v, bias])
        }
        fn t5_cross_entropy(
            logits: FloatTensor<Self>,
            targets: Arc<[u32]>,
            scale: LossScale,
        ) -> FloatTensor<Self> {
            $execute(here(ops::CrossEntropy { targets, scale }), [logits])
        }
    };
}

impl T5Backend for Native {
    implement!(run);
}

impl<C: CheckpointStrategy> T5Backend for Autodiff<Native, C> {
    implement!(record::<C, _, _>);
}

/// Rows of `table` (`[rows, columns]`) by `ids`, each below the number of rows.
pub fn embed(table: &Tensor<2>, ids: &[u32]) -> Tensor<2> {
    wrap(Dispatch::t5_embed(table.clone().into_dispatch(), ids.into()))
}

/// RMS norm of the rows of `x` with the weights `w`, `[1, columns]`.
pub fn norm(x: Tensor<2>, w: &Tensor<2>, eps: f64) -> Tensor<2> {
    wrap(Dispatch::t5_norm(x.into_dispatch(), w.clone().into_dispatch(), eps as f32))
}

/// `x * w^T`: `[rows, in]` and `[out, in]` give `[rows, out]`.
pub fn linear(x: Tensor<2>, w: &Tensor<2>, order: Order) -> Tensor<2> {
    wrap(Dispatch::t5_linear(x.into_dispatch(), w.clone().into_dispatch(), order))
}

/// `dropout(activation(x) * gate)`, elementwise; without a gate, `dropout(activation(x))`.
pub fn activate(
    x: Tensor<2>,
    gate: Option<Tensor<2>>,
    activation: Activation,
    dropout: Option<Dropout>,
) -> Tensor<2> {
    let x = x.into_dispatch();
    wrap(match gate {
        Some(gate) => Dispatch::t5_gate(x, gate.into_dispatch(), activation, dropout),
        None => Dispatch::t5_activate(x, activation, dropout),
    })
}

/// `residual + dropout(x)`, elementwise.
pub fn add(residual: Tensor<2>, x: Tensor<2>, dropout: Option<Dropout>) -> Tensor<2> {
    match dropout {
        Some(dropout) => {
            wrap(Dispatch::t5_add_dropped(residual.into_dispatch(), x.into_dispatch(), dropout))
        }
        None => residual + x,
    }
}

/// Dropout where there is some.
pub fn drop(x: Tensor<2>, dropout: Option<Dropout>) -> Tensor<2> {
    match dropout {
        Some(dropout) => wrap(Dispatch::t5_drop(x.into_dispatch(), dropout)),
        None => x,
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
    let (q, k, v) = (q.into_dispatch(), k.into_dispatch(), v.into_dispatch());
    wrap(match bias {
        Some(bias) => {
            Dispatch::t5_attend_biased(q, k, v, bias.clone().into_dispatch(), Arc::clone(plan))
        }
        None => Dispatch::t5_attend(q, k, v, Arc::clone(plan)),
    })
}

/// Cross-entropy of `logits` (`[rows, vocab]`) against one target per row, summed and scaled.
///
/// The gradient is computed on the way and takes the place of the logits.
pub fn cross_entropy(logits: Tensor<2>, targets: &[u32], scale: LossScale) -> Tensor<1> {
    Tensor::from_dispatch(Dispatch::t5_cross_entropy(logits.into_dispatch(), targets.into(), scale))
}

/// The logarithm of the sum of the exponentials of a row of logits.
pub fn log_sum_exp(logits: &[f32]) -> f64 {
    cpu::log_sum_exp(logits)
}

/// Where the highest of a row of logits is; the first of equals.
pub fn highest(logits: &[f32]) -> usize {
    cpu::highest(logits)
}

/// Whether the matrix product on this device has an order of its own for weights.
pub fn has_panels(device: &Device) -> bool {
    native::has_panels(device)
}

/// A weight, `[out, in]`, in another order.
pub fn reordered(weight: &Tensor<2>, order: Order) -> Tensor<2> {
    let [rows, depth] = weight.dims();
    let values = || weight.to_data().try_to_vec::<f32>().expect("weights are read in f32");
    let data = match order {
        Order::Plain | Order::Halves => return weight.clone(),
        Order::Panels => TensorData::new(cpu::panels(&values(), depth), [rows, depth]),
        Order::HalfPanels => {
            TensorData::new(cpu::half_panels(&values(), depth), [rows, depth.div_ceil(2)])
        }
    };
    Tensor::from_data(data, &weight.device())
}

fn wrap(tensor: FloatTensor<Dispatch>) -> Tensor<2> {
    Tensor::from_dispatch(tensor)
}
