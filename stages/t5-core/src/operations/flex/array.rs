//! Tensors as slices.
#![expect(unsafe_code, reason = "memory that is written before it is read")]

use std::mem::MaybeUninit;

use burn::tensor::TensorData;

use crate::operations::graph::Array;

/// The tensor in row-major order and without slack, copied only where it is a view that is not.
pub(in crate::operations) fn dense(array: Array) -> Array {
    let whole =
        array.as_slice::<f32>().is_some_and(|values| size_of_val(values) == array.bytes().len());
    if whole { array } else { array.to_contiguous() }
}

/// The values of a tensor that [`dense`] has seen.
pub(in crate::operations) fn values(array: &Array) -> &[f32] {
    array.as_slice().expect("operations get dense f32 tensors")
}

/// The same, for changing them: a copy where somebody else holds the tensor.
pub(in crate::operations) fn values_mut(array: &mut Array) -> &mut [f32] {
    array.storage_mut()
}

/// A number.
pub(in crate::operations) fn scalar(value: f32) -> Array {
    Array::from_data(TensorData::from([value]))
}

/// A matrix with as many columns as fit.
pub(in crate::operations) fn matrix(values: Vec<f32>, columns: usize) -> Array {
    let rows = values.len() / columns.max(1);
    Array::from_data(TensorData::new(values, [rows, columns]))
}

/// A matrix whose values `write` writes.
///
/// # Safety
///
/// It writes all of them.
pub(in crate::operations) unsafe fn written(
    rows: usize,
    columns: usize,
    write: impl FnOnce(&mut [MaybeUninit<f32>]),
) -> Array {
    let mut values = Vec::with_capacity(rows * columns);
    write(&mut values.spare_capacity_mut()[..rows * columns]);
    // SAFETY: there is room for so many, and the caller says that they are written.
    unsafe { values.set_len(rows * columns) };
    matrix(values, columns)
}
