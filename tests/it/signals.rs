//! A signal stops a run within two seconds at a place from which it goes on; a second one ends it at once.
#![cfg(unix)]

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::common::{Project, results, signal, tiny_with};

/// A run that stops is given this long, as the documentation says.
const PATIENCE: Duration = Duration::from_secs(2);

/// The tiny pipeline with a training that does not end by itself before the signal comes.
fn long() -> Project {
    tiny_with("epochs: 6, batch_size: 4", "steps: 1000, batch_size: 4")
}

/// Starts a run, and returns once `node` has sent an event of this name.
fn run_until(project: &Project, event: &str, node: &str) -> Child {
    let mut command = project.command(&["run", "p.yaml", "--json"]);
    let mut child =
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs");
    let mut lines = BufReader::new(child.stdout.as_mut().expect("a pipe")).lines();
    let wanted = format!("\"event\":\"{event}\",\"node\":\"{node}\"");
    let found = lines.any(|line| line.expect("text").contains(&wanted));
    assert!(found, "the run ended before {node} sent {event}");
    child
}

/// How it ends, what it says, and how long that takes.
fn end(mut child: Child) -> (ExitStatus, String, Duration) {
    let started = Instant::now();
    let (mut events, mut said) = (Vec::new(), String::new());
    child.stdout.take().expect("a pipe").read_to_end(&mut events).expect("it is open");
    child.stderr.take().expect("a pipe").read_to_string(&mut said).expect("it is open");
    (child.wait().expect("it was started"), said, started.elapsed())
}

/// Where a resumed training says that it goes on.
fn resumed_at(project: &Project, node: &str) -> u64 {
    let log = project.ok(&["run", "p.yaml", "--until", node, "--json"]);
    let line = log.lines().find(|line| line.contains("goes on from step")).expect("it resumes");
    let step = line.rsplit("goes on from step ").next().expect("a number");
    step.split('"').next().and_then(|step| step.parse().ok()).expect("a number")
}

/// Wherever the signal comes: the file is whole, or there is none.
#[test]
fn an_export_that_is_stopped_leaves_nothing_half_done() {
    let project =
        Project::new("paraloom: 1\nnodes:\n  rows: { stage: load, with: { from: r.csv } }\n");
    let line = |row: u32| format!("{row},some words of row {row}\n");
    let rows: String = (0..60_000).map(line).collect();
    project.write("r.csv", &format!("n,text\n{rows}"));
    project.ok(&["run", "p.yaml"]);
    for format in ["csv", "parquet"] {
        let (to, part) = (format!("out.{format}"), format!("out.{format}.paraloom-part"));
        let mut command = project.command(&["export", "p.yaml", "rows", "--to", &to]);
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs");
        let is_over = |child: &mut Child| child.try_wait().expect("it is ours").is_some();
        while !project.file(&part).exists() && !is_over(&mut child) {
            std::thread::yield_now();
        }
        if !is_over(&mut child) {
            signal(&child, libc::SIGINT);
        }
        let (status, said, _) = end(child);
        assert!(!project.file(&part).exists(), "{format}: {said}");
        let whole = project.file(&to).exists();
        assert_eq!(whole, status.success(), "{format}: {said}");
        assert!(
            whole || (status.code() == Some(130) && said.contains("nothing was written")),
            "{said}"
        );
    }
}

#[test]
fn a_signal_stops_a_training_at_the_step_at_hand() {
    let straight = long();
    straight.ok(&["run", "p.yaml", "--until", "t5p"]);
    let expected = results(&straight, &["t5p.metrics"], &["t5p"]);
    for (name, code) in [(libc::SIGINT, 130), (libc::SIGTERM, 143), (libc::SIGHUP, 129)] {
        let project = long();
        let child = run_until(&project, "metric", "t5p");
        signal(&child, name);
        let (status, said, took) = end(child);
        assert_eq!(status.code(), Some(code), "{said}");
        assert!(took < PATIENCE, "signal {name}: {took:?}");
        assert!(said.contains("stopped; `paraloom run` goes on from here"), "{said}");
        assert!(resumed_at(&project, "t5p") > 0);
        assert!(results(&project, &["t5p.metrics"], &["t5p"]) == expected, "signal {name}");
    }
}

