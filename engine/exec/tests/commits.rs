//! The parts of a map node are committed while later ones are computed.

mod common;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use arrow::array::RecordBatch;
use common::{Act, Bench};
use paraloom_exec::{RunOptions, Shard};
use paraloom_store::{Event, Operation, Watch};
use proptest::prelude::*;

const PIPELINE: &str = "\
paraloom: 1
part_rows: 1
nodes:
  rows: { stage: count, with: { rows: 40 } }
  mapped: { stage: same, inputs: { rows: rows } }
  again: { stage: other, inputs: { rows: mapped } }
";

/// A stage that gives its rows back, and what it has to say when it is called.
fn same(told: impl Fn() + Send + Sync + 'static) -> Act {
    Act::Map(Box::new(move |rows: &RecordBatch| {
        told();
        Ok(rows.clone())
    }))
}

fn bench(told: impl Fn() + Send + Sync + 'static, shard: Option<Shard>) -> Bench {
    let stages = vec![("count", Act::Count), ("same", same(told)), ("other", same(|| ()))];
    let mut bench = Bench::new(PIPELINE, stages);
    bench.options = RunOptions { share: shard, ..RunOptions::default() };
    bench
}

/// Whether it is a file that is written, and not yet in its place.
fn is_aside(path: &Path) -> bool {
    path.parent().is_some_and(|dir| dir.ends_with("store/tmp"))
}

/// Once it is armed, the first commits wait for each other, and then one of them fails.
#[derive(Debug)]
struct Together {
    is_armed: Arc<AtomicBool>,
    most: usize,
    failing: usize,
    /// For ever, as where no room is left.
    is_lasting: bool,
    came: Mutex<usize>,
    all_there: Condvar,
}

impl Watch for Together {
    fn before(&self, operation: Operation<'_>, path: &Path) -> io::Result<()> {
        let is_commit = matches!(operation, Operation::Sync) && is_aside(path);
        if !is_commit || !self.is_armed.load(Ordering::SeqCst) {
            return Ok(());
        }
        let mut came = self.came.lock().expect("nobody panics");
        let number = *came;
        *came += 1;
        self.all_there.notify_all();
        let is_missing = |came: &mut usize| *came < self.most;
        let wait = self.all_there.wait_timeout_while(came, Duration::from_secs(20), is_missing);
        assert!(!wait.expect("nobody panics").1.timed_out(), "they come one after the other");
        if number == self.failing || (self.is_lasting && number > self.failing) {
            return Err(io::Error::from_raw_os_error(28));
        }
        Ok(())
    }
}

#[test]
fn a_commit_that_fails_while_others_are_under_way_stops_the_node_and_loses_none_of_them() {
    let alone = Shard { index: 0, count: 1 };
    for (shard, is_lasting) in
        [(None, false), (None, true), (Some(alone), false), (Some(alone), true)]
    {
        let (is_armed, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (arm, called) = (Arc::clone(&is_armed), Arc::clone(&calls));
        let told = move || {
            arm.store(true, Ordering::SeqCst);
            called.fetch_add(1, Ordering::SeqCst);
        };
        let mut bench = bench(told, shard);
        let (came, all_there) = Default::default();
        let most = 8;
        let watch = Together { is_armed, most, failing: 3, is_lasting, came, all_there };
        bench.watched(Some(Arc::new(watch)));
        let error = bench.run().expect_err("there is no room").to_string();
        assert!(error.contains("no room") || error.contains("space"), "{error}");
        assert!(error.contains("store"), "it names the place: {error}");
        let of_node = |event: &Event| matches!(event, Event::Part { node, .. } | Event::PartFound { node, .. } if node == "mapped");
        let events = bench.events();
        let told = events.iter().filter(|event| of_node(event)).count();
        let computed = calls.swap(0, Ordering::SeqCst);
        assert!((most..40).contains(&computed), "{computed} parts were computed");
        assert!(
            told < computed
                && !events.iter().any(
                    |event| matches!(event, Event::NodeFinished { node, .. } if node == "mapped")
                )
        );
        bench.watched(None);
        bench.run().expect("there is room");
        let events = bench.events();
        let found = events
            .iter()
            .filter(|event| matches!(event, Event::PartFound { node, .. } if node == "mapped"));
        let found = found.count();
        assert_eq!(found + calls.load(Ordering::SeqCst), 40);
        let wanted = if is_lasting { 3 } else { computed - 1 };
        assert_eq!(found, wanted, "{shard:?}, lasting {is_lasting}");
        for table in ["mapped", "again"] {
            assert_eq!(bench.numbers(table), Some((0..40).collect()), "{table}");
        }
    }
}

/// Holds every commit up for a time of its own, and sees which parts are read before a record that names them is written.
#[derive(Debug, Default)]
struct Slow {
    delays: Vec<u64>,
    syncs: AtomicUsize,
    /// By the directory of the result.
    records: Mutex<HashMap<PathBuf, String>>,
    reads: Mutex<Vec<(PathBuf, bool)>>,
}

impl Watch for Slow {
    fn before(&self, operation: Operation<'_>, path: &Path) -> io::Result<()> {
        let Some((dir, name)) = path.parent().zip(path.file_name().and_then(OsStr::to_str)) else {
            return Ok(());
        };
        match operation {
            Operation::Write(bytes) if name == "parts.log" => {
                let mut records = self.records.lock().expect("nobody panics");
                records
                    .entry(dir.to_owned())
                    .or_default()
                    .push_str(&String::from_utf8_lossy(bytes));
            }
            Operation::Sync => {
                let number = self.syncs.fetch_add(1, Ordering::SeqCst);
                let delay = self.delays[number % self.delays.len()];
                std::thread::sleep(Duration::from_micros(delay));
            }
            Operation::Read => {
                let digest =
                    name.strip_suffix(".parquet").or_else(|| name.strip_suffix(".columns"));
                let Some(digest) = digest else { return Ok(()) };
                let records = self.records.lock().expect("nobody panics");
                let is_named = records.get(dir).is_some_and(|records| records.contains(digest));
                self.reads.lock().expect("nobody panics").push((dir.to_owned(), is_named));
            }
            _ => {}
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]
    #[test]
    fn readers_get_parts_in_order_and_committed(
        delays in prop::collection::vec(0..1_500_u64, 1..60),
        jobs in 1..3_usize,
    ) {
        let mut bench = bench(|| (), None);
        bench.options.jobs = jobs;
        let watch = Arc::new(Slow { delays, ..Slow::default() });
        bench.watched(Some(Arc::clone(&watch) as _));
        bench.run().expect("nothing fails");
        // Those of `rows` are named by a manifest, which is written last.
        let records = watch.records.lock().expect("nobody panics");
        let reads = watch.reads.lock().expect("nobody panics");
        let of_parts: Vec<_> = reads.iter().filter(|(dir, _)| records.contains_key(dir)).collect();
        prop_assert!(of_parts.len() >= 40, "{} were read", of_parts.len());
        prop_assert!(of_parts.iter().all(|(_, is_named)| *is_named), "read before it was committed");
        drop((reads, records));
        for table in ["mapped", "again"] {
            prop_assert_eq!(bench.numbers(table), Some((0..40).collect()));
        }
        let finished: Vec<_> = bench.events().into_iter().filter_map(|event| match event {
            Event::NodeFinished { node, computed, found, .. } => Some((node, computed, found)),
            _ => None,
        }).collect();
        for node in ["mapped", "again"] {
            prop_assert!(finished.contains(&(node.to_owned(), 40, 0)), "{finished:?}");
        }
    }
}
