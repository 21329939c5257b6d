//! Dense CPU tensors of f32, as the kernels see them.

use burn::backend::TensorMetadata;
use burn::tensor::TensorData;

pub(super) use crate::kernels::graph::Array;

/// The tensor in row-major order and without slack, copied only where it is a view that is not.
pub(in crate::kernels) fn dense(array: Array) -> Array {
    let whole =
        array.as_slice::<f32>().is_some_and(|values| size_of_val(values) == array.bytes().len());
    if whole { array } else { array.to_contiguous() }
}

/// The values of a tensor that [`dense`] has seen.
pub(super) fn values(array: &Array) -> &[f32] {
    array.as_slice().expect("operations get dense f32 tensors")
}

/// Columns of a matrix.
pub(super) fn columns(array: &Array) -> usize {
    array.shape()[1]
}

/// A matrix with as many columns as fit.
pub(super) fn matrix(values: Vec<f32>, columns: usize) -> Array {
    let rows = values.len() / columns.max(1);
    Array::from_data(TensorData::new(values, [rows, columns]))
}
