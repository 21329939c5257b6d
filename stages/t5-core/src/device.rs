//! The one place that knows which backend computes.
//!
//! A library is built for one: the feature `flex` alone makes the one for the CPU, in Rust alone, `torch` the one for
//! libtorch, and `cuda` or `wgpu` one for GPUs, which has `flex` beside it for what is only read or written. burn
//! dispatches at run time on the device of a tensor, so the rest never names a backend, except for [`crate::operations`].

use burn::tensor::DType;
pub use burn::tensor::Device;
use paraloom_t5_kernels::{has_bf16_tiles, has_fast_bf16};

use crate::{Error, Result, numeric::Precision};

#[cfg(any(
    all(feature = "flex", feature = "torch"),
    all(feature = "cuda", feature = "wgpu"),
    all(any(feature = "cuda", feature = "wgpu"), not(feature = "flex"))
))]
compile_error!("a library is built for one backend; `cuda` and `wgpu` have `flex` beside them");

#[cfg(any(feature = "cuda", feature = "wgpu"))]
mod gpu;

/// The backend that has the fused operations.
#[cfg(feature = "flex")]
pub type Native = burn::backend::Flex;
/// The backend that has the fused operations.
#[cfg(feature = "torch")]
pub type Native = burn::backend::LibTorch;

/// Enters the key of every result that was computed with a model, and changes when its numbers do: with the backend, and
/// with instructions of the processor that round otherwise than those of others.
///
/// # Errors
/// When nothing can be computed, because there is no GPU that this library is for: said before a run starts.
pub fn fingerprint(precision: Precision) -> Result<String> {
    #[cfg(any(feature = "cuda", feature = "wgpu"))]
    let backend = gpu::device(gpu::NAME).map(|_| gpu::FINGERPRINT)?;
    #[cfg(all(feature = "flex", not(any(feature = "cuda", feature = "wgpu"))))]
    let backend = "burn-flex f32 3";
    #[cfg(feature = "torch")]
    let backend = if torch_only() { "burn-tch f32 by torch 3" } else { "burn-tch f32 3" };
    // On a GPU it does not matter what the processor has.
    let tiles = precision == Precision::Bf16 && has_fused(&default_device()) && has_bf16_tiles();
    Ok(if tiles { format!("{backend} bf16 by tiles") } else { backend.to_owned() })
}

/// Whether a row's numbers are the same, to the bit, in any batch. On a GPU they are not.
pub const BATCH_INVARIANT: bool = !cfg!(any(feature = "torch", feature = "cuda", feature = "wgpu"));

/// Whether the operations on this device are the fused ones.
pub fn has_fused(device: &Device) -> bool {
    if cfg!(any(feature = "cuda", feature = "wgpu")) { *device == cpu_device() } else { true }
}

/// Whether this device computes with packed weights, as the CPU does in whatever memory its tensors are.
pub fn has_packed(device: &Device) -> bool {
    *device == cpu_device() && !torch_only()
}

/// Whether products of bf16 are known to be slower than those of f32 on this device.
pub fn has_slow_halves(device: &Device) -> bool {
    has_packed(device) && !has_fast_bf16()
}

/// Whether what is on the CPU is left to torch's own operations, as what is on a GPU is: for testing those, and for
/// processors on which they are faster.
pub(crate) fn torch_only() -> bool {
    static SAID: std::sync::LazyLock<bool> = std::sync::LazyLock::new(|| {
        cfg!(feature = "torch") && std::env::var_os("PARALOOM_TORCH_KERNELS").is_some()
    });
    *SAID
}

/// The device of models that are only read or written.
pub fn cpu_device() -> Device {
    #[cfg(feature = "flex")]
    return Device::flex();
    #[cfg(feature = "torch")]
    return Device::libtorch();
}

/// The device that this library computes on where nobody names one; it may not be there.
pub fn default_device() -> Device {
    #[cfg(any(feature = "cuda", feature = "wgpu"))]
    return gpu::default_device();
    #[cfg(not(any(feature = "cuda", feature = "wgpu")))]
    cpu_device()
}

/// The device that a pipeline calls `name`: `cpu`, `cuda` or `wgpu`, the latter with a number too, as in `cuda:0`.
///
/// # Errors
/// When it is not there.
pub fn device(name: &str) -> Result<Device> {
    #[cfg(any(feature = "cuda", feature = "wgpu"))]
    return gpu::device(name);
    #[cfg(not(any(feature = "cuda", feature = "wgpu")))]
    if name == "cpu" {
        return Ok(cpu_device());
    }
    #[cfg(all(feature = "flex", not(any(feature = "cuda", feature = "wgpu"))))]
    return Err(missing(name, "this backend computes on the CPU"));
    #[cfg(feature = "torch")]
    {
        let count = tch::Cuda::device_count();
        match numbered(name, "cuda") {
            Some(number) if (number as i64) < count => Ok(Device::libtorch_cuda(number)),
            Some(_) if tch::Cuda::is_available() => {
                Err(missing(name, &format!("CUDA has {count} here")))
            }
            Some(_) => {
                Err(missing(name, "this libtorch is built without CUDA, or there is no driver"))
            }
            None => Err(missing(name, "write `cpu`, `cuda` or `cuda:0`")),
        }
    }
}

/// The number in the name of a device of this kind; without one it is the first.
#[cfg(any(feature = "torch", feature = "cuda", feature = "wgpu"))]
fn numbered(name: &str, kind: &str) -> Option<usize> {
    match name.strip_prefix(kind)? {
        "" => Some(0),
        number => number.strip_prefix(':')?.parse().ok(),
    }
}

fn missing(name: &str, why: &str) -> Error {
    Error::Invalid(format!("there is no device `{name}`: {why}"))
}

/// Refuses a precision that a device does not compute in.
///
/// # Errors
/// When it does not.
pub fn check_precision(device: &Device, precision: Precision) -> Result<()> {
    let (name, there) = match precision {
        Precision::F32 => return Ok(()),
        Precision::Bf16 => ("bf16", has_fused(device) || device.supports_dtype(DType::BF16)),
        Precision::Int8 => ("int8", has_packed(device)),
    };
    if there {
        return Ok(());
    }
    Err(Error::Invalid(format!(
        "this device does not compute in {name}; leave `precision` out, or choose another `backend`"
    )))
}

/// Tells the backend how many threads an operation may use; rayon's are given to it by who calls.
pub fn set_threads(threads: usize) {
    #[cfg(feature = "flex")]
    let _ = threads;
    #[cfg(feature = "torch")]
    // What is not our own on the CPU is small, and its threads would only wait for each other.
    tch::set_num_threads(if torch_only() { threads as i32 } else { 1 });
}
