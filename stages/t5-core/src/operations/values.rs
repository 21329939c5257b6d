//! Access to the values of a tensor without copying them.

use burn::backend::{Backend, Dispatch, backend_extension, tensor::FloatTensor};
use burn::tensor::{DataError, Tensor};

use super::is_fused;
use crate::error::{Error, Result};

/// A burn backend whose tensors may be in this process's memory.
#[backend_extension(Flex: cfg(feature = "flex"), LibTorch: cfg(feature = "torch"))]
pub(super) trait ValuesBackend: Backend {
    /// Calls `work` with the values, if they are in this process's memory.
    fn t5_with_values(x: FloatTensor<Self>, work: &mut dyn FnMut(&mut [f32])) -> FloatTensor<Self>;
    /// The same without changing them.
    fn t5_read_values(x: FloatTensor<Self>, work: &mut dyn FnMut(&[f32])) -> FloatTensor<Self>;
}

/// Calls `work` with the values of a matrix, row after row, which it may change: in place if the matrix has
/// no other owner and is in this process's memory.
///
/// # Errors
/// [`Error::Weights`] when they are not f32.
pub fn with_values<R>(mut x: Tensor<2>, work: impl FnOnce(&mut [f32]) -> R) -> Result<R> {
    let (mut work, mut result) = (Some(work), None);
    if is_fused(&x) {
        let mut once = |values: &mut [f32]| result = work.take().map(|work| work(values));
        x = Tensor::from_dispatch(Dispatch::t5_with_values(x.into_dispatch(), &mut once));
    }
    match work {
        Some(work) => Ok(work(x.into_data().as_mut_slice().map_err(not_f32)?)),
        None => result.ok_or_else(|| Error::Weights("they were not read".into())),
    }
}

/// Calls `work` with the values of a matrix, row after row. Copies only from a device.
///
/// # Errors
/// As [`with_values`].
pub fn read_values<R>(x: &Tensor<2>, work: impl FnOnce(&[f32]) -> R) -> Result<R> {
    let (mut work, mut result) = (Some(work), None);
    if is_fused(x) {
        let mut once = |values: &[f32]| result = work.take().map(|work| work(values));
        Dispatch::t5_read_values(x.clone().into_dispatch(), &mut once);
    }
    match work {
        Some(work) => Ok(work(x.to_data().as_slice().map_err(not_f32)?)),
        None => result.ok_or_else(|| Error::Weights("they were not read".into())),
    }
}

fn not_f32(error: DataError) -> Error {
    Error::Weights(format!("{error:?}"))
}
