//! No panic leaves the library: each entry runs under [`guard`].

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Mutex, Once, PoisonError};

use paraloom_abi as abi;
use serde_json::Value;

use crate::error::{Error, Result, Status};

thread_local! {
    /// Where the last panic of this thread happened.
    static PANIC_PLACE: RefCell<Option<String>> = const { RefCell::new(None) };
    /// How many calls of [`catch`] this thread is in.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
    /// Whether it has been in one: such a thread is the host's, or a test's, and none of the stage's own.
    static IS_OF_HOST: Cell<bool> = const { Cell::new(false) };
}

/// The last panic of a thread that the stage has started: its message and place.
static OTHER_THREAD: Mutex<Option<(String, String)>> = Mutex::new(None);

/// Remembers the place of a panic. A stage library links its own copy of std, so this
/// hook is the library's alone.
fn install_hook() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let place = info.location().map(ToString::to_string);
            if DEPTH.get() == 0 {
                before(info);
                if IS_OF_HOST.get() {
                    return;
                }
                let message = info.payload_as_str().unwrap_or(NO_MESSAGE).to_owned();
                let mut other = OTHER_THREAD.lock().unwrap_or_else(PoisonError::into_inner);
                *other = Some((message, place.unwrap_or_default()));
            } else {
                PANIC_PLACE.with(|slot| slot.replace(place));
            }
        }));
    });
}

const NO_MESSAGE: &str = "a panic without a message";

/// Runs `body`; a panic becomes an error with its message and place, and so does one of a thread that the stage has
/// started, unless `body` reports another error.
pub(crate) fn catch<T>(body: impl FnOnce() -> Result<T>) -> Result<T> {
    install_hook();
    IS_OF_HOST.set(true);
    DEPTH.set(DEPTH.get() + 1);
    let result =
        catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|payload| Err(from_panic(payload)));
    DEPTH.set(DEPTH.get() - 1);
    if DEPTH.get() > 0 {
        return result;
    }
    let other = OTHER_THREAD.lock().unwrap_or_else(PoisonError::into_inner).take();
    match (result, other) {
        (Ok(_), Some((message, place))) => {
            let message = format!("a thread of the stage panicked: {message}");
            Err(Error::new(Status::Panic, message).with("location", place))
        }
        // Whoever waited for the thread has panicked in turn.
        (Err(error), Some((_, place)))
            if error.status == Status::Panic && error.detail("location").is_none() =>
        {
            Err(error.with("location", place))
        }
        (result, _) => result,
    }
}

/// Runs `work`, and gives the message of a panic in it that `is_expected`, by its message; any other panic goes on.
///
/// For a library that reports in panics what its caller can deal with, such as torch that finds no memory. A panic of another
/// thread fails the call of a stage even where the stage caught it, unless it was caught here: `work` may pass on the panic of
/// a thread that it waited for, as rayon does.
///
/// # Errors
/// The message of the expected panic.
pub fn recover<T>(
    work: impl FnOnce() -> T,
    is_expected: impl FnOnce(&str) -> bool,
) -> std::result::Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|payload| {
        let message = message_of(&*payload);
        if !is_expected(&message) {
            resume_unwind(payload)
        }
        OTHER_THREAD.lock().unwrap_or_else(PoisonError::into_inner).take();
        std::mem::forget(payload);
        message
    })
}

fn message_of(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or(NO_MESSAGE).to_owned()
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
    let message = message_of(&*payload);
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Panics in a thread, which passes it on to this one.
    fn panic_elsewhere(message: &'static str) {
        let thread = std::thread::spawn(move || std::panic::panic_any(message));
        resume_unwind(thread.join().expect_err("it panicked"));
    }

    #[test]
    fn a_panic_that_was_expected_does_not_fail_the_call() {
        let told = catch(|| Ok(recover(|| panic_elsewhere("no room"), |text| text == "no room")));
        assert_eq!(told.expect("it was recovered from"), Err("no room".to_owned()));

        let told = catch(|| Ok(recover(|| panic_elsewhere("a bug"), |text| text == "no room")));
        let error = told.expect_err("it goes on");
        assert_eq!((error.status, &*error.message), (Status::Panic, "the stage panicked: a bug"));
        assert!(
            error.detail("location").is_some_and(|place| place.to_string().contains("guard.rs"))
        );

        // Whoever swallows the panic of a thread by other means has a stage whose threads die unseen.
        let told = catch(|| Ok(catch_unwind(|| panic_elsewhere("unseen")).is_err()));
        let error = told.expect_err("a thread panicked");
        assert_eq!(error.message, "a thread of the stage panicked: unseen");
    }
}
