//! What a run does around its stages: failures, retries, rejected rows, requests to stop, panics.

mod common;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::array::{AsArray, RecordBatch};
use common::{Act, Bench, failure, n};
use paraloom_exec::{RunError, RunOptions};
use paraloom_host::HostError;
use paraloom_store::Event;
use proptest::prelude::*;

fn pipeline(rows: usize, node: &str) -> String {
    format!(
        "paraloom: 1\nname: test\npart_rows: 4\nnodes:\n  rows: {{ stage: count, with: {{ rows: {rows} }} }}\n  \
         mapped: {{ stage: picky, inputs: {{ rows: rows }}{node} }}\n"
    )
}

/// A stage that fails on these rows.
fn picky(bad: BTreeSet<i64>, calls: &Arc<AtomicUsize>) -> Act {
    let calls = Arc::clone(calls);
    Act::Map(Box::new(move |rows: &RecordBatch| {
        calls.fetch_add(1, Ordering::Relaxed);
        match n(rows).into_iter().find(|number| bad.contains(number)) {
            Some(number) => Err(failure(&format!("{number} is bad"), false)),
            None => Ok(rows.clone()),
        }
    }))
}

fn bench(rows: usize, node: &str, bad: &[i64]) -> Bench {
    let bad = bad.iter().copied().collect();
    let picky = picky(bad, &Arc::default());
    Bench::new(&pipeline(rows, node), vec![("count", Act::Count), ("picky", picky)])
}

#[test]
fn a_bad_row_fails_its_node_unless_it_is_to_be_rejected() {
    let bench = bench(10, "", &[6]);
    let error = bench.run().expect_err("6 is bad");
    assert_eq!(error.to_string(), "node `mapped`: 6 is bad");
    assert_eq!(bench.numbers("mapped"), None);
}

#[test]
fn bad_rows_go_to_a_table_of_their_own() {
    let bench = bench(10, ", on_error: reject", &[0, 6, 7]);
    bench.run().expect("the others are good");
    assert_eq!(bench.numbers("mapped"), Some(vec![1, 2, 3, 4, 5, 8, 9]));
    assert_eq!(bench.numbers("mapped.rejected"), Some(vec![0, 6, 7]));
    let rejected = bench.table("mapped.rejected").expect("it is done");
    let reasons: Vec<_> =
        rejected.column_by_name("reason").expect("it has one").as_string::<i32>().iter().collect();
    assert_eq!(reasons, [Some("0 is bad"), Some("6 is bad"), Some("7 is bad")]);
    let told = bench.events();
    let told = told.iter().filter(|event| matches!(event, Event::RowRejected { .. }));
    assert_eq!(told.count(), 3);
    // Nothing is left to do, and the ids are those of the rows.
    assert_eq!(bench.run().expect("it is done").worked, 0);
    let ids = |table: &str| -> BTreeSet<String> {
        let table = bench.table(table).expect("it is done");
        let ids = table.column_by_name("_id").expect("it has ids").as_string::<i32>();
        ids.iter().flatten().map(str::to_owned).collect()
    };
    let all: BTreeSet<_> = ids("mapped").union(&ids("mapped.rejected")).cloned().collect();
    assert_eq!(all, ids("rows"));
}

