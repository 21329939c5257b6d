//! A sink takes the rows of one output table from a stage.

use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};

use arrow::datatypes::SchemaRef;
use paraloom_abi::{self as abi, status};
use paraloom_ffi::import_checked;

use super::status::fill;
use crate::error::HostError;
use crate::executor::RowSink;

/// The C sink over a closure. Keeps why a push was refused: the stage may say something else, or nothing.
pub(super) struct Sink<'a> {
    table: abi::Sink,
    state: Box<State<'a>>,
}

struct State<'a> {
    stage: String,
    port: String,
    schema: SchemaRef,
    inner: Mutex<Inner<'a>>,
}

struct Inner<'a> {
    take: RowSink<'a>,
    error: Option<HostError>,
}

impl<'a> Sink<'a> {
    /// Takes rows of `schema`, which is what the plan of `stage` promised for the output `port`.
    pub(super) fn new(stage: &str, port: &str, schema: SchemaRef, take: RowSink<'a>) -> Self {
        let inner = Mutex::new(Inner { take, error: None });
        let (stage, port) = (stage.to_owned(), port.to_owned());
        let state = Box::new(State { stage, port, schema, inner });
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

    pub(super) fn take_error(&self) -> Option<HostError> {
        self.state.inner.lock().unwrap_or_else(PoisonError::into_inner).error.take()
    }
}

impl State<'_> {
    /// # Safety
    /// As for [`import_checked`].
    unsafe fn push(&self, batch: *mut abi::ArrowArray) -> Result<(), HostError> {
        // SAFETY: by contract.
        let imported = catch_unwind(|| unsafe { import_checked(batch, &self.schema) });
        let broken = |what: &str| HostError::Broken {
            stage: self.stage.clone(),
            what: format!("output `{}`: {what}", self.port),
        };
        let rows = match imported {
            Ok(rows) => rows.map_err(|flaw| broken(&flaw.to_string()))?,
            Err(_) => return Err(broken("its batch cannot be imported")),
        };
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        match catch_unwind(AssertUnwindSafe(|| (inner.take)(rows))) {
            Ok(taken) => taken.map_err(HostError::Engine),
            Err(_) => {
                let what = format!("the engine panicked over rows of the output `{}`", self.port);
                Err(HostError::Engine(what.into()))
            }
        }
    }
}

unsafe extern "C" fn push(
    ctx: *mut c_void,
    batch: *mut abi::ArrowArray,
    error: *mut abi::Error,
) -> u32 {
    // SAFETY: ctx is the state of a live sink; its lifetime does not matter for the call.
    let state = unsafe { &*ctx.cast::<State<'_>>() };
    // SAFETY: the stage passes a batch, or null, and moves it.
    match unsafe { state.push(batch) } {
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
