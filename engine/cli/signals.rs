//! Signals: the first asks the run to stop at its next safe point, the second ends the
//! process at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::flag;

/// The signals that stop a run, and which of them came.
#[derive(Clone, Debug)]
pub(crate) struct Signals([(i32, Arc<AtomicBool>); 3]);

/// Ignores SIGXFSZ, so that exceeding a file size limit is an error of the write (EFBIG) in every command.
pub(crate) fn survive_file_size_limit() {
    let _ = flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)));
}

impl Signals {
    /// Lets signals set `cancel`. A system that refuses handlers keeps its defaults: the
    /// run can be killed anyway.
    pub(crate) fn listen(cancel: &Arc<AtomicBool>) -> Self {
        let signals = Self([SIGINT, SIGTERM, SIGHUP].map(|signal| (signal, Arc::default())));
        for (signal, came) in &signals.0 {
            let end_if = |came: &Arc<AtomicBool>| {
                let _ =
                    flag::register_conditional_shutdown(*signal, 128 + signal, Arc::clone(came));
            };
            end_if(came);
            let _ = flag::register(*signal, Arc::clone(came));
            // After the flag is set, so that of two signals handled concurrently at least one sees the other.
            for (_, came) in signals.0.iter().filter(|(other, _)| other != signal) {
                end_if(came);
            }
            let _ = flag::register(*signal, Arc::clone(cancel));
        }
        signals
    }

    /// The exit code of the signal that came: 130 for Ctrl-C, 143 for SIGTERM.
    pub(crate) fn exit_code(&self) -> u8 {
        let came = self.0.iter().find(|(_, came)| came.load(Ordering::Acquire));
        came.map_or(crate::error::NODE_FAILED, |(signal, _)| 128 + *signal as u8)
    }
}
