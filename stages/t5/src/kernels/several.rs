//! Linear layers that read the same matrix: what the product makes of it is made once for all of them.

use burn::backend::{Backend, Dispatch, backend_extension, tensor::FloatTensor};
use burn::tensor::Tensor;

use super::{Order, cpu, linear};
#[cfg(feature = "flex")]
use burn::backend::Flex;
#[cfg(feature = "torch")]
use burn::backend::LibTorch;

/// A burn backend whose tensors may be in the memory of this process. Weights are in panels.
#[backend_extension(Flex: cfg(feature = "flex"), LibTorch: cfg(feature = "torch"))]
pub(super) trait SeveralBackend: Backend {
    /// The products with two weights.
    fn t5_linear_two(
        x: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        order: Order,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);
    /// The same with three.
    fn t5_linear_three(
        x: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        c: FloatTensor<Self>,
        order: Order,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);
}

/// Implements it by the loops of [`cpu`].
macro_rules! implement {
    ($backend:ty) => {
        impl SeveralBackend for $backend {
            fn t5_linear_two(
                x: FloatTensor<Self>,
                a: FloatTensor<Self>,
                b: FloatTensor<Self>,
                order: Order,
            ) -> (FloatTensor<Self>, FloatTensor<Self>) {
                cpu::linear_each(x, [a, b], order).into()
            }

            fn t5_linear_three(
                x: FloatTensor<Self>,
                a: FloatTensor<Self>,
                b: FloatTensor<Self>,
                c: FloatTensor<Self>,
                order: Order,
            ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
                cpu::linear_each(x, [a, b, c], order).into()
            }
        }
    };
}

#[cfg(feature = "flex")]
implement!(Flex);
#[cfg(feature = "torch")]
implement!(LibTorch);

/// [`linear`] of two weights, `[out, in]`.
pub fn linear_two(x: Tensor<2>, [a, b]: [&Tensor<2>; 2], order: Order) -> [Tensor<2>; 2] {
    if !order.is_panels() {
        return [linear(x.clone(), a, order), linear(x, b, order)];
    }
    let [a, b] = [a, b].map(|w| w.clone().into_dispatch());
    let (a, b) = Dispatch::t5_linear_two(x.into_dispatch(), a, b, order);
    [a, b].map(Tensor::from_dispatch)
}

/// The same of three.
pub fn linear_three(x: Tensor<2>, [a, b, c]: [&Tensor<2>; 3], order: Order) -> [Tensor<2>; 3] {
    if !order.is_panels() {
        return [linear(x.clone(), a, order), linear(x.clone(), b, order), linear(x, c, order)];
    }
    let [a, b, c] = [a, b, c].map(|w| w.clone().into_dispatch());
    let (a, b, c) = Dispatch::t5_linear_three(x.into_dispatch(), a, b, c, order);
    [a, b, c].map(Tensor::from_dispatch)
}
