//! Torch's tensors on the CPU as slices.
#![expect(unsafe_code, reason = "tch gives the memory of a tensor as a pointer")]

use std::mem::MaybeUninit;

use burn::backend::TensorMetadata;
use tch::{Kind, Tensor};

use super::choice::is_ours;
use crate::operations::graph::Array;

/// The tensor in row-major order, copied only where it is not. Torch itself takes tensors of any layout.
pub(in crate::operations) fn dense(array: Array) -> Array {
    if !is_ours(&array) || array.tensor.is_contiguous() {
        return array;
    }
    Array::new(array.tensor.contiguous())
}

/// The values of a tensor that [`dense`] has seen.
pub(in crate::operations) fn values(array: &Array) -> &[f32] {
    let (first, count) = memory(&array.tensor);
    // SAFETY: a contiguous tensor of f32 on the CPU has so many values from there on, `memory` says. They are initialised,
    // and nobody changes them meanwhile: burn changes in place only what has one owner, which is borrowed here.
    unsafe { std::slice::from_raw_parts(first, count) }
}

/// The same, for changing them: a copy where somebody else holds the tensor.
pub(in crate::operations) fn values_mut(array: &mut Array) -> &mut [f32] {
    if !TensorMetadata::can_mut(array) {
        *array = Array::new(array.tensor.copy());
    }
    let (first, count) = memory(&array.tensor);
    // SAFETY: as above, and this is the one owner.
    unsafe { std::slice::from_raw_parts_mut(first, count) }
}

fn memory(tensor: &Tensor) -> (*mut f32, usize) {
    let dense = tensor.device() == tch::Device::Cpu
        && tensor.kind() == Kind::Float
        && tensor.is_contiguous();
    assert!(dense, "operations get dense tensors of f32");
    match tensor.numel() {
        0 => (std::ptr::NonNull::dangling().as_ptr(), 0),
        count => (tensor.data_ptr().cast(), count),
    }
}

/// A number.
pub(in crate::operations) fn scalar(value: f32) -> Array {
    Array::new(Tensor::from_slice(&[value]))
}

/// A matrix with as many columns as fit.
pub(in crate::operations) fn matrix(values: Vec<f32>, columns: usize) -> Array {
    let rows = values.len() / columns.max(1);
    Array::new(Tensor::from_slice(&values).view([rows as i64, columns as i64]))
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
    let shape = [rows as i64, columns as i64];
    let array = Array::new(Tensor::empty(shape, (Kind::Float, tch::Device::Cpu)));
    let (first, count) = memory(&array.tensor);
    // SAFETY: the tensor has so many values from there on, and nobody else has it.
    write(unsafe { std::slice::from_raw_parts_mut(first.cast(), count) });
    array
}
