//! The operations as functions of torch tensors.

use std::fmt::Debug;

use paraloom_t5_kernels::{dropout::Dropout, elementwise::Activation};
use rayon::prelude::*;
use tch::{Kind, Reduction, Tensor};

use super::attention;
use crate::operations::{
    LossScale, Rounding,
    graph::Array,
    ops::{Activate, Add, Attend, CrossEntropy, Drop, Embed, Linear, Norm},
};

/// An operation as torch computes it; the same as [`Operation`](crate::operations::graph::Operation), which is for all backends.
pub(in crate::operations) trait TorchOperation<const N: usize>:
    Clone + Debug + Send + 'static
{
    type Kept: Clone + Debug + Send + 'static;
    fn result(&self, inputs: [Array; N]) -> Array;
    fn forward(&self, inputs: [Array; N]) -> (Array, Self::Kept);
    fn backward(self, kept: Self::Kept, grad: Array) -> [Array; N];

    fn backward_of(self, kept: Self::Kept, grad: Array, wanted: [bool; N]) -> [Option<Array>; N] {
        let _ = wanted;
        self.backward(kept, grad).map(Some)
    }
}

/// A function of torch tensors. Torch differentiates it: what is kept for the backward pass is torch's own graph of this
/// one operation.
trait Function<const N: usize>: Clone + Debug + Send + 'static {
    fn call(&self, inputs: [&Tensor; N]) -> Tensor;
}

impl<F: Function<N>, const N: usize> TorchOperation<N> for F {
    /// The result in torch's graph, and the inputs as its leaves.
    type Kept = (Array, [Array; N]);

    fn result(&self, inputs: [Array; N]) -> Array {
        let inputs = inputs.each_ref().map(|input| &input.tensor);
        Array::new(tch::no_grad(|| self.call(inputs)))
    }

    fn forward(&self, inputs: [Array; N]) -> (Array, Self::Kept) {
        // Each leaf shares the memory of its input, and says so: burn changes in place what nobody else holds.
        let leaves = inputs.map(|input| Array {
            tensor: input.tensor.detach().set_requires_grad(true),
            storage: input.storage,
        });
        let result = self.call(leaves.each_ref().map(|leaf| &leaf.tensor));
        let output = Array::new(result.detach());
        let result = Array { tensor: result, storage: output.storage.clone() };
        (output, (result, leaves))
    }

    fn backward(self, (result, leaves): Self::Kept, grad: Array) -> [Array; N] {
        let inputs = leaves.each_ref().map(|leaf| &leaf.tensor);
        // Torch starts from a scalar, whose gradient with respect to the result is this.
        let scalar = result.tensor.reshape([-1]).dot(&grad.tensor.reshape([-1]));
        let gradients = Tensor::run_backward(&[scalar], &inputs, false, false);
        let mut gradients = gradients.into_iter().map(Array::new);
        leaves.map(|leaf| gradients.next().unwrap_or_else(|| Array::new(leaf.tensor.zeros_like())))
    }
}

impl Function<1> for Embed {
    fn call(&self, [table]: [&Tensor; 1]) -> Tensor {
        Tensor::embedding(
            table,
            &index(self.ids.iter().map(|&id| i64::from(id)), table),
            -1,
            false,
            false,
        )
    }
}

impl Function<2> for Norm {
    fn call(&self, [x, w]: [&Tensor; 2]) -> Tensor {
        x.rms_norm(x.size()[1], Some(w.view(-1)), Some(f64::from(self.eps)))
    }
}

/// By hand, since most of a training step is here, and torch's graph would want a scalar to start from.
impl TorchOperation<2> for Linear {
    type Kept = [Array; 2];

    fn result(&self, inputs: [Array; 2]) -> Array {
        self.forward(inputs).0
    }

