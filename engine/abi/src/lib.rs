//! The stage ABI as Rust sees it: the mirror of `include/paraloom_stage.h`.
//!
//! The header is the specification; every structure here has the layout of the one
//! there (`tests/layout.rs` compares them through a C compiler). No logic and no
//! dependency live here, so that both the engine and the SDK can build on it.

use std::ffi::{c_char, c_int, c_void};

mod arrow;
pub use arrow::{ArrowArray, ArrowArrayStream, ArrowSchema};

/// Libraries of another major version are refused.
pub const ABI_MAJOR: u32 = 1;
/// Grows with every appended field.
pub const ABI_MINOR: u32 = 4;
/// The one symbol that a stage library exports, NUL-terminated.
pub const ENTRY_SYMBOL: &[u8] = b"paraloom_stages_v1\0";

/// Borrowed UTF-8 that is not NUL-terminated.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Str {
    /// First byte; null only if `len` is 0.
    pub ptr: *const c_char,
    /// Length in bytes.
    pub len: usize,
}

impl Str {
    /// The empty string.
    pub const EMPTY: Self = Self { ptr: std::ptr::null(), len: 0 };

    /// Borrows `text`; the result must not outlive it.
    pub const fn new(text: &str) -> Self {
        Self { ptr: text.as_ptr().cast(), len: text.len() }
    }

    /// The bytes behind the pointer.
    ///
    /// # Safety
    /// `ptr` must be null or valid for `len` bytes for as long as `'a` lasts.
    pub unsafe fn bytes<'a>(self) -> &'a [u8] {
        if self.ptr.is_null() || self.len == 0 {
            return &[];
        }
        // SAFETY: the caller vouches for pointer, length and lifetime.
        unsafe { std::slice::from_raw_parts(self.ptr.cast(), self.len) }
    }

    /// The text, with invalid UTF-8 replaced.
    ///
    /// # Safety
    /// As for [`Str::bytes`].
    pub unsafe fn to_text(self) -> String {
        // SAFETY: same contract.
        String::from_utf8_lossy(unsafe { self.bytes() }).into_owned()
    }
}

/// Status codes of every fallible call; see the header for their meanings.
#[expect(missing_docs, reason = "the header documents each field")]
pub mod status {
    pub const OK: u32 = 0;
    pub const CONFIG: u32 = 1;
    pub const SCHEMA: u32 = 2;
    pub const DATA: u32 = 3;
    pub const NOT_FOUND: u32 = 4;
    pub const IO: u32 = 5;
    pub const RESOURCE: u32 = 6;
    pub const CANCELLED: u32 = 7;
    pub const UNSUPPORTED: u32 = 8;
    pub const INTERNAL: u32 = 9;
    pub const PANIC: u32 = 10;
}

/// Set in [`Error::flags`] if the same call may succeed when it is made again.
pub const ERROR_RETRYABLE: u32 = 1;

/// Why a call failed; see the header for who fills and who releases it.
#[repr(C)]
pub struct Error {
    /// Size of this structure as the caller knows it.
    pub struct_size: u32,
    /// [`ERROR_RETRYABLE`] or 0.
    pub flags: u32,
    /// One line, for a person.
    pub message: Str,
    /// A JSON object or empty.
    pub detail: Str,
    /// Frees what the callee allocated for the texts.
    pub release: Option<unsafe extern "C" fn(*mut Error)>,
    /// The callee's own.
    pub private_data: *mut c_void,
}

impl Error {
    /// What a caller passes in.
    pub const fn empty() -> Self {
        Self {
            struct_size: size_of::<Self>() as u32,
            flags: 0,
            message: Str::EMPTY,
            detail: Str::EMPTY,
            release: None,
            private_data: std::ptr::null_mut(),
        }
    }
}

/// Log levels of [`Host::log`].
#[expect(missing_docs, reason = "the header documents each field")]
pub mod level {
    pub const ERROR: u32 = 1;
    pub const WARN: u32 = 2;
    pub const INFO: u32 = 3;
    pub const DEBUG: u32 = 4;
    pub const TRACE: u32 = 5;
}

