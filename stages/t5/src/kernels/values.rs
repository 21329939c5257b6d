//! The values of a tensor where they are.

use burn::backend::{Backend, Dispatch, backend_extension, tensor::FloatTensor};
use burn::tensor::Tensor;

use super::is_fused;
use crate::error::{Error, Result};

/// A burn backend whose tensors may be in the memory of this process.
#[backend_extension(Flex: cfg(feature = "flex"), LibTorch: cfg(feature = "torch"))]
pub(super) trait ValuesBackend: Backend {
    /// Calls `work` with the values, if they are there.
    fn t5_with_values(x: FloatTensor<Self>, work: &mut dyn FnMut(&mut [f32])) -> FloatTensor<Self>;
}

/// Calls `work` with the values of a matrix, row after row, which it may change. Only what is not in the memory of this
/// process is copied.
///
/// # Errors
/// [`Error::Weights`] when they are not of f32.
pub fn with_values<R>(mut x: Tensor<2>, work: impl FnOnce(&mut [f32]) -> R) -> Result<R> {
    let (mut work, mut result) = (Some(work), None);
    if is_fused(&x) {
        let mut once = |values: &mut [f32]| result = work.take().map(|work| work(values));
        x = Tensor::from_dispatch(Dispatch::t5_with_values(x.into_dispatch(), &mut once));
    }
    let Some(work) = work else {
        return result.ok_or_else(|| Error::Weights("they were not read".into()));
    };
    let mut data = x.into_data();
    let values = data.as_mut_slice::<f32>();
    Ok(work(values.map_err(|error| Error::Weights(format!("{error:?}")))?))
}