#[test]
fn a_signal_stops_a_map_stage_after_its_committed_parts() {
    let expected = results(&finished(), &["paraphrases"], &[]);
    let project = crate::common::tiny();
    let child = run_until(&project, "part", "paraphrases");
    signal(&child, libc::SIGTERM);
    let (status, said, took) = end(child);
    // The few rows may have been done before the signal came.
    assert!(matches!(status.code(), Some(143 | 0)), "{said}");
    assert!(took < PATIENCE, "{took:?}");
    let log = project.ok(&["run", "p.yaml", "--json"]);
    assert!(
        log.contains("\"event\":\"part_found\",\"node\":\"paraphrases\"")
            || log.contains("\"event\":\"node_cached\",\"node\":\"paraphrases\""),
        "{log}"
    );
    assert!(results(&project, &["paraphrases"], &[]) == expected);
}

fn finished() -> Project {
    let project = crate::common::tiny();
    project.ok(&["run", "p.yaml"]);
    project
}

/// Both signals are there before the process sees the first, so there is no time for a checkpoint.
#[test]
fn a_second_signal_ends_the_run_at_once() {
    let project = long();
    let child = run_until(&project, "metric", "t5p");
    for name in [libc::SIGSTOP, libc::SIGINT, libc::SIGTERM, libc::SIGCONT] {
        signal(&child, name);
    }
    let (status, said, took) = end(child);
    assert!(matches!(status.code(), Some(130 | 143)), "{status:?}");
    assert!(!said.contains("stopped"), "it took the time to say so: {said}");
    assert!(took < Duration::from_secs(1), "{took:?}");
    project.ok(&["run", "p.yaml", "--until", "t5p"]);
    let straight = long();
    straight.ok(&["run", "p.yaml", "--until", "t5p"]);
    assert!(results(&project, &[], &["t5p"]) == results(&straight, &[], &["t5p"]));
}

/// A new pseudo-terminal: our end and the run's. Neither leaks into other processes, which would keep it open.
#[expect(unsafe_code, reason = "the standard library knows no terminals")]
fn terminal() -> (File, OwnedFd) {
    let ours = File::options().read(true).write(true).open("/dev/ptmx").expect("a terminal");
    let size = libc::winsize { ws_row: 40, ws_col: 120, ws_xpixel: 0, ws_ypixel: 0 };
    let (unlocked, flags) = (0, libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC);
    let fd = ours.as_raw_fd();
    // SAFETY: the descriptor is open, and the calls read what they are given.
    let theirs = unsafe {
        assert_eq!(libc::ioctl(fd, libc::TIOCSPTLCK, &raw const unlocked), 0);
        assert_eq!(libc::ioctl(fd, libc::TIOCSWINSZ, &raw const size), 0);
        libc::ioctl(fd, libc::TIOCGPTPEER, flags)
    };
    assert!(theirs > 2, "the other end");
    // SAFETY: it was just opened, and nobody else has it.
    (ours, unsafe { OwnedFd::from_raw_fd(theirs) })
}

#[test]
#[expect(unsafe_code, reason = "a session of its own is made between fork and exec")]
fn a_closed_terminal_stops_the_run() {
    let project = long();
    let (mut screen, theirs) = terminal();
    let mut command = project.command(&["run", "p.yaml"]);
    let end = || Stdio::from(theirs.try_clone().expect("a descriptor"));
    command.stdin(end()).stdout(end()).stderr(end()).env("TERM", "xterm");
    // SAFETY: both calls are async-signal-safe.
    unsafe {
        command.pre_exec(|| {
            libc::setsid();
            libc::ioctl(0, libc::TIOCSCTTY, 0);
            Ok(())
        });
    }
    let mut child = command.spawn().expect("the binary runs");
    // Only the run has the other end now.
    drop((command, theirs));
    // A bar that names the node and its steps: the training is on its way.
    let mut seen = Vec::new();
    let mut bytes = [0; 4096];
    // More than none of them.
    let is_under_way = |seen: &[u8]| {
        let seen = String::from_utf8_lossy(seen);
        let steps =
            |at: usize| seen[..at].trim_end_matches('0').ends_with(|c: char| c.is_ascii_digit());
        seen.match_indices("/1000 steps").any(|(at, _)| steps(at))
    };
    while !is_under_way(&seen) {
        let read = screen.read(&mut bytes).expect("the terminal is open");
        seen.extend_from_slice(&bytes[..read]);
    }
    let closed = Instant::now();
    drop(screen);
    let status = child.wait().expect("it was started");
    assert_eq!(status.code(), Some(129), "{status:?}");
    assert!(closed.elapsed() < PATIENCE, "{:?}", closed.elapsed());
    assert!(resumed_at(&project, "t5p") > 0);
}