/// However many rows are bad, the log stays short, and the table has them all.
#[test]
fn of_many_bad_rows_the_first_are_told() {
    let bad: Vec<_> = (0..1500).collect();
    let bench = bench(1500, ", on_error: reject", &bad);
    bench.run().expect("they are rejected");
    assert_eq!(bench.numbers("mapped.rejected").map(|rows| rows.len()), Some(1500));
    let events = bench.events();
    let told = events.iter().filter(|event| matches!(event, Event::RowRejected { .. }));
    assert_eq!(told.count(), 1000);
    let said = events.iter().filter(|event| {
        matches!(event, Event::Log { message, .. } if message.contains("`rejected` has them all"))
    });
    assert_eq!(said.count(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn every_row_is_mapped_or_rejected(
        rows in 0..30_usize,
        bad in prop::collection::btree_set(0..30_i64, 0..8),
    ) {
        let calls = Arc::default();
        let text = pipeline(rows, ", on_error: reject");
        let stages = vec![("count", Act::Count), ("picky", picky(bad.clone(), &calls))];
        let bench = Bench::new(&text, stages);
        bench.run().expect("bad rows are rejected");
        let (bad, good): (Vec<_>, Vec<_>) = (0..rows as i64).partition(|row| bad.contains(row));
        prop_assert_eq!(bench.numbers("mapped"), Some(good));
        prop_assert_eq!(bench.numbers("mapped.rejected"), Some(bad.clone()));
        // A part is halved towards each of its bad rows: parts have 4 rows.
        prop_assert!(calls.load(Ordering::Relaxed) <= rows.div_ceil(4) + 4 * bad.len());
    }
}

/// A stage that fails so often, with an error that may pass.
fn flaky(times: usize, calls: &Arc<AtomicUsize>) -> Act {
    let calls = Arc::clone(calls);
    Act::Map(Box::new(move |rows: &RecordBatch| {
        if calls.fetch_add(1, Ordering::Relaxed) < times {
            return Err(failure("busy", true));
        }
        Ok(rows.clone())
    }))
}

#[test]
fn what_may_pass_is_tried_again_as_often_as_the_node_says() {
    for (times, node, calls_wanted) in [(1, "", 2), (1, ", retries: 0", 1), (2, ", retries: 1", 2)]
    {
        let calls = Arc::default();
        let stages = vec![("count", Act::Count), ("picky", flaky(times, &calls))];
        let bench = Bench::new(&pipeline(3, node), stages);
        let outcome = bench.run();
        assert_eq!(calls.load(Ordering::Relaxed), calls_wanted, "{node}");
        assert_eq!(outcome.is_ok(), calls_wanted > times, "{node}");
        let retries: Vec<_> = bench
            .events()
            .into_iter()
            .filter_map(|event| match event {
                Event::Retry { attempt, message, .. } => Some((attempt, message)),
                _ => None,
            })
            .collect();
        assert_eq!(retries.len(), calls_wanted - 1);
        assert!(retries.iter().all(|retry| *retry == (2, "busy".to_owned())), "{retries:?}");
    }
}

#[test]
fn a_stage_that_says_it_was_cancelled_has_failed_unless_somebody_asked() {
    let cancelled =
        || HostError::Stage(paraloom_host::StageFailure { status: 7, ..Default::default() });
    assert!(matches!(cancelled(), HostError::Stage(failure) if failure.is_cancelled()));
    let act = Act::Map(Box::new(move |_: &RecordBatch| Err(cancelled())));
    let bench = Bench::new(&pipeline(3, ""), vec![("count", Act::Count), ("picky", act)]);
    let error = bench.run().expect_err("it failed");
    assert!(error.to_string().contains("nobody had asked it to stop"), "{error}");
    bench.cancel.set();
    assert!(matches!(bench.run(), Err(RunError::Stopped)));
}

#[test]
fn a_panic_is_an_error_that_names_the_node() {
    let act = Act::Map(Box::new(|_: &RecordBatch| panic!("no way")));
    let bench = Bench::new(&pipeline(3, ""), vec![("count", Act::Count), ("picky", act)]);
    let error = bench.run().expect_err("it panicked").to_string();
    assert!(error.contains("`mapped`") && error.contains("no way"), "{error}");
}

#[test]
fn with_keep_going_the_rest_is_done_and_every_failure_told() {
    let text = "\
paraloom: 1
nodes:
  rows: { stage: count, with: { rows: 3 } }
  a: { stage: picky, inputs: { rows: rows } }
  b: { stage: picky, inputs: { rows: rows }, with: { rows: 1 } }
  c: { stage: good, inputs: { rows: rows } }
  after: { stage: good, inputs: { rows: a } }
";
    let good = Act::Map(Box::new(|rows: &RecordBatch| Ok(rows.clone())));
    let bad = picky([1].into_iter().collect(), &Arc::default());
    let stages = vec![("count", Act::Count), ("picky", bad), ("good", good)];
    let mut bench = Bench::new(text, stages);
    bench.options = RunOptions { keep_going: true, jobs: 2, ..RunOptions::default() };
    let error = bench.run().expect_err("two nodes fail");
    let RunError::Several(errors) = &error else { panic!("{error}") };
    assert_eq!(errors.len(), 2, "{error}");
    assert_eq!(bench.numbers("c"), Some(vec![0, 1, 2]));
    assert_eq!(bench.numbers("after"), None);
}

/// Two nodes of one key compute it once, whoever comes first.
#[test]
fn what_two_nodes_have_in_common_is_computed_once() {
    let text = "\
paraloom: 1
part_rows: 2
nodes:
  rows: { stage: count, with: { rows: 9 } }
  a: { stage: slow, inputs: { rows: rows } }
  b: { stage: slow, inputs: { rows: rows } }
  c: { stage: slow, inputs: { rows: a } }
";
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let slow = Act::Map(Box::new(move |rows: &RecordBatch| {
        counted.fetch_add(1, Ordering::Relaxed);
        std::thread::yield_now();
        Ok(rows.clone())
    }));
    let mut bench = Bench::new(text, vec![("count", Act::Count), ("slow", slow)]);
    bench.options.jobs = 4;
    bench.run().expect("all is good");
    for table in ["a", "b", "c"] {
        assert_eq!(bench.numbers(table), Some((0..9).collect()), "{table}");
    }
    assert_eq!(calls.load(Ordering::Relaxed), 5, "five parts, once each");
}
