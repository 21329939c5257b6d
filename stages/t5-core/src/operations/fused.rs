//! The fused operations, each with a hand-written backward pass.
//!
//! [`T5Backend`] is what a backend has to implement; the functions below take [`Tensor`]s.

use std::sync::Arc;

use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::{Autodiff, Backend, Dispatch, backend_extension, tensor::FloatTensor};
use burn::tensor::Tensor;
use paraloom_t5_kernels::{dropout::Dropout, elementwise::Activation};

use super::{
    AttentionPlan, LossScale, Rounding,
    graph::{record, run},
    native::here,
    ops,
};
use crate::device::Native;

/// A burn backend that has the fused operations. Shapes are `[rows, columns]`; weights are `[out, in]`.
#[backend_extension(Flex: cfg(feature = "flex"), LibTorch: cfg(feature = "torch"), Autodiff)]
pub(super) trait T5Backend: Backend {
    /// Rows of `table` by `ids`.
    fn t5_embed(table: FloatTensor<Self>, ids: Arc<[u32]>) -> FloatTensor<Self>;
    /// RMS norm of the rows of `x` with the weights `w`, `[1, columns]`.
    fn t5_norm(x: FloatTensor<Self>, w: FloatTensor<Self>, eps: f32) -> FloatTensor<Self>;
    /// `x * w^T`.
    fn t5_linear(
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        rounding: Rounding,
    ) -> FloatTensor<Self>;
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
    /// The sum of two matrices.
    fn t5_add(residual: FloatTensor<Self>, x: FloatTensor<Self>) -> FloatTensor<Self>;
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

/// Implements [`T5Backend`] by passing every operation to one function.
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
            rounding: Rounding,
        ) -> FloatTensor<Self> {
            $execute(here(ops::Linear(rounding)), [x, w])
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
        fn t5_add(residual: FloatTensor<Self>, x: FloatTensor<Self>) -> FloatTensor<Self> {
            $execute(here(ops::Add), [residual, x])
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

pub(super) fn embed(table: &Tensor<2>, ids: &[u32]) -> Tensor<2> {
    wrap(Dispatch::t5_embed(table.clone().into_dispatch(), ids.into()))
}

pub(super) fn norm(x: Tensor<2>, w: &Tensor<2>, eps: f64) -> Tensor<2> {
    wrap(Dispatch::t5_norm(x.into_dispatch(), w.clone().into_dispatch(), eps as f32))
}

pub(super) fn linear(x: Tensor<2>, w: &Tensor<2>, rounding: Rounding) -> Tensor<2> {
    wrap(Dispatch::t5_linear(x.into_dispatch(), w.clone().into_dispatch(), rounding))
}

pub(super) fn activate(
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

pub(super) fn add_dropped(residual: Tensor<2>, x: Tensor<2>, dropout: Dropout) -> Tensor<2> {
    wrap(Dispatch::t5_add_dropped(residual.into_dispatch(), x.into_dispatch(), dropout))
}

pub(super) fn add(residual: Tensor<2>, x: Tensor<2>) -> Tensor<2> {
    wrap(Dispatch::t5_add(residual.into_dispatch(), x.into_dispatch()))
}

pub(super) fn drop(x: Tensor<2>, dropout: Dropout) -> Tensor<2> {
    wrap(Dispatch::t5_drop(x.into_dispatch(), dropout))
}

pub(super) fn attend(
    [q, k, v]: [Tensor<2>; 3],
    bias: Option<&Tensor<2>>,
    plan: &Arc<AttentionPlan>,
) -> Tensor<2> {
    let [q, k, v] = [q, k, v].map(Tensor::into_dispatch);
    wrap(match bias {
        Some(bias) => {
            Dispatch::t5_attend_biased(q, k, v, bias.clone().into_dispatch(), Arc::clone(plan))
        }
        None => Dispatch::t5_attend(q, k, v, Arc::clone(plan)),
    })
}

/// The gradient is computed in the forward pass, in the memory of the logits.
pub(super) fn cross_entropy(logits: Tensor<2>, targets: &[u32], scale: LossScale) -> Tensor<1> {
    Tensor::from_dispatch(Dispatch::t5_cross_entropy(logits.into_dispatch(), targets.into(), scale))
}

fn wrap(tensor: FloatTensor<Dispatch>) -> Tensor<2> {
    Tensor::from_dispatch(tensor)
}
