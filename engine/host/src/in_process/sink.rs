//! A sink takes the rows of one output table from a stage.

use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};

use arrow::datatypes::SchemaRef;
use paraloom_abi::{self as abi, status};
use paraloom_ffi::import_batch;

use super::status::fill;
use crate::executor::RowSink;

/// The C sink over a closure. Keeps the engine's own error, which says more than what
/// the stage makes of it.
pub(super) struct Sink<'a> {
    table: abi::Sink,
    state: Box<State<'a>>,
}

struct State<'a> {
    schema: SchemaRef,
    inner: Mutex<Inner<'a>>,
}

struct Inner<'a> {
    take: RowSink<'a>,
    error: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl<'a> Sink<'a> {
    /// Rows of `schema`, which is what the stage's plan promised.
    pub(super) fn new(schema: SchemaRef, take: RowSink<'a>) -> Self {
        let state = Box::new(State { schema, inner: Mutex::new(Inner { take, error: None }) });
        let table = abi::Sink {
            struct_size: size_of::<abi::Sink>() as u32,
            reserved0: 0,
            ctx: std::ptr::from_ref::<State>(&state).cast_mut().cast(),
            push: Some(push),
        };
        Self { table, state }
    }

    pub(super) fn as_ptr(&self) -> *const abi::Sink {
        &raw const self.table
    }

    pub(super) fn take_error(&self) -> Option<Box<dyn std::error::Error + Send + Sync>> {
        self.state.inner.lock().unwrap_or_else(PoisonError::into_inner).error.take()
    }
}

unsafe extern "C" fn push(
    ctx: *mut c_void,
    batch: *mut abi::ArrowArray,
    error: *mut abi::Error,
) -> u32 {
    // SAFETY: ctx is the state of a live sink; its lifetime does not matter for the call.
    let state = unsafe { &*ctx.cast::<State<'_>>() };
    let taken = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: the stage promises a batch of this schema, and moves it.
        let rows = unsafe { import_batch(batch, &state.schema) }?;
        rows.columns().iter().try_for_each(|column| column.to_data().validate_full())?;
        let mut inner = state.inner.lock().unwrap_or_else(PoisonError::into_inner);
        (inner.take)(rows)
    }));
    let taken: Result<(), Box<dyn std::error::Error + Send + Sync>> =
        taken.unwrap_or_else(|_| Err("the engine panicked".into()));
    match taken {
        Ok(()) => status::OK,
        Err(failure) => {
            fill(error, failure.to_string());
            // The rows are lost, so the work has failed, whatever the stage makes of this.
            let mut inner = state.inner.lock().unwrap_or_else(PoisonError::into_inner);
            inner.error.get_or_insert(failure);
            status::IO
        }
    }
}
