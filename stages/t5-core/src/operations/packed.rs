//! Linear layers with packed weights. Several that read the same matrix share its packed form.

use std::sync::Arc;

#[cfg(feature = "flex")]
use burn::backend::Flex;
#[cfg(feature = "torch")]
use burn::backend::LibTorch;
use burn::backend::{Backend, Dispatch, backend_extension, tensor::FloatTensor};
use burn::tensor::Tensor;
use paraloom_t5_kernels::weight::PackedWeight;

use super::on_cpu::linear_packed as compute;

/// A burn backend whose tensors may be in this process's memory.
#[backend_extension(Flex: cfg(feature = "flex"), LibTorch: cfg(feature = "torch"))]
pub(super) trait PackedBackend: Backend {
    /// The product with a weight.
    fn t5_packed_one(x: FloatTensor<Self>, weights: [Arc<PackedWeight>; 1]) -> FloatTensor<Self>;
    /// The products with two.
    fn t5_packed_two(
        x: FloatTensor<Self>,
        weights: [Arc<PackedWeight>; 2],
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
    /// The products with three.
    fn t5_packed_three(
        x: FloatTensor<Self>,
        weights: [Arc<PackedWeight>; 3],
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
}

/// Implements it with the CPU kernels.
macro_rules! implement {
    ($backend:ty) => {
        impl PackedBackend for $backend {
            fn t5_packed_one(
                x: FloatTensor<Self>,
                weights: [Arc<PackedWeight>; 1],
            ) -> FloatTensor<Self> {
                let [product] = compute(x, &weights);
                product
            }

            fn t5_packed_two(
                x: FloatTensor<Self>,
                weights: [Arc<PackedWeight>; 2],
            ) -> (FloatTensor<Self>, FloatTensor<Self>) {
                compute(x, &weights).into()
            }

            fn t5_packed_three(
                x: FloatTensor<Self>,
                weights: [Arc<PackedWeight>; 3],
            ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
                compute(x, &weights).into()
            }
        }
    };
}

#[cfg(feature = "flex")]
implement!(Flex);
#[cfg(feature = "torch")]
implement!(LibTorch);

/// The products of `x`, `[rows, in]`, which is in this process's memory, and the transposes of weights.
pub fn linear_packed<const N: usize>(
    x: Tensor<2>,
    weights: [&Arc<PackedWeight>; N],
) -> [Tensor<2>; N] {
    // burn dispatches functions of a fixed number of tensors.
    let mut products = Vec::with_capacity(N);
    match weights.as_slice() {
        &[a, b, c] => {
            let weights = [a, b, c].map(Arc::clone);
            let (a, b, c) = Dispatch::t5_packed_three(x.into_dispatch(), weights);
            products.extend([a, b, c]);
        }
        &[a, b] => {
            let (a, b) = Dispatch::t5_packed_two(x.into_dispatch(), [a, b].map(Arc::clone));
            products.extend([a, b]);
        }
        each => products.extend(each.iter().map(|weight| {
            Dispatch::t5_packed_one(x.clone().into_dispatch(), [Arc::clone(weight)])
        })),
    }
    let mut products = products.into_iter().map(Tensor::from_dispatch);
    std::array::from_fn(|_| products.next().expect("there is one of each weight"))
}
