//! GPUs, by way of CUDA or wgpu.

use std::sync::LazyLock;

#[cfg(feature = "wgpu")]
use burn::tensor::DeviceKind;
use burn::tensor::{Device, DeviceType};

use super::{missing, numbered};
use crate::Result;

/// What pipelines call the devices of this library.
pub(super) const NAME: &str = if cfg!(feature = "cuda") { "cuda" } else { "wgpu" };

/// See [`super::fingerprint`].
pub(super) const FINGERPRINT: &str =
    if cfg!(feature = "cuda") { "burn-cuda f32 3" } else { "burn-wgpu f32 3" };

/// What there is; looked for once, without opening any.
static ALL: LazyLock<Vec<Device>> = LazyLock::new(|| {
    #[cfg(feature = "cuda")]
    return Device::enumerate(DeviceType::Cuda).into_vec();
    #[cfg(feature = "wgpu")]
    return Device::enumerate(DeviceType::Wgpu).into_vec();
});

/// The one that is taken where no number is named: of those of wgpu the most powerful, which need not be the first.
pub(super) fn default_device() -> Device {
    #[cfg(feature = "cuda")]
    return Device::cuda(0);
    #[cfg(feature = "wgpu")]
    return Device::wgpu(DeviceKind::DefaultDevice);
}

pub(super) fn device(name: &str) -> Result<Device> {
    let Some(number) = numbered(name, NAME) else {
        return Err(missing(
            name,
            &format!("this backend has `{NAME}` and `{NAME}:0`; leave `device` out, or `backend`"),
        ));
    };
    match ALL.get(number) {
        Some(_) if name == NAME => Ok(default_device()),
        Some(device) => Ok(device.clone()),
        None if ALL.is_empty() => Err(missing(name, NOTHING)),
        None => Err(missing(name, &format!("there are {}, from `{NAME}:0` on", ALL.len()))),
    }
}

/// Why there is no device at all, and what to do about it.
const NOTHING: &str = if cfg!(feature = "cuda") {
    "no NVIDIA GPU with a driver is found (libcuda.so.1); install the driver, or compute with \
     `backend: cpu`"
} else {
    "no GPU is found by way of Vulkan, Metal or DirectX; install its driver (without a GPU, \
     Mesa's software Vulkan), or compute with `backend: cpu`"
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_refused_with_the_way_out() {
        let said = |name: &str| device(name).expect_err("there is no such device").to_string();
        for name in ["cpu", "gpu", &format!("{NAME}:"), &format!("{NAME}1")] {
            let said = said(name);
            assert!(said.starts_with(&format!("there is no device `{name}`: ")), "{said}");
            assert!(said.contains("leave `device` out"), "{said}");
        }
        let far = said(&format!("{NAME}:9999"));
        let way_out = if ALL.is_empty() { "install" } else { "from `" };
        assert!(far.contains(way_out), "{far}");
        assert_eq!(device(NAME).is_ok(), !ALL.is_empty());
    }
}
