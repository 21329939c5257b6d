//! The operations on libtorch, which are torch's own.

mod attention;
pub(super) mod ops;
mod update;

pub(super) use self::attention::Layout;
use super::graph::Array;

/// Torch takes tensors of any layout.
pub(super) fn dense(array: Array) -> Array {
    array
}