/// What the host offers to a stage at work. All functions are thread-safe.
#[repr(C)]
#[expect(missing_docs, reason = "the header documents each field")]
pub struct Host {
    pub struct_size: u32,
    pub abi_minor: u32,
    pub ctx: *mut c_void,
    pub max_log_level: u32,
    pub reserved0: u32,
    pub log: Option<unsafe extern "C" fn(*mut c_void, u32, Str)>,
    pub progress: Option<unsafe extern "C" fn(*mut c_void, u64, u64, Str)>,
    pub metric: Option<unsafe extern "C" fn(*mut c_void, Str, f64, u64)>,
    pub is_cancelled: Option<unsafe extern "C" fn(*mut c_void) -> i32>,
    pub checkpoint_latest:
        Option<unsafe extern "C" fn(*mut c_void, *mut Str, *mut u64, *mut Error) -> u32>,
    pub checkpoint_begin:
        Option<unsafe extern "C" fn(*mut c_void, u64, *mut Str, *mut Error) -> u32>,
    pub checkpoint_commit: Option<unsafe extern "C" fn(*mut c_void, u64, *mut Error) -> u32>,
    pub scratch_dir: Option<unsafe extern "C" fn(*mut c_void, *mut Str, *mut Error) -> u32>,
    pub checkpoint_ms: u64,
}

/// Takes the batches of one output table.
#[repr(C)]
#[expect(missing_docs, reason = "the header documents each field")]
pub struct Sink {
    pub struct_size: u32,
    pub reserved0: u32,
    pub ctx: *mut c_void,
    pub push: Option<unsafe extern "C" fn(*mut c_void, *mut ArrowArray, *mut Error) -> u32>,
}

/// [`Port::kind`]: Arrow record batches.
pub const PORT_TABLE: u32 = 1;
/// [`Port::kind`]: an immutable directory, such as a model.
pub const PORT_ARTIFACT: u32 = 2;
/// [`Port::flags`]: may be left unconnected.
pub const PORT_OPTIONAL: u32 = 1;
/// [`Port::flags`]: an input that takes several labelled edges.
pub const PORT_MANY: u32 = 2;

/// A named input or output of a stage.
#[repr(C)]
#[expect(missing_docs, reason = "the header documents each field")]
pub struct Port {
    pub struct_size: u32,
    pub kind: u32,
    pub flags: u32,
    pub reserved0: u32,
    pub name: Str,
    pub doc: Str,
}

/// [`Stage::flags`]: the result depends on the seed.
pub const STAGE_USES_SEED: u32 = 1;
/// [`Stage::flags`]: a whole stage that commits checkpoints.
pub const STAGE_RESUMABLE: u32 = 2;
/// [`Stage::flags`]: a map stage in which a row's result does not depend on its neighbours.
pub const STAGE_BATCH_INVARIANT: u32 = 4;
/// [`Stage::flags`]: every table output has each row of the first table input once. Since 1.3.
pub const STAGE_KEEPS_ROWS: u32 = 8;
/// [`Stage::flags`]: each row of the first table input is in one of the table outputs, once. Since 1.3.
pub const STAGE_DIVIDES_ROWS: u32 = 16;
/// [`Stage::flags`]: of each row of the first table input comes a row of a table output, or several. Since 1.3.
pub const STAGE_COVERS_ROWS: u32 = 32;

/// One edge into the node that is being planned.
#[repr(C)]
#[expect(missing_docs, reason = "the header documents each field")]
pub struct PlanInput {
    pub struct_size: u32,
    pub port: u32,
    pub label: Str,
    pub schema: *const ArrowSchema,
    pub note: Str,
}

/// Arguments of [`Stage::plan`].
#[repr(C)]
#[expect(missing_docs, reason = "the header documents each field")]
pub struct PlanArgs {
    pub struct_size: u32,
    pub n_inputs: u32,
    pub node: Str,
    pub config_json: Str,
    pub inputs: *const *const PlanInput,
}

