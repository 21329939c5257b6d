//! An operation is a forward pass and a backward pass over dense CPU tensors; this file makes burn operations of them.

use std::fmt::Debug;

use burn::backend::autodiff::{
    Autodiff,
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn::backend::{Flex, TensorMetadata, tensor::FloatTensor};
use burn::tensor::TensorData;

/// A dense CPU tensor of f32.
pub(super) type Array = FloatTensor<Flex>;

/// A differentiable function of `N` tensors.
pub(super) trait Operation<const N: usize>: Clone + Debug + Send + 'static {
    /// What the backward pass needs.
    type Kept: Clone + Debug + Send + 'static;

    /// The result, and what to keep.
    fn forward(&self, inputs: [Array; N]) -> (Array, Self::Kept);

    /// The gradient of every input, given that of the result.
    fn backward(self, kept: Self::Kept, grad: Array) -> [Array; N];
}

/// Runs an operation without recording it.
pub(super) fn run<O: Operation<N>, const N: usize>(operation: O, inputs: [Array; N]) -> Array {
    operation.forward(inputs.map(dense)).0
}

/// Runs an operation and records it for the backward pass.
pub(super) fn record<C, O, const N: usize>(
    operation: O,
    inputs: [FloatTensor<Autodiff<Flex, C>>; N],
) -> FloatTensor<Autodiff<Flex, C>>
where
    C: CheckpointStrategy,
    O: Operation<N>,
{
    let guards = inputs.each_ref().map(FloatTensor::<Autodiff<Flex, C>>::node);
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

impl<O: Operation<N>, const N: usize> Backward<Flex, N> for Recorded<O> {
    type State = (O, O::Kept);

    fn backward(self, ops: Ops<Self::State, N>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = dense(grads.consume::<Flex>(&ops.node));
        let (operation, kept) = ops.state;
        for (parent, grad) in ops.parents.into_iter().zip(operation.backward(kept, grad)) {
            if let Some(parent) = parent {
                grads.register::<Flex>(parent.id, grad);
            }
        }
    }
}

/// The tensor in row-major order and without slack, copied only where it is a view that is not.
pub(super) fn dense(array: Array) -> Array {
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
