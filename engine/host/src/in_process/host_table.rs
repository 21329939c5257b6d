//! The C table over the services that the engine offers to a stage at work.

use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Mutex};

use paraloom_abi::{self as abi, Str, status};

use super::status::fill;
use crate::services::{Level, ServiceError, Services};

/// The C table over [`Services`], and the texts that it lends.
pub(super) struct HostTable {
    /// Boxed, so that the address that a worker keeps survives a move.
    table: Box<abi::Host>,
    context: Box<Context>,
}

struct Context {
    services: Arc<dyn Services>,
    /// Paths that were handed out; they live as long as the table.
    lent: Mutex<Vec<Box<str>>>,
}

// SAFETY: the table points to the context that it owns; both are thread-safe.
unsafe impl Send for HostTable {}

impl HostTable {
    pub(super) fn new(services: Arc<dyn Services>) -> Self {
        let checkpoint_ms = services.checkpoint_interval().as_millis();
        let context = Box::new(Context { services, lent: Mutex::default() });
        let table = Box::new(abi::Host {
            struct_size: size_of::<abi::Host>() as u32,
            abi_minor: abi::ABI_MINOR,
            ctx: std::ptr::from_ref::<Context>(&context).cast_mut().cast(),
            max_log_level: abi::level::INFO,
            reserved0: 0,
            log: Some(log),
            progress: Some(progress),
            metric: Some(metric),
            is_cancelled: Some(is_cancelled),
            checkpoint_latest: Some(checkpoint_latest),
            checkpoint_begin: Some(checkpoint_begin),
            checkpoint_commit: Some(checkpoint_commit),
            scratch_dir: Some(scratch_dir),
            checkpoint_ms: u64::try_from(checkpoint_ms).unwrap_or(u64::MAX),
        });
        Self { table, context }
    }

    pub(super) fn as_ptr(&self) -> *const abi::Host {
        debug_assert_eq!(self.table.ctx.cast_const().cast(), std::ptr::from_ref(&*self.context));
        std::ptr::from_ref(&*self.table)
    }
}

impl Context {
    fn lend(&self, path: &Path) -> Str {
        let text: Box<str> = path.to_string_lossy().into();
        let lent = Str::new(&text);
        // The text stays where it is when its box is moved into the list.
        self.lent.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(text);
        lent
    }
}

/// Runs `body` on the context; nothing unwinds into the stage.
fn with<T>(ctx: *mut c_void, default: T, body: impl FnOnce(&Context) -> T) -> T {
    // SAFETY: ctx is the context of a live table.
    let context = unsafe { &*ctx.cast::<Context>() };
    catch_unwind(AssertUnwindSafe(|| body(context))).unwrap_or(default)
}

fn fallible(
    ctx: *mut c_void,
    error: *mut abi::Error,
    body: impl FnOnce(&Context) -> Result<(), ServiceError>,
) -> u32 {
    match with(ctx, Err(ServiceError::new("the engine panicked")), body) {
        Ok(()) => status::OK,
        Err(failure) => {
            fill(error, failure.message);
            if failure.is_resource { status::RESOURCE } else { status::IO }
        }
    }
}

fn level_of(code: u32) -> Level {
    match code {
        abi::level::ERROR => Level::Error,
        abi::level::WARN => Level::Warn,
        abi::level::INFO => Level::Info,
        abi::level::DEBUG => Level::Debug,
        _ => Level::Trace,
    }
}

unsafe extern "C" fn log(ctx: *mut c_void, level: u32, message: Str) {
    // SAFETY: borrowed for the call.
    let message = unsafe { message.to_text() };
    with(ctx, (), |context| context.services.log(level_of(level), &message));
}

unsafe extern "C" fn progress(ctx: *mut c_void, done: u64, total: u64, unit: Str) {
    // SAFETY: borrowed for the call.
    let unit = unsafe { unit.to_text() };
    with(ctx, (), |context| context.services.progress(done, total, &unit));
}

unsafe extern "C" fn metric(ctx: *mut c_void, name: Str, value: f64, step: u64) {
    // SAFETY: borrowed for the call.
    let name = unsafe { name.to_text() };
    with(ctx, (), |context| context.services.metric(&name, value, step));
}

unsafe extern "C" fn is_cancelled(ctx: *mut c_void) -> i32 {
    with(ctx, 1, |context| i32::from(context.services.is_cancelled()))
}

unsafe extern "C" fn checkpoint_latest(
    ctx: *mut c_void,
    out_dir: *mut Str,
    out_step: *mut u64,
    error: *mut abi::Error,
) -> u32 {
    fallible(ctx, error, |context| {
        let latest = context.services.checkpoint_latest()?;
        let (dir, step) = latest.map_or((Str::EMPTY, 0), |(dir, step)| (context.lend(&dir), step));
        // SAFETY: the stage passes places to write to.
        unsafe {
            out_dir.write(dir);
            out_step.write(step);
        }
        Ok(())
    })
}

unsafe extern "C" fn checkpoint_begin(
    ctx: *mut c_void,
    step: u64,
    out_dir: *mut Str,
    error: *mut abi::Error,
) -> u32 {
    fallible(ctx, error, |context| {
        let dir = context.services.checkpoint_begin(step)?;
        // SAFETY: the stage passes a place to write to.
        unsafe { out_dir.write(context.lend(&dir)) };
        Ok(())
    })
}

unsafe extern "C" fn checkpoint_commit(ctx: *mut c_void, step: u64, error: *mut abi::Error) -> u32 {
    fallible(ctx, error, |context| context.services.checkpoint_commit(step))
}

unsafe extern "C" fn scratch_dir(
    ctx: *mut c_void,
    out_dir: *mut Str,
    error: *mut abi::Error,
) -> u32 {
    fallible(ctx, error, |context| {
        let dir = context.services.scratch_dir()?;
        // SAFETY: the stage passes a place to write to.
        unsafe { out_dir.write(context.lend(&dir)) };
        Ok(())
    })
}
