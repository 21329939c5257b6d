//! Many orders in which threads may come. A wait that nobody ends is a deadlock here.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use shuttle::thread;

use super::*;

fn in_any_order(test: impl Fn() + Send + Sync + 'static) {
    let orders = std::env::var("PARALOOM_ORDERS").ok().and_then(|text| text.parse().ok());
    shuttle::check_random(test, orders.unwrap_or(500));
}

/// As [`super::committing`], with threads whose order is chosen, of which there are at most so many; and what was published.
fn committing<'j, R>(
    most: usize,
    act: impl FnOnce(&Commits<'_, 'j, usize>) -> R,
) -> (R, Vec<usize>) {
    let line = Line::new("node");
    let told = std::sync::Mutex::new(Vec::new());
    let publish = |number: &usize| told.lock().expect("nobody panics").push(*number);
    let threads = AtomicUsize::new(0);
    let done = thread::scope(|scope| {
        let grow = || {
            let has_room = threads.fetch_add(1, Ordering::SeqCst) < most;
            if has_room {
                scope.spawn(|| line.work(&publish));
            }
            has_room
        };
        let _closed_at_the_end = Closing(&line);
        act(&Commits { line: &line, publish: &publish, grow: &grow })
    });
    (done, told.into_inner().expect("nobody panics"))
}

fn failed(what: &str) -> RunError {
    RunError::Internal { what: what.to_owned() }
}

/// With threads, with too few of them and with none; what was committed before is in between.
#[test]
fn all_is_published_once_and_in_order() {
    for threads in [0, 1, 3, usize::MAX] {
        in_any_order(move || {
            let (kept, told) = committing(threads, |commits| {
                let mut kept = Vec::new();
                for number in 0..7 {
                    if number % 3 == 2 {
                        commits.put(number);
                    } else {
                        let commit = move || {
                            thread::yield_now();
                            Ok(number)
                        };
                        commits.start(1, commit);
                    }
                    kept.extend(commits.published());
                    if number == 4 {
                        kept.extend(commits.wait().expect("none fails"));
                        assert_eq!(kept, [0, 1, 2, 3, 4]);
                    }
                }
                kept.extend(commits.wait().expect("none fails"));
                kept
            });
            let wanted: Vec<_> = (0..7).collect();
            assert_eq!((&kept, &told), (&wanted, &wanted));
        });
    }
}

/// Nothing after it is published; what was under way is over all the same, and the error is that of the commit, once.
#[test]
fn of_a_failed_commit_the_error_is_told_and_nothing_behind_it() {
    for panics in [false, true] {
        in_any_order(move || {
            let over = Arc::new(AtomicUsize::new(0));
            let ((), told) = committing(usize::MAX, |commits| {
                let mut begun = 0;
                for number in 0..5 {
                    begun += 1;
                    let over = Arc::clone(&over);
                    let commit = move || {
                        thread::yield_now();
                        over.fetch_add(1, Ordering::SeqCst);
                        match number {
                            2 if panics => std::panic::panic_any("no room"),
                            2 => Err(failed("no room")),
                            _ => Ok(number),
                        }
                    };
                    commits.start(1, commit);
                    if commits.has_failed() {
                        break;
                    }
                }
                let error = commits.wait().expect_err("one failed").to_string();
                assert!(error.contains("no room"), "{error}");
                assert_eq!(over.load(Ordering::SeqCst), begun);
                commits.wait().expect("it is told");
            });
            assert_eq!(told, [0, 1]);
        });
    }
}

#[test]
fn so_many_are_under_way_at_most_and_with_so_many_bytes() {
    for (bytes, most) in [
        (1, MOST),
        (MOST_BYTES / 4, 4),
        (MOST_BYTES / 2 + 1, 1),
        (MOST_BYTES, 1),
        (MOST_BYTES + 1, 1),
        (usize::MAX / 2, 1),
    ] {
        let seen = Arc::new(AtomicUsize::new(0));
        let all = Arc::clone(&seen);
        in_any_order(move || {
            let now = Arc::new(AtomicUsize::new(0));
            let (all, caller) = (&all, thread::current().id());
            committing(usize::MAX, |commits| {
                for number in 0..MOST + 4 {
                    let (now, all) = (Arc::clone(&now), Arc::clone(all));
                    let commit = move || {
                        let at_once = now.fetch_add(1, Ordering::SeqCst) + 1;
                        assert!(at_once <= most, "{at_once} at once of {bytes} bytes");
                        all.fetch_max(at_once, Ordering::SeqCst);
                        assert_eq!(thread::current().id() == caller, bytes > MOST_BYTES);
                        thread::yield_now();
                        now.fetch_sub(1, Ordering::SeqCst);
                        Ok(number)
                    };
                    commits.start(bytes, commit);
                }
                assert_eq!(commits.wait().expect("none fails").len(), MOST + 4);
            });
        });
        assert!(seen.load(Ordering::SeqCst) >= most.min(3), "{bytes} bytes");
    }
}

#[test]
fn what_was_begun_is_over_at_the_end() {
    in_any_order(|| {
        let over = Arc::new(AtomicUsize::new(0));
        committing(usize::MAX, |commits| {
            for number in 0..4 {
                let over = Arc::clone(&over);
                let commit = move || {
                    thread::yield_now();
                    over.fetch_add(1, Ordering::SeqCst);
                    Ok(number)
                };
                commits.start(1, commit);
            }
        });
        assert_eq!(over.load(Ordering::SeqCst), 4);
    });
}
