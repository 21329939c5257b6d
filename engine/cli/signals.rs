//! Signals: the first asks the run to stop at its next safe point, the second ends the
//! process at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::{flag, low_level};

/// Which signal came, if any.
#[derive(Clone, Debug, Default)]
pub(crate) struct Signals(Arc<AtomicUsize>);

/// A file size limit is an error of the write, not the end of the process: for every command.
pub(crate) fn survive_file_size_limit() {
    let _ = flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)));
}

impl Signals {
    /// Lets signals set `cancel`. A system that refuses handlers keeps its defaults: the
    /// run can be killed anyway.
    #[expect(unsafe_code, reason = "a handler of our own")]
    pub(crate) fn listen(cancel: &Arc<AtomicBool>) -> Self {
        let signals = Self::default();
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            let (cancel, came) = (Arc::clone(cancel), Arc::clone(&signals.0));
            let handle = move || {
                came.store(signal as usize, Ordering::Release);
                // In one step: two signals may be handled at the same time, by two threads.
                if cancel.swap(true, Ordering::AcqRel) {
                    low_level::exit(128 + signal);
                }
            };
            // SAFETY: stores and an exit without any clearing up are what a handler may do.
            let _ = unsafe { low_level::register(signal, handle) };
        }
        signals
    }

    /// The exit code of the signal that came: 130 for Ctrl-C, 143 for SIGTERM.
    pub(crate) fn exit_code(&self) -> u8 {
        match self.0.load(Ordering::Acquire) {
            0 => crate::error::NODE_FAILED,
            signal => 128 + signal as u8,
        }
    }
}
