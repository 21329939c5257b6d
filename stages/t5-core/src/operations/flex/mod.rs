//! burn's CPU backend, in Rust alone: the operations are the loops of [`on_cpu`](super::on_cpu).

mod array;
mod update;

pub(super) use self::array::{dense, matrix, scalar, values, values_mut, written};

/// Where an operation is computed: there is only the CPU.
pub(super) fn here<O>(operation: O) -> O {
    operation
}
