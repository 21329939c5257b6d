//! Which node finds no memory.

use std::sync::{Mutex, PoisonError, TryLockError};

/// A name and the zero after it: of a longer one, Linux keeps no more.
type Name = [u8; 16];

/// The nodes that this copy of the code works for. A thread of a pool belongs to none of them for long, so it can only be
/// said which ones it may have worked for.
static AT_WORK: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// While it lives, its node is at work.
#[derive(Debug)]
pub struct AtWork(String);

/// Says which node the work that begins now is done for, in its own thread or in those of a pool.
pub fn at_work(node: &str) -> AtWork {
    AT_WORK.lock().unwrap_or_else(PoisonError::into_inner).push(node.to_owned());
    AtWork(node.to_owned())
}

impl Drop for AtWork {
    fn drop(&mut self) {
        let mut nodes = AT_WORK.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = nodes.iter().position(|node| *node == self.0) {
            nodes.swap_remove(at);
        }
    }
}

/// Writes which node finds no memory, as far as that can be said.
pub(crate) fn write(text: &mut impl std::fmt::Write) {
    // Whoever holds it may be this thread, which then finds no memory for a name.
    match AT_WORK.try_lock() {
        Ok(nodes) => write_one(text, &nodes, thread_name()),
        Err(TryLockError::Poisoned(nodes)) => write_one(text, &nodes.into_inner(), thread_name()),
        Err(TryLockError::WouldBlock) => {}
    }
}

/// Writes the node whose thread it is, or else those that it may have worked for.
fn write_one(text: &mut impl std::fmt::Write, nodes: &[String], thread: Option<Name>) {
    let Some(thread) = thread else { return };
    let own = nodes.iter().find(|node| cut(node) == thread).map(std::slice::from_ref);
    let may_be = own.unwrap_or(nodes);
    if may_be.is_empty() || may_be.len() > MANY {
        return;
    }
    for (at, node) in may_be.iter().enumerate() {
        let _ = write!(text, "{}`{node}`", if at == 0 { "node " } else { " or " });
    }
    let _ = text.write_str(": ");
}

/// More nodes say nothing of the place.
const MANY: usize = 3;

fn cut(name: &str) -> Name {
    let mut cut = Name::default();
    let fits = name.len().min(cut.len() - 1);
    cut[..fits].copy_from_slice(&name.as_bytes()[..fits]);
    cut
}

/// The name of this thread, which is that of its node if it has one; `None` for the main thread.
#[cfg(target_os = "linux")]
fn thread_name() -> Option<Name> {
    let mut name = Name::default();
    // SAFETY: neither can fail, and what is written has 16 bytes at most.
    unsafe {
        if libc::gettid() == libc::getpid() {
            return None;
        }
        libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr());
    }
    // What follows the end of a name may be anything.
    Some(cut(std::ffi::CStr::from_bytes_until_nul(&name).ok()?.to_str().ok()?))
}

#[cfg(not(target_os = "linux"))]
fn thread_name() -> Option<Name> {
    let mut name = [0; 64];
    // SAFETY: no thread ends here, and what is written has the length that is given at most.
    unsafe {
        if libc::pthread_main_np() != 0 {
            return None;
        }
        libc::pthread_getname_np(libc::pthread_self(), name.as_mut_ptr().cast(), name.len());
    }
    Some(cut(std::ffi::CStr::from_bytes_until_nul(&name).ok()?.to_str().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_node_is_that_of_the_thread_or_one_of_those_at_work() {
        let said = |nodes: &[&str], thread: Option<&str>| {
            let nodes: Vec<_> = nodes.iter().map(ToString::to_string).collect();
            let mut text = String::new();
            write_one(&mut text, &nodes, thread.map(cut));
            text
        };
        // Of a long name the system keeps 15 bytes, wherever they end.
        let long = "umschreibungen-für-alle";
        assert_eq!(said(&["other", long], Some(long)), format!("node `{long}`: "));
        assert_eq!(cut(long)[14..], *b"-\0");
        assert_eq!(said(&["one"], Some("pool")), "node `one`: ");
        assert_eq!(said(&["one", "other"], Some("pool")), "node `one` or `other`: ");
        for (nodes, thread) in
            [(&["a", "b", "c", "d"][..], Some("pool")), (&[], Some("pool")), (&["one"], None)]
        {
            assert_eq!(said(nodes, thread), "", "{nodes:?} {thread:?}");
        }
    }

    #[test]
    fn a_thread_has_its_name_and_nodes_are_at_work_for_a_while() {
        let said = || {
            let mut text = String::new();
            write(&mut text);
            text
        };
        let named = |name: &str, said: &(dyn Fn() -> String + Sync)| {
            let thread = std::thread::Builder::new().name(name.to_owned());
            std::thread::scope(|scope| {
                let thread = thread.spawn_scoped(scope, said).expect("there is a thread");
                thread.join().expect("no panic")
            })
        };
        let work = [at_work("one"), at_work("another")];
        assert_eq!(named("another", &said), "node `another`: ");
        assert_eq!(named("third", &said), "node `one` or `another`: ");
        let held = AT_WORK.lock().expect("no panic");
        assert_eq!(named("one", &said), "", "a name may just be put in");
        drop((held, work));
        assert_eq!(named("one", &said), "");
    }
}
