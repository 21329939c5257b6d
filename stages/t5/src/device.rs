//! The one place that knows which backend computes.
//!
//! burn dispatches at run time on the device of a tensor, so the rest of the library never names a backend, except for
//! the fused operations in [`crate::kernels`], which each backend has to bring.

use burn::tensor::Device;

/// The device that models live on: the CPU, through burn's pure-Rust backend.
pub fn default_device() -> Device {
    Device::flex()
}
