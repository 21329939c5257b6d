//! burn's CPU backend, in Rust alone: the operations are the loops of [`cpu`](super::cpu).

mod array;
mod update;

pub(super) use self::array::{dense, matrix, scalar, values, values_mut, written};

/// Where an operation is computed: there is only the CPU.
pub(super) fn here<O>(operation: O) -> O {
    operation
}

/// Whether linear layers read their weights in panels.
pub(super) fn has_panels(_: &burn::tensor::Device) -> bool {
    true
}
