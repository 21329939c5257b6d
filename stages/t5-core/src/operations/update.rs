//! Optimizer steps: one pass over a weight, its gradient and its state.

use std::sync::Arc;

use burn::backend::{Backend, Dispatch, backend_extension, tensor::FloatTensor};
use burn::tensor::Tensor;

pub use paraloom_t5_kernels::update::{AdafactorStep, AdamStep};

use super::{is_fused, portable::update as portable};

/// A burn backend that has the optimizer steps. Weights are `[rows, columns]`.
#[backend_extension(Flex: cfg(feature = "flex"), LibTorch: cfg(feature = "torch"))]
pub trait UpdateBackend: Backend {
    /// Zeros in the shape of a weight.
    fn t5_zeros(like: FloatTensor<Self>) -> FloatTensor<Self>;
    /// The new weight and its two running means.
    fn t5_adam(
        weight: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        first: FloatTensor<Self>,
        second: FloatTensor<Self>,
        step: AdamStep,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
    /// The new weight and its running means over rows, `[1, rows]`, and columns, `[1, columns]`.
    fn t5_adafactor(
        weight: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        rows: FloatTensor<Self>,
        columns: FloatTensor<Self>,
        step: AdafactorStep,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
    /// The new weight, a vector, and its running mean, both `[1, columns]`.
    fn t5_adafactor_vector(
        weight: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        mean: FloatTensor<Self>,
        step: AdafactorStep,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
    /// `table` with every row of `rows` added to the row that its id names, in order.
    fn t5_add_rows(
        table: FloatTensor<Self>,
        rows: FloatTensor<Self>,
        ids: Arc<[u32]>,
    ) -> FloatTensor<Self>;
    /// The sum of squares, `[1]`.
    fn t5_square_sum(x: FloatTensor<Self>) -> FloatTensor<Self>;
}

/// Zeros in the shape of a weight, as an optimizer starts with.
pub fn zeros_like(weight: &Tensor<2>) -> Tensor<2> {
    if !is_fused(weight) {
        return weight.zeros_like();
    }
    Tensor::from_dispatch(Dispatch::t5_zeros(weight.clone().into_dispatch()))
}

/// One AdamW step: the new weight; the state moves along. Tensors without another owner are updated in place.
pub fn adam(
    weight: Tensor<2>,
    gradient: Tensor<2>,
    state: &mut [Tensor<2>; 2],
    step: AdamStep,
) -> Tensor<2> {
    if !is_fused(&gradient) {
        return portable::adam(weight, gradient, state, step);
    }
    let [first, second] = state.each_mut().map(|mean| take(mean, &gradient));
    let (weight, first, second) =
        Dispatch::t5_adam(weight.into_dispatch(), gradient.into_dispatch(), first, second, step);
    *state = [first, second].map(Tensor::from_dispatch);
    Tensor::from_dispatch(weight)
}

/// One Adafactor step of a matrix: the new weight; the means over rows and columns move along.
pub fn adafactor(
    weight: Tensor<2>,
    gradient: Tensor<2>,
    state: &mut [Tensor<2>; 2],
    step: AdafactorStep,
) -> Tensor<2> {
    if !is_fused(&gradient) {
        return portable::adafactor(weight, gradient, state, step);
    }
    let [rows, columns] = state.each_mut().map(|mean| take(mean, &gradient));
    let (weight, rows, columns) = Dispatch::t5_adafactor(
        weight.into_dispatch(),
        gradient.into_dispatch(),
        rows,
        columns,
        step,
    );
    *state = [rows, columns].map(Tensor::from_dispatch);
    Tensor::from_dispatch(weight)
}

/// One Adafactor step of a vector, `[1, columns]`: the new weight; the mean moves along.
pub fn adafactor_vector(
    weight: Tensor<2>,
    gradient: Tensor<2>,
    state: &mut Tensor<2>,
    step: AdafactorStep,
) -> Tensor<2> {
    if !is_fused(&gradient) {
        return portable::adafactor_vector(weight, gradient, state, step);
    }
    let mean = take(state, &gradient);
    let (weight, mean) =
        Dispatch::t5_adafactor_vector(weight.into_dispatch(), gradient.into_dispatch(), mean, step);
    *state = Tensor::from_dispatch(mean);
    Tensor::from_dispatch(weight)
}

/// Takes a tensor out, so that it has one owner and can be updated in place; `stand_in` replaces it meanwhile.
fn take(tensor: &mut Tensor<2>, stand_in: &Tensor<2>) -> FloatTensor<Dispatch> {
    std::mem::replace(tensor, stand_in.clone()).into_dispatch()
}

/// `table` with every row of `rows` added to the row that its id names, in order. A table without
/// another owner is updated in place.
pub fn add_rows(table: Tensor<2>, ids: &[u32], rows: Tensor<2>) -> Tensor<2> {
    if !is_fused(&table) {
        return portable::add_rows(table, ids, rows);
    }
    let sum = Dispatch::t5_add_rows(table.into_dispatch(), rows.into_dispatch(), ids.into());
    Tensor::from_dispatch(sum)
}

/// The sum of squares.
pub fn square_sum(x: &Tensor<2>) -> f64 {
    if !is_fused(x) {
        return portable::square_sum(x);
    }
    Tensor::<1>::from_dispatch(Dispatch::t5_square_sum(x.clone().into_dispatch()))
        .into_scalar::<f32>()
        .into()
}
