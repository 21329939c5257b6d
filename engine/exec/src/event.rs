//! Receiving the events of a run.

use paraloom_store::{Event, Logged};

/// Receives events, from any thread.
pub type Observer<'a> = &'a (dyn Fn(&Logged) + Sync);

/// Tells an observer of something that happens outside of a run.
pub(crate) fn tell(observer: Observer, event: Event) {
    observer(&Logged::now(None, event));
}
