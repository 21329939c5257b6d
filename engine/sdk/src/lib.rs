//! What a stage author imports.
//!
//! A stage is a type that implements [`Stage`] or [`MapStage`]; a library offers its
//! stages with [`export_stages!`]. The engine loads the library, checks pipelines
//! against what the stages say of themselves, and calls them. Everything that the
//! stages shipped with paraloom do, they do through this crate.
//!
//! A whole stage with its tests (`paraloom stages new DIR` writes such a crate; docs/writing-a-stage.md goes with it):
//!
//! ```
#![doc = include_str!("../examples/shout.rs")]
//! # fn main() {}
//! ```

// Not for the example, which is this documentation.
#![warn(missing_docs)]

pub mod column;
mod conform;
mod error;
#[doc(hidden)]
pub mod export;
mod guard;
pub mod identity;
mod port;
mod run;
mod stage;
pub mod testing;

// Their types are part of this crate's interface, so a stage takes them from here and never has two versions of them.
pub use {arrow, schemars, serde};

pub use error::{Error, Result, Status, free_bytes};
pub use guard::recover;
pub use paraloom_abi::{
    STAGE_BATCH_INVARIANT, STAGE_COVERS_ROWS, STAGE_DIVIDES_ROWS, STAGE_KEEPS_ROWS,
    STAGE_RESUMABLE, STAGE_USES_SEED,
};
pub use paraloom_alloc::{CacheLines, OrExit, free as free_memory};
pub use paraloom_ffi::StreamReader;
pub use paraloom_names::nearest;
pub use port::{PlanEdge, PlanInputs, Port, Table, missing_column};
pub use run::{Emit, Run, Services};
pub use stage::{About, MapStage, Planned, Stage};

#[doc(hidden)]
pub mod __private {
    pub use paraloom_abi::Library;
}

/// Makes the crate a stage library: `export_stages! { whole: [Load], map: [Threshold] }`.
///
/// The crate must be built as a `cdylib`, and with unwinding panics. Where a build script sets `PARALOOM_SOURCES`, the library's
/// version ends in it: `0.1.0+SOURCES`. A stage of two backends must come from libraries of one version.
///
/// It also sets the library's global allocator: that of the system, and where that has no memory, the run ends with an
/// error that says so ([`OrExit`]). A library that has an allocator of its own says `allocator: own`
/// first, and can wrap it; [`CacheLines`] is one, for loops over whole registers:
///
/// ```
/// # struct Mine;
/// # unsafe impl std::alloc::GlobalAlloc for Mine {
/// #     unsafe fn alloc(&self, layout: std::alloc::Layout) -> *mut u8 {
/// #         unsafe { std::alloc::System.alloc(layout) }
/// #     }
/// #     unsafe fn dealloc(&self, pointer: *mut u8, layout: std::alloc::Layout) {
/// #         unsafe { std::alloc::System.dealloc(pointer, layout) }
/// #     }
/// # }
/// #[global_allocator]
/// static ALLOCATOR: paraloom_sdk::OrExit<Mine> = paraloom_sdk::OrExit(Mine);
///
/// paraloom_sdk::export_stages! { allocator: own, map: [] }
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! export_stages {
    (allocator: own, $($stages:tt)*) => {
        $crate::export_stages! { @entry $($stages)* }
    };
    (@entry $(whole: [$($whole:ty),* $(,)?])? $(,)? $(map: [$($map:ty),* $(,)?])? $(,)?) => {
        #[cfg(panic = "abort")]
        compile_error!("a stage library must be built with panic = \"unwind\"");

        #[expect(unsafe_code, reason = "the entry symbol of the stage ABI")]
        #[unsafe(no_mangle)]
        extern "C" fn paraloom_stages_v1() -> *const $crate::__private::Library {
            struct Table(*const $crate::__private::Library);
            // SAFETY: the table is never changed once it is made.
            unsafe impl Send for Table {}
            // SAFETY: as above.
            unsafe impl Sync for Table {}
            static TABLE: std::sync::OnceLock<Table> = std::sync::OnceLock::new();
            TABLE
                .get_or_init(|| {
                    Table($crate::export::entry(|| {
                        let stages = vec![
                            $($($crate::export::whole::<$whole>(),)*)?
                            $($($crate::export::map::<$map>(),)*)?
                        ];
                        let (name, version) = (env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));
                        let sources = option_env!("PARALOOM_SOURCES");
                        $crate::export::library(name, version, sources, stages)
                    }))
                })
                .0
        }
    };
    ($(whole: [$($whole:ty),* $(,)?])? $(,)? $(map: [$($map:ty),* $(,)?])? $(,)?) => {
        #[global_allocator]
        static ALLOCATOR: $crate::OrExit = $crate::OrExit(::std::alloc::System);

        $crate::export_stages! { @entry $(whole: [$($whole),*],)? $(map: [$($map),*])? }
    };
}
