//! Optimizer steps on libtorch.

use std::sync::Arc;

use burn::backend::LibTorch;
use tch::{Kind, Tensor};

use super::array::{dense, values, values_mut};
use super::choice::is_ours;
use super::ops::index;
use crate::operations::graph::Array;
use crate::operations::on_cpu::{self, zeros_like};
use crate::operations::update::{AdafactorStep, AdamStep, UpdateBackend};
use crate::operations::values::ValuesBackend;

impl ValuesBackend for LibTorch {
    fn t5_with_values(x: Array, work: &mut dyn FnMut(&mut [f32])) -> Array {
        if !is_ours(&x) {
            return x;
        }
        let mut x = dense(x);
        work(values_mut(&mut x));
        x
    }

    fn t5_read_values(x: Array, work: &mut dyn FnMut(&[f32])) -> Array {
        if !is_ours(&x) {
            return x;
        }
        let x = dense(x);
        work(values(&x));
        x
    }
}

impl UpdateBackend for LibTorch {
    fn t5_zeros(like: Array) -> Array {
        if is_ours(&like) { zeros_like(&like) } else { Array::new(like.tensor.zeros_like()) }
    }

    fn t5_adam(
        weight: Array,
        gradient: Array,
        first: Array,
        second: Array,
        step: AdamStep,
    ) -> (Array, Array, Array) {
        if is_ours(&weight) {
            return on_cpu::adam([weight, gradient, first, second], step).into();
        }
        let [beta1, beta2] = step.betas;
        let [bias1, bias2] = step.bias();
        let [mut weight, mut first, mut second] = [weight, first, second].map(owned);
        // In place wherever it can be: fresh memory costs more than the arithmetic.
        let mut gradient = &gradient.tensor * step.gradient_scale;
        let _ = first.lerp_(&gradient, 1.0 - beta1);
        let _ = second.lerp_(&gradient.square_(), 1.0 - beta2);
        // m / (sqrt(v) / bias2 + eps), with both sides of the fraction multiplied by bias2.
        let mut update = second.sqrt();
        let _ = update.g_add_scalar_(step.eps * bias2).reciprocal_().g_mul_(&first);
        let _ = update.g_mul_scalar_(step.learning_rate * bias2 / bias1);
        if step.weight_decay != 0.0 {
            let _ = weight.g_mul_scalar_(1.0 - step.learning_rate * step.weight_decay);
        }
        let _ = weight.g_sub_(&update);
        (Array::new(weight), Array::new(first), Array::new(second))
    }

    fn t5_adafactor(
        weight: Array,
        gradient: Array,
        rows: Array,
        cols: Array,
        step: AdafactorStep,
    ) -> (Array, Array, Array) {
        if is_ours(&weight) {
            return on_cpu::adafactor([weight, gradient, rows, cols], step).into();
        }
        let gradient = &gradient.tensor * step.gradient_scale;
        let squares = gradient.square() + f64::from(AdafactorStep::TINY);
        let rows = blend(&step, rows, &squares.mean_dim(1, false, Kind::Float));
        let cols = blend(&step, cols, &squares.mean_dim(0, false, Kind::Float));
        let row_factors = (&rows / rows.mean(Kind::Float)).rsqrt().view([-1, 1]);
        let update = gradient * row_factors * cols.rsqrt();
        (apply(&step, weight, update), Array::new(rows), Array::new(cols))
    }

    fn t5_adafactor_vector(
        weight: Array,
        gradient: Array,
        mean: Array,
        step: AdafactorStep,
    ) -> (Array, Array) {
        if is_ours(&weight) {
            return on_cpu::adafactor_vector([weight, gradient, mean], step).into();
        }
        let gradient = &gradient.tensor * step.gradient_scale;
        let squares = gradient.square() + f64::from(AdafactorStep::TINY);
        let mean = blend(&step, mean, &squares);
        let update = gradient * mean.rsqrt();
        (apply(&step, weight, update), Array::new(mean))
    }

    fn t5_add_rows(table: Array, rows: Array, ids: Arc<[u32]>) -> Array {
        if is_ours(&table) {
            return on_cpu::add_rows(table, rows, &ids);
        }
        let ids = index(ids.iter().map(|&id| i64::from(id)), &table.tensor);
        Array::new(owned(table).index_add_(0, &ids, &rows.tensor))
    }

    fn t5_square_sum(x: Array) -> Array {
        if is_ours(&x) {
            return on_cpu::square_sum(x);
        }
        let sum = x.tensor.square().sum(Kind::Double);
        Array::new(sum.to_kind(Kind::Float).view(1))
    }
}

/// Moves a running mean towards `new`.
fn blend(step: &AdafactorStep, mean: Array, new: &Tensor) -> Tensor {
    let keep = step.keep();
    &mean.tensor * keep + new.view_as(&mean.tensor) * (1.0 - keep)
}

/// Subtracts the clipped and scaled update.
fn apply(step: &AdafactorStep, weight: Array, update: Tensor) -> Array {
    let root_mean_square = |x: &Tensor| x.square().mean(Kind::Double).sqrt();
    let rate = if step.scale_parameter {
        root_mean_square(&weight.tensor).clamp_min(AdafactorStep::SMALLEST) * step.learning_rate
    } else {
        Tensor::from(step.learning_rate)
    };
    let decay = &rate * -step.weight_decay + 1.0;
    let factor = rate / (root_mean_square(&update) / AdafactorStep::CLIP).clamp_min(1.0);
    let [decay, factor] = [decay, factor].map(|x| x.to_kind(Kind::Float));
    Array::new(&weight.tensor * decay - update * factor)
}

/// The tensor, to be changed in place: a copy where somebody else holds it.
fn owned(array: Array) -> Tensor {
    if array.can_mut() { array.tensor } else { array.tensor.copy() }
}
