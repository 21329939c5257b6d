//! The one place that knows which backend computes.
//!
//! A library is built for one: the feature `flex` makes the one for the CPU, in Rust alone, and `torch` the one for
//! libtorch. burn dispatches at run time on the device of a tensor, so the rest never names a backend, except for the
//! fused operations in [`crate::kernels`], which each backend has to bring.

use burn::tensor::Device;

use crate::{Error, Result};

#[cfg(all(feature = "flex", feature = "torch"))]
compile_error!("a library is built for one backend");

/// The backend.
#[cfg(feature = "flex")]
pub type Native = burn::backend::Flex;
/// The backend.
#[cfg(feature = "torch")]
pub type Native = burn::backend::LibTorch;

/// Enters the key of every result that was computed with a model, and changes when its numbers do.
pub fn fingerprint() -> &'static str {
    #[cfg(feature = "flex")]
    return "burn-flex f32 2";
    #[cfg(feature = "torch")]
    if torch_only() { "burn-tch f32" } else { "burn-tch f32 2" }
}

/// Whether a row's numbers are the same, to the bit, in any batch. On a GPU they are not.
pub const BATCH_INVARIANT: bool = cfg!(feature = "flex");

/// Whether what is on the CPU is left to torch's own operations, as what is on a GPU is: for testing those, and for
/// processors on which they are faster.
#[cfg(feature = "torch")]
pub fn torch_only() -> bool {
    static SAID: std::sync::LazyLock<bool> =
        std::sync::LazyLock::new(|| std::env::var_os("PARALOOM_TORCH_KERNELS").is_some());
    *SAID
}

/// The device of models that are only read or written: the CPU.
pub fn default_device() -> Device {
    #[cfg(feature = "flex")]
    return Device::flex();
    #[cfg(feature = "torch")]
    return Device::libtorch();
}

/// The device that a pipeline calls `name`: `cpu`, `cuda` or `cuda:0`.
///
/// # Errors
/// When it is not there.
pub fn device(name: &str) -> Result<Device> {
    if name == "cpu" {
        return Ok(default_device());
    }
    let missing = |why: &str| Err(Error::Invalid(format!("there is no device `{name}`: {why}")));
    #[cfg(feature = "flex")]
    return missing("this backend computes on the CPU");
    #[cfg(feature = "torch")]
    {
        let number = name.strip_prefix("cuda").map(|number| number.trim_start_matches(':'));
        let count = tch::Cuda::device_count();
        match number.map(|number| if number.is_empty() { Ok(0) } else { number.parse::<i32>() }) {
            Some(Ok(number)) if i64::from(number) < count => Ok(Device::libtorch_cuda(number)),
            Some(_) if tch::Cuda::is_available() => missing(&format!("CUDA has {count} here")),
            Some(_) => missing("this libtorch is built without CUDA, or there is no driver"),
            None => missing("write `cpu`, `cuda` or `cuda:0`"),
        }
    }
}

/// Tells the backend how many threads an operation may use; rayon's are given to it by who calls.
pub fn set_threads(threads: usize) {
    #[cfg(feature = "flex")]
    let _ = threads;
    #[cfg(feature = "torch")]
    // What is not our own on the CPU is small, and its threads would only wait for each other.
    tch::set_num_threads(if torch_only() { threads as i32 } else { 1 });
}
