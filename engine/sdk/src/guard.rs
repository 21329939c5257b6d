//! No panic leaves the library: each entry runs under [`guard`].

use std::any::Any;
use std::cell::RefCell;
use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use paraloom_abi as abi;
use serde_json::Value;

use crate::error::{Error, Result, Status};

thread_local! {
    /// Where the last panic of this thread happened.
    static PANIC_PLACE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Remembers the place of a panic. A stage library links its own copy of std, so this
/// hook is the library's alone.
fn install_hook() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        std::panic::set_hook(Box::new(|info| {
            let place = info.location().map(ToString::to_string);
            PANIC_PLACE.with(|slot| slot.replace(place));
        }));
    });
}

/// Runs `body`; a panic becomes an error with its message and place.
pub(crate) fn catch<T>(body: impl FnOnce() -> Result<T>) -> Result<T> {
    install_hook();
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|payload| Err(from_panic(payload)))
}

/// Runs `body` and reports its outcome through the ABI.
pub(crate) fn guard(error: *mut abi::Error, body: impl FnOnce() -> Result<()>) -> u32 {
    match catch(body) {
        Ok(()) => abi::status::OK,
        Err(failure) => {
            let status = failure.status as u32;
            // SAFETY: the host passes a valid error to fill, or null.
            unsafe { fill(error, failure) };
            status
        }
    }
}

fn from_panic(payload: Box<dyn Any + Send>) -> Error {
    let message = payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a message".to_owned());
    // The drop of a payload may panic again.
    std::mem::forget(payload);
    let error = Error::new(Status::Panic, format!("the stage panicked: {message}"));
    match PANIC_PLACE.with(RefCell::take) {
        Some(place) => error.with("location", place),
        None => error,
    }
}

struct Texts {
    message: String,
    detail: String,
}

/// Fills the host's error structure with texts that this library frees.
unsafe fn fill(out: *mut abi::Error, error: Error) {
    // SAFETY: valid or null by contract.
    let Some(out) = (unsafe { out.as_mut() }) else {
        return;
    };
    let detail = if error.detail.is_empty() {
        String::new()
    } else {
        Value::Object(error.detail).to_string()
    };
    let texts = Box::new(Texts { message: error.message, detail });
    out.flags = if error.retryable { abi::ERROR_RETRYABLE } else { 0 };
    out.message = abi::Str::new(&texts.message);
    out.detail = abi::Str::new(&texts.detail);
    out.private_data = Box::into_raw(texts).cast::<c_void>();
    out.release = Some(release);
}

unsafe extern "C" fn release(error: *mut abi::Error) {
    // SAFETY: `fill` set private_data to a leaked Texts, and release runs once.
    unsafe {
        drop(Box::from_raw((*error).private_data.cast::<Texts>()));
        (*error).release = None;
        (*error).message = abi::Str::EMPTY;
        (*error).detail = abi::Str::EMPTY;
    }
}
