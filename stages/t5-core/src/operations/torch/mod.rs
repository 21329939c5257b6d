//! The operations on libtorch: its own on a GPU, and on the CPU the loops of [`on_cpu`](super::on_cpu), in torch's memory.
//!
//! On the CPU torch's own would do as well, and do where [`torch_only`](crate::device::torch_only) says so: that is how
//! what a GPU runs is tested where there is none.

mod array;
mod attention;
mod choice;
mod ops;
mod update;

pub(super) use self::array::{dense, matrix, scalar, values, values_mut, written};
pub(super) use self::attention::Layout;
pub(super) use self::choice::here;
