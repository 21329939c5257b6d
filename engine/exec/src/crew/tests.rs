//! Many orders in which threads may come. A thread that is not woken is a deadlock here: nobody looks at the clock.

use paraloom_store::{Digest, Preimage, Store};
use shuttle::sync::atomic::AtomicUsize;
use shuttle::thread;

use super::*;
use crate::lookup::TableRef;
use crate::schedule::{Input, Work};

fn in_any_order(test: impl Fn(&Entry) + Send + Sync + 'static) {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::create(dir.path()).expect("an empty directory");
    let entry = store.entry(&Preimage::default().key());
    let orders = std::env::var("PARALOOM_ORDERS").ok().and_then(|text| text.parse().ok());
    shuttle::check_random(move || test(&entry), orders.unwrap_or(1_000));
}

fn key(text: &str) -> Key {
    Preimage::default().with("is", text).key()
}

fn part(number: u8) -> PartFile {
    PartFile { digest: Digest::of(&[number]), bytes: 1, rows: 1 }
}

fn index(node: usize) -> NodeIndex {
    NodeIndex::new(node)
}

fn result(entry: &Entry, parts: Vec<PartFile>) -> NodeResult {
    let schema = std::sync::Arc::new(arrow::datatypes::Schema::empty());
    let table = TableRef { entry: entry.clone(), schema, parts: parts.into() };
    NodeResult { key: key("any"), ports: vec![PortResult::Table(table)], took_ms: None }
}

/// 0 makes a table of two parts; 1 and 2 map it, 3 maps what 2 makes, and 4 reads 1 and 3 whole.
fn crew(keep_going: bool) -> Crew<usize> {
    let input =
        |from, is_mapped| Input { from: Endpoint { node: index(from), port: 0 }, is_mapped };
    let nodes: Vec<_> = (0..5).map(index).collect();
    let schedule = Schedule::new(&nodes, |node| match node.index() {
        1 | 2 => vec![input(0, true)],
        3 => vec![input(2, true)],
        4 => vec![input(1, false), input(3, false)],
        _ => Vec::new(),
    });
    Crew::new(schedule, keep_going)
}

/// A worker that does as those of a run do. The nodes 1 and 2 have one key.
fn work(crew: &Crew<usize>, entry: &Entry, failing: Option<usize>, at_work: &AtomicUsize) {
    while let Some((task, mapped)) = crew.next() {
        let node = task.node.index();
        let name = if node == 2 { 1 } else { node }.to_string();
        let Some(mut mapped) = crew.claim(task.node, &key(&name), mapped.unwrap_or(0)) else {
            continue;
        };
        let before = at_work.fetch_add(1, Ordering::SeqCst);
        assert!(before < 3, "more at work than there are workers");
        run(crew, entry, task, failing, &mut mapped);
        at_work.fetch_sub(1, Ordering::SeqCst);
    }
}

fn run(crew: &Crew<usize>, entry: &Entry, task: Task, failing: Option<usize>, mapped: &mut usize) {
    let (node, mut work) = (task.node, task.work);
    let from = Endpoint { node, port: 0 };
    if failing == Some(node.index()) {
        return crew.failed(node);
    }
    loop {
        match work {
            Work::Whole => {
                let parts = if node.index() == 0 { vec![part(0), part(1)] } else { Vec::new() };
                parts.iter().for_each(|part| crew.part_made(from, entry, *part));
                return crew.done(node, result(entry, parts));
            }
            Work::Part(number) => {
                assert_eq!(number, *mapped, "each part once, in order");
                let source = index(if node.index() == 3 { 2 } else { 0 });
                let source = Endpoint { node: source, port: 0 };
                let (_, part) = crew.part(source, number).expect("it was made");
                crew.part_made(from, entry, part);
                crew.part_mapped(node);
                *mapped += 1;
            }
            Work::Finish => {
                assert_eq!(*mapped, 2);
                return crew.done(node, result(entry, vec![part(0), part(1)]));
            }
        }
        match crew.more(node) {
            Some(next) => work = next.work,
            None => return crew.park(node, *mapped),
        }
    }
}

fn done(crew: &Crew<usize>) -> Vec<usize> {
    let results = crew.results();
    (0..5).filter(|node| results.node(index(*node)).is_some()).collect()
}

fn run_all(crew: &Crew<usize>, entry: &Entry, failing: Option<usize>) {
    let at_work = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| work(crew, entry, failing, &at_work));
        }
    });
}

#[test]
fn everything_is_done_and_every_worker_ends() {
    in_any_order(|entry| {
        let crew = crew(false);
        run_all(&crew, entry, None);
        assert_eq!(done(&crew), [0, 1, 2, 3, 4]);
        assert!(crew.take_parked().is_empty());
    });
}

#[test]
fn after_a_failure_every_worker_ends() {
    in_any_order(|entry| {
        let crew = crew(false);
        run_all(&crew, entry, Some(2));
        assert!(!done(&crew).contains(&3) && crew.should_stop());
    });
}

#[test]
fn with_keep_going_the_rest_is_done() {
    in_any_order(|entry| {
        let crew = crew(true);
        run_all(&crew, entry, Some(2));
        assert_eq!(done(&crew), [0, 1]);
    });
}

#[test]
fn whoever_waits_hears_that_the_run_stops() {
    in_any_order(|entry| {
        let crew = crew(false);
        let at_work = AtomicUsize::new(0);
        thread::scope(|scope| {
            scope.spawn(|| work(&crew, entry, None, &at_work));
            scope.spawn(|| work(&crew, entry, None, &at_work));
            scope.spawn(|| crew.stop());
        });
        assert!(crew.should_stop());
    });
}

/// Another process computes the result of 0 at first.
#[test]
fn what_is_locked_is_tried_again_at_each_tick() {
    in_any_order(|entry| {
        let crew = crew(false);
        let (at_work, is_over) =
            (AtomicUsize::new(0), shuttle::sync::atomic::AtomicBool::new(false));
        thread::scope(|scope| {
            let (task, _) = crew.next().expect("0 is ready");
            assert_eq!(task.node, index(0));
            crew.claim(task.node, &key("0"), 0).expect("nobody else has it");
            crew.locked(task.node, 0);
            let worker = scope.spawn(|| {
                work(&crew, entry, None, &at_work);
                is_over.store(true, Ordering::SeqCst);
            });
            while !is_over.load(Ordering::SeqCst) {
                crew.tick();
                thread::yield_now();
            }
            worker.join().expect("no panic");
        });
        assert_eq!(done(&crew), [0, 1, 2, 3, 4]);
    });
}
