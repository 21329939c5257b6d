//! The operations made of burn's own, for any device that burn has: GPUs, by way of CUDA or wgpu.
//!
//! burn differentiates them. They count in f32 what loses too much in fewer bits (squares, exponentials, losses), and
//! draw the same dropout as the fused ones.

mod attention;
#[cfg(test)]
mod tests;
pub(super) mod update;

use burn::tensor::{DType, Device, Int, Tensor, TensorData, activation};
use paraloom_t5_kernels::{dropout::Dropout, elementwise::Activation};
use rayon::prelude::*;

pub(super) use self::attention::{Layout, attend};
use super::{LossScale, Rounding};

pub(super) fn embed(table: &Tensor<2>, ids: &[u32]) -> Tensor<2> {
    let ids = ids.iter().map(|&id| i64::from(id)).collect();
    table.clone().select(0, index(ids, &table.device()))
}

pub(super) fn norm(x: Tensor<2>, w: &Tensor<2>, eps: f64) -> Tensor<2> {
    let dtype = x.dtype();
    let x = cast(x, DType::F32);
    let scale = (x.clone().square().mean_dim(1) + eps).sqrt().recip();
    cast(x * scale, dtype) * w.clone()
}

pub(super) fn linear(x: Tensor<2>, w: &Tensor<2>, rounding: Rounding) -> Tensor<2> {
    let (dtype, w) = (x.dtype(), w.clone().transpose());
    match rounding {
        Rounding::Bf16 => cast(cast(x, DType::BF16).matmul(cast(w, DType::BF16)), dtype),
        Rounding::None => x.matmul(w),
    }
}

pub(super) fn activate(
    x: Tensor<2>,
    gate: Option<Tensor<2>>,
    activation: Activation,
    dropout: Option<Dropout>,
) -> Tensor<2> {
    let x = match activation {
        Activation::Relu => activation::relu(x),
        Activation::Gelu => activation::gelu_approximate(x),
        Activation::GeluErf => activation::gelu(x),
        Activation::Silu => activation::silu(x),
    };
    drop(if let Some(gate) = gate { x * gate } else { x }, dropout)
}

/// Dropout where there is some.
pub(super) fn drop<const D: usize>(x: Tensor<D>, dropout: Option<Dropout>) -> Tensor<D> {
    let Some(dropout) = dropout else { return x };
    let shape = x.shape();
    let factors: Vec<f32> = (0..shape.num_elements() as u32)
        .into_par_iter()
        .with_min_len(1 << 12)
        .map(|index| dropout.factor(index))
        .collect();
    let factors = Tensor::from_data(TensorData::new(factors, shape), &x.device());
    x * factors
}

pub(super) fn cross_entropy(logits: Tensor<2>, targets: &[u32], scale: LossScale) -> Tensor<1> {
    let LossScale { factor, smoothing } = scale;
    let rows = targets.len();
    let ids = targets.iter().map(|&id| i64::from(id)).collect();
    let ids = index(ids, &logits.device()).reshape([rows, 1]);
    let top = logits.clone().detach().max_dim(1);
    let log_mass = (logits.clone() - top.clone()).exp().sum_dim(1).log() + top;
    let mut chosen = logits.clone().gather(1, ids);
    if smoothing > 0.0 {
        chosen = chosen * (1.0 - smoothing) + logits.mean_dim(1) * smoothing;
    }
    (log_mass - chosen).sum() * factor
}

/// Numbers of rows, where the device has them at hand.
fn index(rows: Vec<i64>, device: &Device) -> Tensor<1, Int> {
    let count = rows.len();
    Tensor::from_data(TensorData::new(rows, [count]), device)
}

/// The tensor in this type; nothing is recorded where it is of that type already.
fn cast<const D: usize>(x: Tensor<D>, dtype: DType) -> Tensor<D> {
    if x.dtype() == dtype { x } else { x.cast(dtype) }
}
