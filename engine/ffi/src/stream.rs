//! Exports an iterator of batches as a C stream.
//!
//! arrow-rs has an exporter, but it aborts the process when the reader panics or an
//! error text holds a NUL byte; this one turns both into errors of the stream.

use std::ffi::{CString, c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use paraloom_abi as abi;

use crate::{Result, broken, export_batch, export_schema};

/// `EIO`: what a failed read returns.
const EIO: c_int = 5;

type Batches = Box<dyn Iterator<Item = Result<RecordBatch>> + Send>;

struct State {
    schema: SchemaRef,
    batches: Batches,
    last_error: CString,
}

/// A C stream over `batches`, all of which have `schema`.
pub fn export_stream(
    schema: SchemaRef,
    batches: impl Iterator<Item = Result<RecordBatch>> + Send + 'static,
) -> abi::ArrowArrayStream {
    let state = State { schema, batches: Box::new(batches), last_error: CString::default() };
    abi::ArrowArrayStream {
        get_schema: Some(get_schema),
        get_next: Some(get_next),
        get_last_error: Some(get_last_error),
        release: Some(release),
        private_data: Box::into_raw(Box::new(state)).cast::<c_void>(),
    }
}

/// Runs `body` on the state; a failure or a panic is kept for `get_last_error`.
///
/// # Safety
/// `stream` must come from [`export_stream`] and not be released.
unsafe fn with_state(
    stream: *mut abi::ArrowArrayStream,
    body: impl FnOnce(&mut State) -> Result<()>,
) -> c_int {
    // SAFETY: by contract.
    let state = unsafe { &mut *(*stream).private_data.cast::<State>() };
    let outcome = catch_unwind(AssertUnwindSafe(|| body(state)))
        .unwrap_or_else(|_| Err(broken("the reader of the rows panicked")));
    match outcome {
        Ok(()) => 0,
        Err(error) => {
            let text = error.to_string().replace('\0', "\u{fffd}");
            state.last_error = CString::new(text).unwrap_or_default();
            EIO
        }
    }
}

unsafe extern "C" fn get_schema(
    stream: *mut abi::ArrowArrayStream,
    out: *mut abi::ArrowSchema,
) -> c_int {
    // SAFETY: the consumer passes our stream and a place to write to.
    unsafe {
        with_state(stream, |state| {
            out.write(export_schema(&state.schema)?);
            Ok(())
        })
    }
}

unsafe extern "C" fn get_next(
    stream: *mut abi::ArrowArrayStream,
    out: *mut abi::ArrowArray,
) -> c_int {
    // SAFETY: as above.
    unsafe {
        with_state(stream, |state| {
            let array = match state.batches.next() {
                Some(batch) => export_batch(&batch?)?,
                None => abi::ArrowArray::empty(),
            };
            out.write(array);
            Ok(())
        })
    }
}

unsafe extern "C" fn get_last_error(stream: *mut abi::ArrowArrayStream) -> *const c_char {
    // SAFETY: our stream, not released.
    let state = unsafe { &*(*stream).private_data.cast::<State>() };
    if state.last_error.is_empty() { std::ptr::null() } else { state.last_error.as_ptr() }
}

unsafe extern "C" fn release(stream: *mut abi::ArrowArrayStream) {
    // SAFETY: release runs once; afterwards the structure is marked released.
    let state = unsafe {
        (*stream).release = None;
        Box::from_raw((*stream).private_data.cast::<State>())
    };
    // A panic in the drop of the reader has nobody to go to.
    let _ = catch_unwind(AssertUnwindSafe(|| drop(state)));
}
