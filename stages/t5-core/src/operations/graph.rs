//! Operations in burn's autodiff graph: each is a forward and a backward pass over tensors of one backend.

use std::fmt::Debug;

use burn::backend::autodiff::{
    Autodiff,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn::backend::tensor::FloatTensor;

use super::native::dense;
use crate::device::Native;

/// A tensor of the backend that this library is built for.
pub(super) type Array = FloatTensor<Native>;

/// A differentiable function of `N` tensors.
pub(super) trait Operation<const N: usize>: Clone + Debug + Send + 'static {
    /// What the backward pass needs.
    type Kept: Clone + Debug + Send + 'static;

    /// The result alone.
    fn result(&self, inputs: [Array; N]) -> Array {
        self.forward(inputs).0
    }

    /// The result, and what the backward pass needs.
    fn forward(&self, inputs: [Array; N]) -> (Array, Self::Kept);

    /// The gradient of every input, given that of the result.
    fn backward(self, kept: Self::Kept, grad: Array) -> [Array; N];

    /// The gradients of those inputs that are `wanted`: frozen weights need none.
    fn backward_of(self, kept: Self::Kept, grad: Array, wanted: [bool; N]) -> [Option<Array>; N] {
        let _ = wanted;
        self.backward(kept, grad).map(Some)
    }
}

/// Runs an operation without recording it.
pub(super) fn run<O: Operation<N>, const N: usize>(operation: O, inputs: [Array; N]) -> Array {
    operation.result(inputs.map(dense))
}

/// Runs an operation and records it for the backward pass.
pub(super) fn record<C, O, const N: usize>(
    operation: O,
    inputs: [FloatTensor<Autodiff<Native, C>>; N],
) -> FloatTensor<Autodiff<Native, C>>
where
    C: CheckpointStrategy,
    O: Operation<N>,
{
    let guards = inputs.each_ref().map(FloatTensor::<Autodiff<Native, C>>::node);
    let primitives = inputs.map(|input| dense(input.into_primitive()));
    let (output, kept) = operation.forward(primitives);
    match Recorded::<O>::default().prepare::<C>(guards).compute_bound().stateful() {
        OpsKind::Tracked(prep) => prep.finish((operation, kept), output),
        OpsKind::UnTracked(prep) => prep.finish(output),
    }
}

/// The backward step of an operation in burn's graph.
#[derive(Debug)]
struct Recorded<O>(std::marker::PhantomData<O>);

impl<O> Default for Recorded<O> {
    fn default() -> Self {
        Self(std::marker::PhantomData)
    }
}

impl<O: Operation<N>, const N: usize> Backward<Native, N> for Recorded<O> {
    type State = (O, O::Kept);

    fn backward(self, ops: Ops<Self::State, N>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = dense(grads.consume::<Native>(&ops.node));
        let (operation, kept) = ops.state;
        let wanted = ops.parents.each_ref().map(Option::is_some);
        for (parent, grad) in ops.parents.into_iter().zip(operation.backward_of(kept, grad, wanted))
        {
            if let (Some(parent), Some(grad)) = (parent, grad) {
                grads.register::<Native>(parent.id, grad);
            }
        }
    }
}
