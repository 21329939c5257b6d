//! What a process says and how it ends when memory has run out. Each case is a separate process: this test, told to
//! find no memory.
#![cfg(target_os = "linux")]

use std::alloc::System;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output};

use paraloom_alloc::{EXIT_CODE, OrExit, at_work, exit_when_aborted};

#[global_allocator]
static ALLOCATOR: OrExit = OrExit(System);

/// More than any machine has.
const MUCH: usize = 1 << 60;

const CASE: &str = "PARALOOM_ALLOC_CASE";

/// Runs `case` of the test below in a process with little address space.
fn end_of(case: &str) -> (Output, String) {
    let test = std::env::current_exe().expect("it runs");
    let output = Command::new("sh")
        .args(["-c", "ulimit -v 300000; exec \"$0\" --exact a_case --nocapture"])
        .arg(test)
        .env(CASE, case)
        .output()
        .expect("a shell");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output, said)
}

/// Nothing by itself; a process that finds no memory where [`end_of`] says so.
#[test]
fn a_case() {
    let Ok(case) = std::env::var(CASE) else { return };
    match case.as_str() {
        "alloc" => drop(std::hint::black_box(Vec::<u8>::with_capacity(MUCH))),
        "zeroed" => drop(std::hint::black_box(vec![0_u8; MUCH])),
        "grow" => std::hint::black_box(vec![1_u8]).reserve_exact(MUCH),
        "try" => assert!(std::hint::black_box(Vec::<u8>::new()).try_reserve(MUCH).is_ok()),
        "own" => of_node(&["other", "paraphrases-of-all"], "paraphrases-of-all"),
        "pool" => of_node(&["one", "other"], "pool"),
        "crowd" => of_node(&["a", "b", "c", "d"], "pool"),
        "done" => of_node(&[], "one"),
        "abort" => {
            exit_when_aborted();
            use_all();
            std::process::abort();
        }
        "bug" => {
            exit_when_aborted();
            std::process::abort();
        }
        other => panic!("{other}"),
    }
}

fn of_node(nodes: &[&str], thread: &str) {
    let _at_work: Vec<_> = nodes.iter().map(|node| at_work(node)).collect();
    drop(at_work("one"));
    let thread = std::thread::Builder::new().name(thread.to_owned());
    let find_none = || drop(std::hint::black_box(Vec::<u8>::with_capacity(MUCH)));
    thread.spawn(find_none).expect("there is a thread").join().expect("it does not come back");
}

/// Leaves no address space.
fn use_all() {
    for size in [1 << 20, 1 << 12] {
        // SAFETY: new pages, which nobody uses.
        while unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                size,
                libc::PROT_NONE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        } != libc::MAP_FAILED
        {}
    }
}

#[test]
fn every_way_to_ask_for_memory_ends_with_what_was_needed_and_what_there_was() {
    for case in ["alloc", "zeroed", "grow", "try"] {
        let (output, said) = end_of(case);
        assert_eq!(output.status.code(), Some(i32::from(EXIT_CODE)), "{case}: {said}");
        let needed = if case == "grow" { MUCH + 1 } else { MUCH };
        let (_, after) = said
            .split_once(&format!("out of memory: {needed} bytes are needed, "))
            .unwrap_or_else(|| panic!("{case}: {said}"));
        let free = after.split(' ').next().and_then(|free| free.parse().ok());
        assert!(free.is_some_and(|free: u64| free > 1 << 20 && free < 300_000 << 10), "{said}");
        assert!(said.contains("hint: raise the limit on address space (`ulimit -v`), "), "{said}");
    }
}

#[test]
fn the_node_is_named_or_those_that_it_may_have_been() {
    for (case, place) in [
        ("own", "error: node `paraphrases-of-all`: out of memory: "),
        ("pool", "error: node `one` or `other`: out of memory: "),
        ("crowd", "error: out of memory: "),
        ("done", "error: out of memory: "),
    ] {
        let (_, said) = end_of(case);
        assert!(said.contains(place), "{case}: {said}");
    }
}

/// Rust and the C library abort where they find no memory for themselves.
#[test]
fn an_abort_is_for_want_of_memory_only_if_there_is_none() {
    let (output, said) = end_of("abort");
    assert_eq!(output.status.code(), Some(i32::from(EXIT_CODE)), "{said}");
    assert!(
        said.contains("error: out of memory: ") && said.contains(" bytes are free\n"),
        "{said}"
    );
    let (output, said) = end_of("bug");
    assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{said}");
    assert!(!said.contains("memory"), "{said}");
}
