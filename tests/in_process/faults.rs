//! Every operation of a store fails in turn, once or for ever, or is the last thing that the process does. What is left
//! is resumed to the same bytes.
//!
//! `PARALOOM_FAULTS=all` tries every error at every operation; without it each operation gets one of them.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::common::Project;
use paraloom_exec::{Cancel, Job, Lookup, PortResult, RunError, RunOptions, Workspace, run};
use paraloom_host::Host;
use paraloom_pipeline::Graph;
use paraloom_store::{Operation, Store, Watch};

/// Tables in several parts, an artifact, map stages with two outputs.
const PIPELINE: &str = "\
paraloom: 1
name: faults
part_rows: 4
nodes:
  corpus: { stage: load, with: { from: corpus.csv, columns: { text: source } } }
  blank:
    stage: model
    inputs: { texts: [corpus] }
    with: { new: { vocabulary: 100, d_model: 8, d_ff: 8, layers: 1, heads: 1 } }
  grammar: { stage: score-cola, inputs: { model: blank, rows: corpus }, with: { text: source } }
  kept: { stage: threshold, inputs: { rows: grammar }, with: { keep: \"source < 'profit'\" } }
";

struct Setup {
    host: Host,
    project: Project,
    graph: Graph,
}

impl Setup {
    fn new() -> Self {
        Self::of(Path::new(crate::common::paraloom().get_program()))
    }

    /// With the libraries beside the binary, which are there already.
    fn of(executable: &Path) -> Self {
        let host = crate::common::shipped_host(executable);
        let project = Project::new(PIPELINE);
        let nouns = ["sales", "costs", "profit", "demand", "output", "margin"];
        let rows = nouns.map(|noun| format!("{noun} rose by 3 percent\n"));
        project.write("corpus.csv", &format!("text\n{}", rows.concat()));
        let mut workspace = Workspace::new(host, project.path(), PIPELINE, &project.file("hub"));
        let (graph, problems) = workspace.check(&[], &|_| None);
        let graph = graph.unwrap_or_else(|| panic!("{problems:?}"));
        Self { host: std::mem::take(&mut workspace.host), project, graph }
    }

    fn run(&self, store: &Store) -> Result<(), RunError> {
        let job = Job {
            set: &[],
            graph: &self.graph,
            nodes: self.graph.order(),
            host: &self.host,
            store,
            text: PIPELINE,
        };
        let options = RunOptions::default();
        run(&job, &options, &Cancel::default(), &|_| {}).map(drop)
    }

    /// The digest of everything that the pipeline made.
    fn results(&self, store: &Store) -> BTreeMap<String, String> {
        let lookup = Lookup::new(&self.graph, &self.host, Some(store)).expect("the store is sound");
        let mut results = BTreeMap::new();
        for index in self.graph.order() {
            let node = self.graph.node(*index);
            let done = lookup.complete(*index).unwrap_or_else(|| panic!("{} is done", node.name));
            for (port, result) in node.stage.outputs.iter().zip(&done.ports) {
                let digest = match result {
                    PortResult::Table(table) => {
                        table.batches().for_each(|rows| drop(rows.expect("the part is sound")));
                        table.digest()
                    }
                    PortResult::Artifact { artifact, .. } => artifact.digest,
                };
                results.insert(format!("{}.{}", node.name, port.name), digest.to_string());
            }
        }
        results
    }

    fn store(&self, name: &str, watch: Option<Arc<dyn Watch>>) -> Result<Store, RunError> {
        Ok(Store::create_watched(&self.project.file(name), watch)?)
    }

    /// What a run without any trouble gives, and how many operations it takes.
    fn expected(&self) -> (BTreeMap<String, String>, u64) {
        let counter = Arc::new(Fault::never());
        let store = self.store("sound", Some(Arc::clone(&counter) as _)).expect("no trouble");
        self.run(&store).expect("no trouble");
        (self.results(&store), counter.count.load(Ordering::Relaxed))
    }
}

#[derive(Debug)]
enum Outcome {
    Error(i32),
    Death,
}

/// What happens at the `at`-th operation, and at all later ones if it is `lasting`.
#[derive(Debug)]
struct Fault {
    at: u64,
    lasting: bool,
    outcome: Outcome,
    count: AtomicU64,
}

impl Fault {
    fn never() -> Self {
        Self { at: u64::MAX, lasting: false, outcome: Outcome::Death, count: AtomicU64::new(0) }
    }
}

impl Watch for Fault {
    fn before(&self, _: Operation<'_>, _: &Path) -> io::Result<()> {
        let number = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        if number < self.at || (number > self.at && !self.lasting) {
            return Ok(());
        }
        match self.outcome {
            Outcome::Error(code) => Err(io::Error::from_raw_os_error(code)),
            Outcome::Death => {
                #[expect(unsafe_code, reason = "dying at once, without any cleaning up")]
                // SAFETY: it does not return.
                unsafe {
                    libc::_exit(9)
                }
            }
        }
    }
}

const ERRORS: [i32; 7] =
    [libc::ENOSPC, libc::EIO, libc::EDQUOT, libc::EMFILE, libc::EACCES, libc::EROFS, libc::EINTR];

#[test]
fn any_operation_may_fail_once_or_for_ever() {
    let setup = Setup::new();
    let (expected, operations) = setup.expected();
    assert!(operations > 100, "the watch sees {operations} operations");
    let all = std::env::var_os("PARALOOM_FAULTS").is_some();
    let (mut tried, mut refused) = (0, 0);
    for at in 1..=operations {
        if !all && at % 3 != 0 {
            continue;
        }
        for (number, error) in (0..).zip(ERRORS) {
            for lasting in [false, true] {
                if !all && (number != at % 7 || lasting != (at % 2 == 0)) {
                    continue;
                }
                tried += 1;
                let name = format!("store-{at}-{error}-{lasting}");
                let outcome = Outcome::Error(error);
                let fault = Arc::new(Fault { at, lasting, outcome, count: AtomicU64::new(0) });
                let outcome = setup.store(&name, Some(fault)).and_then(|store| setup.run(&store));
                if let Err(error) = outcome {
                    // The error names the file.
                    let place = setup.project.path().to_str().expect("text");
                    assert!(error.to_string().contains(place), "operation {at}: {error}");
                    refused += 1;
                }
                let store = setup.store(&name, None).expect("no trouble any more");
                setup.run(&store).unwrap_or_else(|error| panic!("operation {at}, {error}"));
                assert_eq!(setup.results(&store), expected, "operation {at}, error {error}");
                let (_, damage) = store.verify(|_| {}).expect("no trouble any more");
                assert!(damage.is_empty(), "operation {at}: {damage:?}");
                std::fs::remove_dir_all(setup.project.file(&name)).expect("it is ours");
            }
        }
    }
    assert!(refused * 2 > tried, "only {refused} of {tried} failures were noticed");
}

/// Set for the process that dies: the operation, and the directory of the project.
const DIES: &str = "PARALOOM_DIES_AT";

#[test]
fn the_process_may_die_before_any_operation() {
    if let Ok(text) = std::env::var(DIES) {
        return die(&text);
    }
    let setup = Setup::new();
    let (expected, operations) = setup.expected();
    let step = if std::env::var_os("PARALOOM_FAULTS").is_some() { 1 } else { 11 };
    for at in (1..=operations).step_by(step) {
        let name = format!("store-{at}");
        let status = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "the_process_may_die_before_any_operation"])
            .env(DIES, format!("{at} {}", setup.project.file(&name).display()))
            .output()
            .expect("this test runs")
            .status;
        assert!(status.code() == Some(9) || status.success(), "operation {at}: {status}");
        let store = setup.store(&name, None).expect("no trouble any more");
        setup.run(&store).unwrap_or_else(|error| panic!("operation {at}: {error}"));
        assert_eq!(setup.results(&store), expected, "operation {at}");
        std::fs::remove_dir_all(setup.project.file(&name)).expect("it is ours");
    }
}

/// The process that dies.
fn die(text: &str) {
    let (at, store) = text.split_once(' ').expect("two words");
    let at = at.parse().expect("a number");
    let setup = Setup::of(Path::new(env!("CARGO_BIN_EXE_paraloom")));
    let fault = Fault { at, lasting: true, outcome: Outcome::Death, count: AtomicU64::new(0) };
    let store = Store::create_watched(Path::new(store), Some(Arc::new(fault)));
    setup.run(&store.expect("no trouble")).expect("no trouble");
}
