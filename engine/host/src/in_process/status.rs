//! Errors across the C ABI, in both directions.

use paraloom_abi::{self as abi, status};
use paraloom_pipeline::FailureSpan;
use serde::Deserialize;
use serde_json::Value;

use crate::error::StageFailure;

/// Errors of one call that are told one by one.
const MAX_SPANS: usize = 100;

/// Calls into a stage and reads what it says if it fails.
pub(super) fn call(body: impl FnOnce(*mut abi::Error) -> u32) -> Result<(), StageFailure> {
    let mut error = abi::Error::empty();
    let code = body(&raw mut error);
    if code == status::OK {
        return Ok(());
    }
    // SAFETY: the stage filled the texts; they live until release.
    let (message, detail) = unsafe { (error.message.to_text(), error.detail.to_text()) };
    if let Some(release) = error.release {
        // SAFETY: release runs once.
        unsafe { release(&raw mut error) };
    }
    let detail: Value = serde_json::from_str(&detail).unwrap_or_default();
    let member = |name: &str| detail.get(name).and_then(Value::as_str).map(str::to_owned);
    let message = match message.is_empty() {
        true => format!("the stage failed with status {code} and no message"),
        false => message,
    };
    Err(StageFailure {
        status: code,
        message,
        pointer: member("pointer"),
        input: member("input"),
        hint: member("hint"),
        spans: spans(&detail),
        location: member("location"),
        retryable: error.flags & abi::ERROR_RETRYABLE != 0,
    })
}

/// The errors that a stage tells one by one; of a list that is none, there are none.
fn spans(detail: &Value) -> Vec<FailureSpan> {
    let listed = detail.get("spans").and_then(Value::as_array).into_iter().flatten();
    listed.filter_map(|span| FailureSpan::deserialize(span).ok()).take(MAX_SPANS).collect()
}

/// Fills an error of the ABI on the host's side, for a stage that calls us.
pub(super) fn fill(out: *mut abi::Error, message: String) {
    unsafe extern "C" fn release(error: *mut abi::Error) {
        // SAFETY: `fill` leaked the string into private_data; release runs once.
        unsafe {
            drop(Box::from_raw((*error).private_data.cast::<String>()));
            (*error).release = None;
            (*error).message = abi::Str::EMPTY;
        }
    }
    // SAFETY: the stage passes a valid error or null.
    let Some(out) = (unsafe { out.as_mut() }) else { return };
    let message = Box::new(message);
    out.message = abi::Str::new(&message);
    out.private_data = Box::into_raw(message).cast();
    out.release = Some(release);
}