/// One planned node, made by [`Stage::plan`].
#[repr(C)]
#[expect(missing_docs, reason = "the header documents each field")]
pub struct Plan {
    pub struct_size: u32,
    pub n_outputs: u32,
    pub outputs: *mut ArrowSchema,
    pub fingerprint: Str,
    pub release: Option<unsafe extern "C" fn(*mut Plan)>,
    pub private_data: *mut c_void,
    pub notes: *const Str,
    pub memory_bytes: u64,
}

impl Plan {
    /// What the host passes in.
    pub const fn empty() -> Self {
        Self {
            struct_size: size_of::<Self>() as u32,
            n_outputs: 0,
            outputs: std::ptr::null_mut(),
            fingerprint: Str::EMPTY,
            release: None,
            private_data: std::ptr::null_mut(),
            notes: std::ptr::null(),
            memory_bytes: 0,
        }
    }
}

/// One edge into the node at work.
#[repr(C)]
#[expect(missing_docs, reason = "the header documents each field")]
pub struct Input {
    pub struct_size: u32,
    pub port: u32,
    pub label: Str,
    pub stream: *mut ArrowArrayStream,
    pub dir: Str,
}

/// One output port of the node at work.
#[repr(C)]
#[expect(missing_docs, reason = "the header documents each field")]
pub struct Output {
    pub struct_size: u32,
    pub reserved0: u32,
    pub sink: *const Sink,
    pub dir: Str,
}

/// Arguments of [`Stage::run`] and [`Stage::open`].
#[repr(C)]
#[expect(missing_docs, reason = "the header documents each field")]
pub struct RunArgs {
    pub struct_size: u32,
    pub threads: u32,
    pub host: *const Host,
    pub n_inputs: u32,
    pub n_outputs: u32,
    pub inputs: *const *const Input,
    pub outputs: *const *const Output,
    pub seed: u64,
    pub memory_bytes: u64,
    pub device: Str,
}

/// A map stage at work.
#[repr(C)]
#[expect(missing_docs, reason = "the header documents each field")]
pub struct Worker {
    pub struct_size: u32,
    pub reserved0: u32,
    pub private_data: *mut c_void,
}

/// What a library says of one stage, and the functions that do its work.
#[repr(C)]
#[derive(Clone, Copy)]
#[expect(missing_docs, reason = "the header documents each field")]
pub struct Stage {
    pub struct_size: u32,
    pub flags: u32,
    pub name: Str,
    pub version: Str,
    pub doc: Str,
    pub config_schema: Str,
    pub n_inputs: u32,
    pub n_outputs: u32,
    pub inputs: *const *const Port,
    pub outputs: *const *const Port,
    pub plan:
        Option<unsafe extern "C" fn(*const Stage, *const PlanArgs, *mut Plan, *mut Error) -> u32>,
    pub run:
        Option<unsafe extern "C" fn(*const Stage, *mut Plan, *const RunArgs, *mut Error) -> u32>,
    pub open: Option<
        unsafe extern "C" fn(
            *const Stage,
            *mut Plan,
            *const RunArgs,
            *mut Worker,
            *mut Error,
        ) -> u32,
    >,
    pub map: Option<
        unsafe extern "C" fn(*mut Worker, *mut ArrowArray, *const *const Sink, *mut Error) -> u32,
    >,
    pub close: Option<unsafe extern "C" fn(*mut Worker)>,
    pub part_rows: u32,
    pub reserved0: u32,
}

impl Stage {
    /// Size of the table of a library that was built against 1.0 to 1.3.
    pub const SIZE_1_0: usize = std::mem::offset_of!(Self, part_rows);
}

/// What [`ENTRY_SYMBOL`] returns: static for the life of the process.
#[repr(C)]
#[expect(missing_docs, reason = "the header documents each field")]
pub struct Library {
    pub struct_size: u32,
    pub abi_major: u32,
    pub abi_minor: u32,
    pub n_stages: u32,
    pub name: Str,
    pub version: Str,
    pub built_with: Str,
    pub stages: *const *const Stage,
}

/// The type of the entry symbol.
pub type EntryFn = unsafe extern "C" fn() -> *const Library;

/// The type of the C stream callbacks' return value: 0 or an errno.
pub type Errno = c_int;
