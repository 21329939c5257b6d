//! The one place that knows which backend computes.
//!
//! A library is built for one: the feature `flex` makes the one for the CPU, in Rust alone, and `torch` the one for
//! libtorch. burn dispatches at run time on the device of a tensor, so the rest never names a backend, except for the
//! fused operations in [`crate::kernels`], which each backend has to bring.

use burn::tensor::Device;

#[cfg(all(feature = "flex", feature = "torch"))]
compile_error!("a library is built for one backend");

/// The backend.
#[cfg(feature = "flex")]
pub type Native = burn::backend::Flex;
/// The backend.
#[cfg(feature = "torch")]
pub type Native = burn::backend::LibTorch;

/// Enters the key of every result that was computed with a model.
#[cfg(feature = "flex")]
pub const FINGERPRINT: &str = "burn-flex f32";
/// Enters the key of every result that was computed with a model.
#[cfg(feature = "torch")]
pub const FINGERPRINT: &str = "burn-tch f32";

/// Whether a row's numbers are the same, to the bit, in any batch. Torch's matrix products are not.
pub const BATCH_INVARIANT: bool = cfg!(feature = "flex");

/// Whether it pays to compute the gradients of a batch in parts, side by side. Torch has its own threads.
pub const SIDE_BY_SIDE: bool = cfg!(feature = "flex");

/// The device that models live on.
pub fn default_device() -> Device {
    #[cfg(feature = "flex")]
    return Device::flex();
    #[cfg(feature = "torch")]
    return Device::libtorch();
}
