//! Want of memory as an error.

use paraloom_sdk::recover;

use crate::{Error, Result};

/// What the work gives, or [`Error::Memory`] where torch finds no room for it, which it says in a panic. (An allocation of
/// Rust's that fails ends the process.)
///
/// # Errors
/// That one, and what the work gives.
pub fn or_error<T>(work: impl FnOnce() -> Result<T>) -> Result<T> {
    // On a GPU and on the CPU.
    let is_expected =
        |text: &str| text.contains("out of memory") || text.contains("can't allocate memory");
    recover(work, is_expected).unwrap_or_else(|text| {
        let line = text.lines().find(|line| line.contains("memory")).unwrap_or_default();
        Err(Error::Memory(line.trim().to_owned()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TORCH: &str = "called `Result::unwrap()` on an `Err` value: Torch(\"[enforce fail at alloc_cpu.cpp:127] err == 0. \
         DefaultCPUAllocator: can't allocate memory: you tried to allocate 17179869184 bytes. Error code 12\")";
    const CUDA: &str = "Torch(\"CUDA out of memory. Tried to allocate 2.00 GiB.\")";

    #[test]
    fn want_of_memory_is_told_from_other_panics() {
        std::panic::set_hook(Box::new(|_| {}));
        for text in [TORCH, CUDA] {
            let result = or_error::<()>(|| panic!("{text}"));
            assert!(matches!(result, Err(Error::Memory(_))), "{result:?}");
        }
        assert!(
            std::panic::catch_unwind(|| or_error::<()>(|| panic!("index out of bounds"))).is_err()
        );
        assert_eq!(or_error(|| Ok(1)).ok(), Some(1));
    }
}
