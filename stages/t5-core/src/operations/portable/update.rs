//! Optimizer steps. What is a number of the whole weight stays on the device: reading it would wait for all that is
//! still being computed.

use burn::tensor::{IndexingUpdateOp, Tensor};

use super::index;
use crate::operations::update::{AdafactorStep, AdamStep};

pub(in crate::operations) fn add_rows(table: Tensor<2>, ids: &[u32], rows: Tensor<2>) -> Tensor<2> {
    let ids = ids.iter().map(|&id| i64::from(id)).collect();
    let ids = index(ids, &table.device());
    table.select_assign(0, ids, rows, IndexingUpdateOp::Add)
}

pub(in crate::operations) fn adam(
    weight: Tensor<2>,
    gradient: Tensor<2>,
    [first, second]: &mut [Tensor<2>; 2],
    step: AdamStep,
) -> Tensor<2> {
    let [beta1, beta2] = step.betas;
    let [bias1, bias2] = step.bias();
    let gradient = gradient * step.gradient_scale;
    *first = first.clone() * beta1 + gradient.clone() * (1.0 - beta1);
    *second = second.clone() * beta2 + gradient.square() * (1.0 - beta2);
    let update = first.clone() / (second.clone().sqrt() / bias2 + step.eps);
    let decay = 1.0 - step.learning_rate * step.weight_decay;
    weight * decay - update * (step.learning_rate / bias1)
}

pub(in crate::operations) fn adafactor(
    weight: Tensor<2>,
    gradient: Tensor<2>,
    [rows, columns]: &mut [Tensor<2>; 2],
    step: AdafactorStep,
) -> Tensor<2> {
    let [height, width] = weight.dims();
    let gradient = gradient * step.gradient_scale;
    let squares = gradient.clone().square() + AdafactorStep::TINY;
    *rows = blend(&step, rows, squares.clone().mean_dim(1).reshape([1, height]));
    *columns = blend(&step, columns, squares.mean_dim(0).reshape([1, width]));
    let row_factors = (rows.clone() / rows.clone().mean_dim(1)).sqrt().recip();
    let column_factors = columns.clone().sqrt().recip();
    let update = gradient * row_factors.reshape([height, 1]) * column_factors;
    apply(&step, weight, update)
}

pub(in crate::operations) fn adafactor_vector(
    weight: Tensor<2>,
    gradient: Tensor<2>,
    mean: &mut Tensor<2>,
    step: AdafactorStep,
) -> Tensor<2> {
    let gradient = gradient * step.gradient_scale;
    *mean = blend(&step, mean, gradient.clone().square() + AdafactorStep::TINY);
    let update = gradient / mean.clone().sqrt();
    apply(&step, weight, update)
}

pub(in crate::operations) fn square_sum(x: &Tensor<2>) -> f64 {
    x.clone().square().sum().into_scalar::<f32>().into()
}

/// A running mean, moved towards `new`.
fn blend(step: &AdafactorStep, mean: &Tensor<2>, new: Tensor<2>) -> Tensor<2> {
    let keep = step.keep();
    mean.clone() * keep + new * (1.0 - keep)
}

/// Subtracts the clipped and scaled update.
fn apply(step: &AdafactorStep, weight: Tensor<2>, update: Tensor<2>) -> Tensor<2> {
    let root_mean_square = |x: &Tensor<2>| x.clone().square().mean().sqrt().reshape([1, 1]);
    let cut = (root_mean_square(&update) / AdafactorStep::CLIP).clamp_min(1.0).recip();
    if step.scale_parameter {
        let rate =
            root_mean_square(&weight).clamp_min(AdafactorStep::SMALLEST) * step.learning_rate;
        let decay = rate.clone() * -step.weight_decay + 1.0;
        weight * decay - update * (rate * cut)
    } else {
        let decay = 1.0 - step.learning_rate * step.weight_decay;
        weight * decay - update * (cut * step.learning_rate)
    }
}