    fn forward(&self, inputs: [Array; 2]) -> (Array, Self::Kept) {
        let kind = inputs[0].tensor.kind();
        let inputs = inputs.map(|array| self.rounded(array));
        let [x, w] = &inputs;
        (Array::new(x.tensor.linear(&w.tensor, None::<&Tensor>).to_kind(kind)), inputs)
    }

    fn backward(self, kept: Self::Kept, grad: Array) -> [Array; 2] {
        self.backward_of(kept, grad, [true; 2]).map(|grad| grad.expect("all are wanted"))
    }

    fn backward_of(self, [x, w]: Self::Kept, grad: Array, wanted: [bool; 2]) -> [Option<Array>; 2] {
        let kind = grad.tensor.kind();
        let grad = self.rounded(grad).tensor;
        let products =
            [wanted[0].then(|| grad.mm(&w.tensor)), wanted[1].then(|| grad.tr().mm(&x.tensor))];
        products.map(|product| Some(Array::new(product?.to_kind(kind))))
    }
}

impl Linear {
    fn rounded(&self, array: Array) -> Array {
        match self.0 {
            Rounding::Bf16 => Array::new(array.tensor.to_kind(Kind::BFloat16)),
            Rounding::None => array,
        }
    }
}

impl Activate {
    fn activate(&self, x: &Tensor) -> Tensor {
        match self.activation {
            Activation::Relu => x.relu(),
            Activation::Gelu => x.gelu("tanh"),
            Activation::GeluErf => x.gelu("none"),
            Activation::Silu => x.silu(),
        }
    }
}

impl Function<1> for Activate {
    fn call(&self, [x]: [&Tensor; 1]) -> Tensor {
        drop(self.activate(x), self.dropout)
    }
}

impl Function<2> for Activate {
    fn call(&self, [x, gate]: [&Tensor; 2]) -> Tensor {
        drop(self.activate(x) * gate, self.dropout)
    }
}

impl Function<1> for Drop {
    fn call(&self, [x]: [&Tensor; 1]) -> Tensor {
        drop(x.shallow_clone(), Some(self.0))
    }
}

impl Function<2> for Add {
    fn call(&self, [residual, x]: [&Tensor; 2]) -> Tensor {
        residual + x
    }
}

impl Function<2> for Drop {
    fn call(&self, [residual, x]: [&Tensor; 2]) -> Tensor {
        residual + drop(x.shallow_clone(), Some(self.0))
    }
}

impl Function<3> for Attend {
    fn call(&self, [q, k, v]: [&Tensor; 3]) -> Tensor {
        attention::attend([q, k, v], None, &self.0)
    }
}

impl Function<4> for Attend {
    fn call(&self, [q, k, v, bias]: [&Tensor; 4]) -> Tensor {
        attention::attend([q, k, v], Some(bias), &self.0)
    }
}

impl Function<1> for CrossEntropy {
    fn call(&self, [logits]: [&Tensor; 1]) -> Tensor {
        let targets = index(self.targets.iter().map(|&id| i64::from(id)), logits);
        let LossScale { factor, smoothing } = self.scale;
        let no_target = -100;
        let sum = logits.cross_entropy_loss(
            &targets,
            None::<&Tensor>,
            Reduction::Sum,
            no_target,
            f64::from(smoothing),
        );
        (sum * f64::from(factor)).view(1)
    }
}

/// Numbers of rows, on the device of `like`.
pub(super) fn index(rows: impl Iterator<Item = i64>, like: &Tensor) -> Tensor {
    Tensor::from_slice(&rows.collect::<Vec<_>>()).to_device(like.device())
}

/// Dropout where there is some.
pub(super) fn drop(x: Tensor, dropout: Option<Dropout>) -> Tensor {
    let Some(dropout) = dropout else { return x };
    let factors: Vec<f32> = (0..x.numel() as u32)
        .into_par_iter()
        .with_min_len(1 << 12)
        .map(|index| dropout.factor(index))
        .collect();
    let factors = Tensor::from_slice(&factors).view(x.size().as_slice()).to_device(x.device());
    x * factors
}
