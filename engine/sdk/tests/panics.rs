//! Wherever a stage panics, what comes of it is an error with its message and place.

use std::sync::{Arc, Mutex};

use arrow::array::{Int64Array, RecordBatch};
use paraloom_sdk::testing::{Harness, Log};
use paraloom_sdk::{
    About, Emit, MapStage, PlanInputs, Planned, Port, Result, Run, Stage, Status, arrow,
};
use serde_json::json;

#[derive(serde::Deserialize, schemars::JsonSchema)]
struct Config {
    when: String,
}

/// Hands on its rows, and panics when it is told to.
struct Panics {
    when: String,
}

struct Worker {
    when: String,
}

fn panics(when: &str, now: &str) {
    assert!(when != now, "told to in {now}");
}

impl Drop for Panics {
    fn drop(&mut self) {
        panics(&self.when, "drop of the plan");
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        panics(&self.when, "drop of the worker");
    }
}

fn about(name: &'static str) -> About {
    let about = About::new(name, "1.0.0", "Panics.").input(Port::table("rows", "Any."));
    about.output(Port::table("rows", "The same.")).part_rows(64)
}

fn plan(config: Config, inputs: &PlanInputs) -> Result<Planned<Panics>> {
    panics(&config.when, "plan");
    let rows = inputs.table("rows")?.schema().clone();
    Ok(Planned::new(Panics { when: config.when }, [Some(rows)]))
}

/// A thread that panics, and is waited for or not.
fn thread(when: &str) {
    for (now, waits) in [("thread", false), ("thread that is waited for", true)] {
        if when == now {
            let thread = std::thread::spawn(move || panic!("told to in {now}"));
            let ended = thread.join();
            if waits {
                ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            }
        }
    }
}

impl MapStage for Panics {
    type Config = Config;
    type Worker = Worker;

    fn about() -> About {
        about("panics")
    }

    fn plan(config: Config, inputs: &PlanInputs) -> Result<Planned<Self>> {
        plan(config, inputs)
    }

    fn open(&self, _: &Run) -> Result<Worker> {
        panics(&self.when, "open");
        Ok(Worker { when: self.when.clone() })
    }

    fn map(worker: &mut Worker, rows: RecordBatch, emit: &mut Emit) -> Result<()> {
        panics(&worker.when, "map");
        thread(&worker.when);
        emit.push("rows", &rows)
    }
}

/// The same as a whole stage.
struct Whole(Panics);

impl Stage for Whole {
    type Config = Config;

    fn about() -> About {
        about("whole")
    }

    fn plan(config: Config, inputs: &PlanInputs) -> Result<Planned<Self>> {
        panics(&config.when, "plan");
        let rows = inputs.table("rows")?.schema().clone();
        Ok(Planned::new(Self(Panics { when: config.when }), [Some(rows)]))
    }

    fn run(&self, run: &mut Run) -> Result<()> {
        panics(&self.0.when, "run");
        thread(&self.0.when);
        let rows = run.table("rows")?;
        for batch in rows {
            run.push("rows", &batch?)?;
        }
        Ok(())
    }
}

fn harness(when: &str) -> Harness {
    let rows = RecordBatch::try_from_iter([(
        "n",
        Arc::new(Int64Array::from(vec![1, 2])) as arrow::array::ArrayRef,
    )])
    .expect("one column");
    Harness::new(json!({ "when": when })).rows("rows", rows)
}

/// A thread that panics is not that of a stage in another test.
static ALONE: Mutex<()> = Mutex::new(());

#[test]
fn a_panic_is_an_error_of_its_call() {
    let _alone = ALONE.lock().expect("nothing panicked");
    for when in ["plan", "open", "map", "run", "thread", "thread that is waited for"] {
        let mut results = Vec::new();
        if when != "run" {
            results.push(harness(when).map::<Panics>());
        }
        if !matches!(when, "open" | "map") {
            results.push(harness(when).run::<Whole>());
        }
        for result in results {
            let error = result.expect_err(when);
            assert_eq!(error.status(), Status::Panic, "{when}: {error}");
            assert!(error.to_string().ends_with(&format!("told to in {when}")), "{when}: {error}");
            let place = error.detail("location").unwrap_or_default();
            assert!(place.contains("panics.rs:"), "{when}: {place}");
        }
    }
}

/// There is no call that could fail: nothing is lost, and the program goes on.
#[test]
fn a_panic_in_a_destructor_is_told() {
    let _alone = ALONE.lock().expect("nothing panicked");
    let log = Log::default();
    harness("drop of the worker").log(&log).map::<Panics>().expect("its rows are done");
    let log = log.lock().expect("nothing panicked").join("\n");
    assert!(log.contains("told to in drop of the worker"), "{log}");
    assert!(log.ends_with(": while it was closed"), "{log}");
    harness("drop of the plan").map::<Panics>().expect("its rows are done");
    harness("drop of the plan").run::<Whole>().expect("its rows are done");
}

#[test]
fn a_panic_in_about_is_no_library() {
    assert!(paraloom_sdk::export::entry(|| panic!("in about")).is_null());
}

#[test]
fn a_whole_stage_is_held_to_its_promises() {
    let _alone = ALONE.lock().expect("nothing panicked");
    /// Counts its batches, which it must not do.
    struct Batches;

    impl Stage for Batches {
        type Config = Config;

        fn about() -> About {
            about("batches")
        }

        fn plan(_: Config, inputs: &PlanInputs) -> Result<Planned<Self>> {
            let rows = inputs.table("rows")?.schema().clone();
            Ok(Planned::new(Self, [Some(rows)]))
        }

        fn run(&self, run: &mut Run) -> Result<()> {
            let rows = run.table("rows")?;
            let schema = rows.schema().clone();
            let numbers = Int64Array::from(vec![rows.count() as i64]);
            run.push("rows", &RecordBatch::try_new(schema, vec![Arc::new(numbers)])?)
        }
    }

    /// Never the same.
    static CALLS: Mutex<i64> = Mutex::new(0);
    struct Counts;

    impl Stage for Counts {
        type Config = Config;

        fn about() -> About {
            about("counts")
        }

        fn plan(_: Config, inputs: &PlanInputs) -> Result<Planned<Self>> {
            let rows = inputs.table("rows")?.schema().clone();
            Ok(Planned::new(Self, [Some(rows)]))
        }

        fn run(&self, run: &mut Run) -> Result<()> {
            let mut calls = CALLS.lock().expect("nothing panicked");
            *calls += 1;
            let schema = run.table("rows")?.schema().clone();
            let numbers = Int64Array::from(vec![*calls]);
            run.push("rows", &RecordBatch::try_new(schema, vec![Arc::new(numbers)])?)
        }
    }

    harness("never").conforms_whole::<Whole>().expect("it keeps them");
    let error = harness("never").conforms_whole::<Batches>().expect_err("it does not");
    assert_eq!(error.to_string(), "batches of 1 rows gave another result");
    let error = harness("never").conforms_whole::<Counts>().expect_err("it does not");
    assert_eq!(error.to_string(), "the same inputs gave another result");
}
