//! An allocator that says so when memory has run out, and ends the process with an exit code of its own.
//!
//! Without it Rust ends the process by SIGABRT, which tells nobody what to do. It cannot be made an error like others: code
//! that asks for memory has no way to be told that there is none. So the whole process ends, as after a kill: what was
//! committed stays, and the next run goes on from there.
//!
//! Every stage library has a copy of its own, since it has its own copy of Rust's allocator.

mod heap;
mod lines;
mod place;
mod room;

use std::alloc::{GlobalAlloc, Layout, System};
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};

pub use heap::keep_what_is_freed;
pub use lines::CacheLines;
pub use place::{AtWork, at_work};
use room::Room;

/// The exit code of a process that finds no memory, or no room on a disk.
pub const EXIT_CODE: u8 = 11;

/// Asks the allocator that it wraps; where that has no memory, writes an error to stderr and ends the process.
///
/// What would go on without the memory, as [`Vec::try_reserve`] lets it, is not asked.
#[derive(Clone, Copy, Debug, Default)]
pub struct OrExit<A = System>(pub A);

// SAFETY: every method is that of the wrapped allocator; that it may not return changes nothing for its caller.
unsafe impl<A: GlobalAlloc> GlobalAlloc for OrExit<A> {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract.
        or_exit(unsafe { self.0.alloc(layout) }, layout.size())
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract.
        or_exit(unsafe { self.0.alloc_zeroed(layout) }, layout.size())
    }

    #[inline]
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller keeps the contract.
        or_exit(unsafe { self.0.realloc(pointer, layout, size) }, size)
    }

    #[inline]
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract.
        unsafe { self.0.dealloc(pointer, layout) }
    }
}

#[inline]
fn or_exit(pointer: *mut u8, needed: usize) -> *mut u8 {
    if pointer.is_null() {
        exit(Some(needed), room::least());
    }
    pointer
}

/// Bytes that this process may still have, by the tightest limit; `None` where nobody says.
pub fn free() -> Option<u64> {
    room::least().map(|room| room.free)
}

/// Bytes of physical memory that this process has now; `None` where nobody says.
pub fn resident() -> Option<u64> {
    room::resident()
}

/// Bytes of memory of the machine; `None` where nobody says.
pub fn machine() -> Option<u64> {
    room::machine()
}

/// Ends a process that aborts for want of memory in the same way. Rust and the C library abort where they find none for the
/// few bytes that a thread begins or ends with; that it was this can only be told from how little is left.
pub fn exit_when_aborted() {
    // SAFETY: the handler only does what a handler may do.
    unsafe { libc::signal(libc::SIGABRT, aborted as *const () as libc::sighandler_t) };
}

/// With less than this, neither a heap grows nor a thread starts.
const LITTLE: u64 = 2 << 20;

extern "C" fn aborted(signal: libc::c_int) {
    match room::least() {
        Some(room) if room.free < LITTLE => exit(None, Some(room)),
        // SAFETY: the signal comes again when this returns, and then ends the process.
        _ => unsafe {
            libc::signal(signal, libc::SIG_DFL);
            libc::raise(signal);
        },
    }
}

/// Tells and ends the process, without any memory but the stack's.
#[cold]
#[inline(never)]
fn exit(needed: Option<usize>, room: Option<Room>) -> ! {
    static TOLD: AtomicBool = AtomicBool::new(false);
    if TOLD.swap(true, Ordering::AcqRel) {
        // Another thread is about to end the process; one message is enough.
        loop {
            // SAFETY: it takes nothing and changes nothing.
            unsafe { libc::pause() };
        }
    }
    let mut text = Text::<1024>::default();
    // SAFETY: the bytes are there, and nothing runs after the end.
    unsafe {
        if libc::isatty(libc::STDERR_FILENO) == 1 {
            // The cursor may be at the end of a line that shows progress.
            let _ = text.write_str("\n");
        }
        let _ = text.write_str("error: ");
        place::write(&mut text);
        tell(&mut text, needed, room);
        libc::write(libc::STDERR_FILENO, text.bytes().as_ptr().cast(), text.bytes().len());
        libc::_exit(i32::from(EXIT_CODE))
    }
}

fn tell(text: &mut impl std::fmt::Write, needed: Option<usize>, room: Option<Room>) {
    let _ = text.write_str("out of memory");
    let _ = match (needed, room) {
        (Some(needed), Some(Room { free, .. })) => {
            write!(text, ": {needed} bytes are needed, {free} are free")
        }
        (Some(needed), None) => write!(text, ": {needed} bytes are needed"),
        (None, Some(Room { free, .. })) => write!(text, ": {free} bytes are free"),
        (None, None) => Ok(()),
    };
    let remedy = room.map_or("allow more memory", |room| room.of.remedy());
    let _ = write!(
        text,
        "\nhint: {remedy}, or lower batch_size or --jobs, and run again: what is done stays\n"
    );
}

/// Text on the stack; what is too much is left out.
struct Text<const N: usize> {
    bytes: [u8; N],
    used: usize,
}

impl<const N: usize> Default for Text<N> {
    fn default() -> Self {
        Self { bytes: [0; N], used: 0 }
    }
}

impl<const N: usize> Text<N> {
    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.used]
    }

    #[cfg(target_os = "linux")]
    fn as_str(&self) -> &str {
        str::from_utf8(self.bytes()).unwrap_or_default()
    }
}

impl<const N: usize> std::fmt::Write for Text<N> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let room = &mut self.bytes[self.used..];
        let fits = text.len().min(room.len());
        room[..fits].copy_from_slice(&text.as_bytes()[..fits]);
        self.used += fits;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use room::Limit;

    #[test]
    fn a_message_says_what_is_known_and_what_to_do() {
        let said = |needed, room| {
            let mut text = String::new();
            tell(&mut text, needed, room);
            text
        };
        let way_out = ", or lower batch_size or --jobs, and run again: what is done stays\n";
        for (of, remedy) in [
            (Limit::AddressSpace, "raise the limit on address space (`ulimit -v`)"),
            (Limit::Data, "raise the limit on data (`ulimit -d`)"),
            (Limit::Promises, "raise `vm.overcommit_ratio`"),
            (Limit::Group, "raise the memory limit of the container"),
            (Limit::Machine, "end other programs"),
        ] {
            let room = Some(Room { free: 5, of });
            let hint = format!("\nhint: {remedy}{way_out}");
            let all = format!("out of memory: 7 bytes are needed, 5 are free{hint}");
            assert_eq!(said(Some(7), room), all);
            assert_eq!(said(None, room), format!("out of memory: 5 bytes are free{hint}"));
        }
        let hint = format!("\nhint: allow more memory{way_out}");
        assert_eq!(said(Some(7), None), format!("out of memory: 7 bytes are needed{hint}"));
        assert_eq!(said(None, None), format!("out of memory{hint}"));
    }

    #[test]
    fn text_that_does_not_fit_is_cut_short() {
        let mut text = Text::<8>::default();
        let _ = write!(text, "{}, {}", 12345, 678);
        assert_eq!(text.bytes(), b"12345, 6");
        assert_eq!(text.as_str(), "12345, 6");
    }
}
