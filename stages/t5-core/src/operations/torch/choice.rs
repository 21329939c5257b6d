//! Who computes: torch, or our own loops.

use super::ops::TorchOperation;
use crate::device::torch_only;
use crate::operations::graph::{Array, Operation};

/// Whether a tensor is one for our own loops.
pub(super) fn is_ours(array: &Array) -> bool {
    array.tensor.device() == tch::Device::Cpu && !torch_only()
}

/// An operation that is computed where its first input is.
#[derive(Debug, Clone)]
pub(in crate::operations) struct Here<O>(O);

/// An operation that is computed where its first input is.
pub(in crate::operations) fn here<O>(operation: O) -> Here<O> {
    Here(operation)
}

/// What an operation on one side or the other keeps.
#[derive(Debug, Clone)]
pub(in crate::operations) enum Kept<C, T> {
    Ours(C),
    Torch(T),
}

impl<O, const N: usize> Operation<N> for Here<O>
where
    O: Operation<N> + TorchOperation<N>,
{
    type Kept = Kept<<O as Operation<N>>::Kept, <O as TorchOperation<N>>::Kept>;

    fn result(&self, inputs: [Array; N]) -> Array {
        if is_ours(&inputs[0]) {
            Operation::result(&self.0, inputs)
        } else {
            TorchOperation::result(&self.0, inputs)
        }
    }

    fn forward(&self, inputs: [Array; N]) -> (Array, Self::Kept) {
        if is_ours(&inputs[0]) {
            let (result, kept) = Operation::forward(&self.0, inputs);
            (result, Kept::Ours(kept))
        } else {
            let (result, kept) = TorchOperation::forward(&self.0, inputs);
            (result, Kept::Torch(kept))
        }
    }

    fn backward(self, kept: Self::Kept, grad: Array) -> [Array; N] {
        match kept {
            Kept::Ours(kept) => Operation::backward(self.0, kept, grad),
            Kept::Torch(kept) => TorchOperation::backward(self.0, kept, grad),
        }
    }
    fn backward_of(self, kept: Self::Kept, grad: Array, wanted: [bool; N]) -> [Option<Array>; N] {
        match kept {
            Kept::Ours(kept) => Operation::backward_of(self.0, kept, grad, wanted),
            Kept::Torch(kept) => TorchOperation::backward_of(self.0, kept, grad, wanted),
        }
    }
}
