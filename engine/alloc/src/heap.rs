//! How the C library's allocator treats large blocks.

/// Keeps what is freed for what is asked for next.
///
/// Training frees and asks for the same hundreds of megabytes in every step. Given back to the system and fetched again,
/// page by page, they cost as much time as the arithmetic. So large blocks come from the heap, and there is one heap for
/// all threads, since those that glibc makes for further threads are too small for them.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn keep_what_is_freed() {
    for (parameter, value) in
        [(libc::M_ARENA_MAX, 1), (libc::M_MMAP_MAX, 0), (libc::M_TRIM_THRESHOLD, -1)]
    {
        // SAFETY: these parameters take any number; one that is refused leaves things as they are.
        unsafe { libc::mallopt(parameter, value) };
    }
}

/// Elsewhere the allocator does as it likes.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn keep_what_is_freed() {}
