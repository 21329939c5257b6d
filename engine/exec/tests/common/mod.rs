//! Pipelines of stages that are closures: what the engine does around a stage, without a library.

#![allow(dead_code, reason = "each test binary uses some of it")]

use std::sync::{Arc, Mutex};

use arrow::array::{Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use paraloom_exec::{
    Cancel, Job, Lookup, PortResult, RunError, RunOptions, Summary, Workspace, plan, run,
};
use paraloom_host::{
    Executor, Host, HostError, PlannedStage, Services, StageFailure, WorkInput, WorkOutput,
    WorkSettings, Worker,
};
use paraloom_pipeline::{
    Graph, PlanInput, PlanOutput, PortInfo, PortKind, RowAccount, Shape, StageInfo,
};
use paraloom_store::{Event, Logged, Store, Watch};
use serde_json::{Value, json};

type Mapping = dyn Fn(&RecordBatch) -> Result<RecordBatch, HostError> + Send + Sync;

/// What a fake stage does.
pub(crate) enum Act {
    /// Makes the rows 0 to `with: { rows }`, in the column `n`.
    Count,
    /// Maps rows.
    Map(Box<Mapping>),
}

impl std::fmt::Debug for Act {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if matches!(self, Self::Count) { "Count" } else { "Map" })
    }
}

#[derive(Clone, Debug)]
struct Fake(Arc<Act>);

struct Planned {
    act: Arc<Act>,
    rows: i64,
    output: PlanOutput,
}

struct Open(Arc<Act>);

fn numbers(numbers: Vec<i64>) -> RecordBatch {
    let schema = Schema::new(vec![Field::new("n", DataType::Int64, false)]);
    RecordBatch::try_new(Arc::new(schema), vec![Arc::new(Int64Array::from(numbers))])
        .expect("they fit")
}

impl Executor for Fake {
    fn plan(
        &self,
        _: &StageInfo,
        _: &str,
        config: &Value,
        inputs: &[PlanInput],
    ) -> Result<Box<dyn PlannedStage>, HostError> {
        let schema: SchemaRef = match &*self.0 {
            Act::Count => numbers(Vec::new()).schema(),
            Act::Map(_) => inputs[0].schema.clone().expect("a table"),
        };
        let output = PlanOutput {
            outputs: vec![Some(schema)],
            fingerprint: String::new(),
            notes: vec![String::new()],
            memory: None,
        };
        let rows = config["rows"].as_i64().unwrap_or(0);
        Ok(Box::new(Planned { act: Arc::clone(&self.0), rows, output }))
    }
}

impl PlannedStage for Planned {
    fn output(&self) -> &PlanOutput {
        &self.output
    }

    fn run(
        &mut self,
        _: &WorkSettings,
        _: Arc<dyn Services>,
        _: Vec<WorkInput>,
        mut outputs: Vec<WorkOutput<'_>>,
    ) -> Result<(), HostError> {
        let WorkOutput::Table(push) = &mut outputs[0] else { panic!("a table") };
        push(numbers((0..self.rows).collect())).map_err(HostError::Engine)
    }

    fn open(
        &mut self,
        _: &WorkSettings,
        _: Arc<dyn Services>,
        _: Vec<WorkInput>,
    ) -> Result<Box<dyn Worker>, HostError> {
        Ok(Box::new(Open(Arc::clone(&self.act))))
    }
}

impl Worker for Open {
    fn map(
        &mut self,
        rows: &RecordBatch,
        mut outputs: Vec<WorkOutput<'_>>,
    ) -> Result<(), HostError> {
        let Act::Map(map) = &*self.0 else { panic!("a map stage") };
        let rows = map(rows)?;
        let WorkOutput::Table(push) = &mut outputs[0] else { panic!("a table") };
        push(rows).map_err(HostError::Engine)
    }
}

/// What a stage says is wrong.
pub(crate) fn failure(message: &str, retryable: bool) -> HostError {
    let failure =
        StageFailure { status: 1, message: message.to_owned(), retryable, ..Default::default() };
    HostError::Stage(failure)
}

/// The numbers of some rows.
pub(crate) fn n(rows: &RecordBatch) -> Vec<i64> {
    let column = rows.column_by_name("n").expect("it has one");
    let column = column.as_any().downcast_ref::<Int64Array>().expect("numbers");
    column.values().to_vec()
}

/// A stage of the version 1.0.0; `name@2.0.0` is of another, `name~` draws random numbers.
fn info(name: &str, act: &Act) -> StageInfo {
    let (name, version) = name.split_once('@').unwrap_or((name, "1.0.0"));
    let (name, uses_seed) = name.strip_suffix('~').map_or((name, false), |name| (name, true));
    let port = |name: &str| PortInfo {
        name: name.to_owned(),
        doc: String::new(),
        kind: PortKind::Table,
        optional: false,
        many: false,
    };
    let is_map = matches!(act, Act::Map(_));
    StageInfo {
        name: name.to_owned(),
        version: version.to_owned(),
        doc: String::new(),
        library: "test".to_owned(),
        backend: String::new(),
        config_schema: json!({"type": "object", "properties": {
            "rows": {"type": "integer"},
            "mode": {"type": "string", "default": "plain"},
            "deep": {"type": "object"},
        }}),
        inputs: if is_map { vec![port("rows")] } else { Vec::new() },
        outputs: vec![port("rows")],
        shape: if is_map { Shape::Map } else { Shape::Whole },
        uses_seed,
        resumable: false,
        batch_invariant: true,
        rows: if is_map { RowAccount::Kept } else { RowAccount::Any },
        part_rows: None,
    }
}

/// A pipeline of fake stages and a store.
pub(crate) struct Bench {
    dir: tempfile::TempDir,
    workspace: Workspace,
    pub(crate) graph: Graph,
    pub(crate) store: Store,
    pub(crate) options: RunOptions,
    pub(crate) cancel: Cancel,
    events: Mutex<Vec<Event>>,
}

impl Bench {
    pub(crate) fn new(pipeline: &str, stages: Vec<(&str, Act)>) -> Self {
        Self::at(tempfile::tempdir().expect("a directory"), pipeline, stages)
    }

    /// Another pipeline on the same store.
    pub(crate) fn edited(self, pipeline: &str, stages: Vec<(&str, Act)>) -> Self {
        Self::at(self.dir, pipeline, stages)
    }

    fn at(dir: tempfile::TempDir, pipeline: &str, stages: Vec<(&str, Act)>) -> Self {
        let mut host = Host::default();
        for (name, act) in stages {
            host.insert(info(name, &act), Arc::new(Fake(Arc::new(act)))).expect("a new stage");
        }
        let workspace = Workspace::new(host, dir.path(), pipeline, &dir.path().join("hub"));
        let (graph, problems) = workspace.check(&[], &|_| None);
        let graph = graph.unwrap_or_else(|| panic!("{problems:?}"));
        let store = Store::create(&dir.path().join("store")).expect("an empty directory");
        let (options, cancel, events) = Default::default();
        Self { dir, workspace, graph, store, options, cancel, events }
    }

    pub(crate) fn run(&self) -> Result<Summary, RunError> {
        let job = Job {
            graph: &self.graph,
            nodes: self.graph.order(),
            host: &self.workspace.host,
            store: &self.store,
            text: &self.workspace.text,
            set: &[],
        };
        let events = &self.events;
        let observe = |logged: &Logged| {
            events.lock().expect("no panic").push(logged.event.clone());
        };
        run(&job, &self.options, &self.cancel, &observe)
    }

    /// Has `watch` see all that is done to the store from now on.
    pub(crate) fn watched(&mut self, watch: Option<Arc<dyn Watch>>) {
        let store = Store::create_watched(&self.dir.path().join("store"), watch);
        self.store = store.expect("it is a store");
    }

    /// What a run would do with a node, and why.
    pub(crate) fn plan(&self, node: &str) -> String {
        let lookup = Lookup::new(&self.graph, &self.workspace.host, Some(&self.store));
        let lookup = lookup.expect("the store can be read");
        let plan = plan(&self.graph, self.graph.order(), &lookup).expect("the store can be read");
        let node = plan.nodes.into_iter().find(|plan| plan.node == node).expect("it is there");
        let state = serde_json::to_value(node.state).expect("it is plain data");
        format!("{} {}", state.as_str().expect("a name"), node.reason).trim_end().to_owned()
    }

    /// What happened since the last call.
    pub(crate) fn events(&self) -> Vec<Event> {
        std::mem::take(&mut *self.events.lock().expect("no panic"))
    }

    /// The rows of a table, in one batch; none if its node is not done.
    pub(crate) fn table(&self, name: &str) -> Option<RecordBatch> {
        let lookup = Lookup::new(&self.graph, &self.workspace.host, Some(&self.store));
        let lookup = lookup.expect("the store can be read");
        let output = lookup.output(self.graph.table(name).expect("it is in the pipeline"));
        let Some(PortResult::Table(table)) = output else { return None };
        let batches: Vec<_> = table.batches().map(|rows| rows.expect("sound")).collect();
        Some(arrow::compute::concat_batches(&table.schema, &batches).expect("of one schema"))
    }

    pub(crate) fn numbers(&self, name: &str) -> Option<Vec<i64>> {
        self.table(name).map(|rows| n(&rows))
    }
}
