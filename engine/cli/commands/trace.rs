//! `trace`: a row, and the rows that it was made from, with what each step added and by which model.

use std::process::ExitCode;

use arrow::array::{AsArray, RecordBatch};
use paraloom_exec::{Lookup, PortResult, TableRef};
use paraloom_pipeline::{Endpoint, Graph, essential};
use petgraph::graph::NodeIndex;
use serde_json::{Map, Value, json};

use super::json::cell;
use super::print;
use crate::args::{StageArgs, TraceArgs};
use crate::error::{CliError, Result};
use crate::finished::Finished;
use crate::render::printable;

/// Candidates that are named where the start of an id is of several rows.
const CANDIDATES: usize = 5;
/// Digits of a key or an id that a person sees.
const SHORT: usize = 16;

const ID: &str = "_id";
const PARENT: &str = "_parent";

pub(crate) fn run(args: &TraceArgs, stages: &StageArgs) -> Result<ExitCode> {
    let finished = Finished::open(&args.pipeline, stages, args.run.as_deref())?;
    let (graph, lookup) = (&finished.graph, finished.lookup()?);
    // An unfinished node is an error with a hint.
    let table = finished.table(&lookup, &args.node)?;
    let endpoint = graph.table(&args.node).map_err(CliError::usage)?;
    let row = find_by_start(&table, &args.row, &args.node)?;
    let tracer = Tracer { graph, lookup: &lookup };
    let steps = tracer.steps(endpoint, row)?;
    if args.json {
        let steps: Vec<_> = steps.iter().map(Step::json).collect();
        print(&serde_json::to_string_pretty(&steps).unwrap_or_default())?;
        return Ok(ExitCode::SUCCESS);
    }
    for (number, step) in steps.iter().enumerate() {
        let source = steps.get(number + 1).map(|step| &step.row);
        step.lines(source).iter().try_for_each(|line| print(line))?;
    }
    Ok(ExitCode::SUCCESS)
}

type Row = Map<String, Value>;

/// The one row whose id starts with `start`, or is it.
fn find_by_start(table: &TableRef, start: &str, node: &str) -> Result<Row> {
    let ids = vec![table.schema.index_of(ID)?];
    let (mut found, mut exact, mut count) = (Vec::new(), Vec::new(), 0_u64);
    for (part, rows) in table.batches_of(ids).enumerate() {
        let rows = rows?;
        for (row, id) in texts(&rows, ID).into_iter().enumerate() {
            if id == start {
                exact.push((part, row));
            } else if id.starts_with(start) {
                count += 1;
                if found.len() < CANDIDATES {
                    found.push((part, row, id));
                }
            }
        }
    }
    let place = match (exact.as_slice(), found.as_slice()) {
        ([place], _) => *place,
        ([], [(part, row, _)]) if count == 1 => (*part, *row),
        ([], []) => {
            let message = format!("`{node}` has no row whose `{ID}` starts with `{start}`");
            return Err(
                CliError::usage(message).hint("`paraloom show` has the ids in its last column")
            );
        }
        ([], several) => {
            let named = several.iter().map(|(.., id)| format!("`{id}`")).collect::<Vec<_>>();
            let more = if count as usize > named.len() { ", ..." } else { "" };
            let message =
                format!("`{start}` is ambiguous: {count} rows of `{node}` have ids that start so");
            let hint =
                format!("they are {}{more}; write more of the one that you mean", named.join(", "));
            return Err(CliError::usage(message).hint(hint));
        }
        (several, _) => {
            let message = format!("{} rows of `{node}` have the `{ID}` `{start}`", several.len());
            return Err(CliError::usage(message)
                .hint("ids of your own have to differ; leave them out, and each row gets one"));
        }
    };
    let rows = table.entry.read_part(&table.parts[place.0])?;
    Ok(as_map(&rows, place.1))
}

fn texts(rows: &RecordBatch, column: &str) -> Vec<String> {
    let texts = rows.column_by_name(column).and_then(|column| column.as_string_opt::<i32>());
    let texts = texts.into_iter().flat_map(|texts| texts.iter());
    texts.map(|text| text.unwrap_or_default().to_owned()).collect()
}

fn as_map(rows: &RecordBatch, row: usize) -> Row {
    let schema = rows.schema();
    let names = schema.fields().iter().map(|field| field.name().clone());
    names.zip(rows.columns().iter().map(|column| cell(column, row))).collect()
}

/// A row of one node, and how it was made.
struct Step {
    node: String,
    stage: String,
    version: String,
    config: Value,
    seed: Option<u64>,
    key: Option<String>,
    models: Vec<Model>,
    row: Row,
}

/// A directory, such as a model, that a node read beside its rows.
struct Model {
    port: String,
    node: String,
    key: Option<String>,
}

struct Tracer<'a> {
    graph: &'a Graph,
    lookup: &'a Lookup<'a>,
}

impl Tracer<'_> {
    /// The row, then the row that it was made of, and so on to the first.
    fn steps(&self, endpoint: Endpoint, row: Row) -> Result<Vec<Step>> {
        let mut steps = vec![self.step(endpoint, row)];
        let mut at = endpoint;
        while let Some(last) = steps.last() {
            let Some((from, row)) = self.source(at.node, &last.row)? else { break };
            steps.push(self.step(from, row));
            at = from;
        }
        Ok(steps)
    }

    fn step(&self, endpoint: Endpoint, row: Row) -> Step {
        let node = self.graph.node(endpoint.node);
        let models = self.graph.inputs(endpoint.node).into_iter().filter_map(|(from, edge)| {
            let artifact = matches!(self.lookup.output(from), Some(PortResult::Artifact { .. }));
            artifact.then(|| Model {
                port: node.stage.inputs[edge.input].name.clone(),
                node: self.graph.node(from.node).name.clone(),
                key: self.key(from.node),
            })
        });
        Step {
            node: node.name.clone(),
            stage: node.stage.name.clone(),
            version: node.stage.version.clone(),
            config: essential(&node.config, &node.stage.config_schema),
            seed: node.stage.uses_seed.then_some(node.seed),
            key: self.key(endpoint.node),
            models: models.collect(),
            row,
        }
    }

    fn key(&self, node: NodeIndex) -> Option<String> {
        self.lookup.complete(node).map(|result| result.key.to_string())
    }

    /// The row of the same id, or else the parent, in the tables that a node read.
    fn source(&self, node: NodeIndex, row: &Row) -> Result<Option<(Endpoint, Row)>> {
        for (from, _) in self.graph.inputs(node) {
            let Some(PortResult::Table(table)) = self.lookup.output(from) else { continue };
            for id in [ID, PARENT].iter().filter_map(|name| row.get(*name)?.as_str()) {
                if let Some(row) = find(table, id)? {
                    return Ok(Some((from, row)));
                }
            }
        }
        Ok(None)
    }
}

/// The first row with an id.
fn find(table: &TableRef, id: &str) -> Result<Option<Row>> {
    let Ok(column) = table.schema.index_of(ID) else { return Ok(None) };
    for (part, rows) in table.batches_of(vec![column]).enumerate() {
        if let Some(row) = texts(&rows?, ID).iter().position(|found| found == id) {
            let rows = table.entry.read_part(&table.parts[part])?;
            return Ok(Some(as_map(&rows, row)));
        }
    }
    Ok(None)
}

impl Step {
    /// For a program: everything.
    fn json(&self) -> Value {
        let model =
            |model: &Model| json!({ "port": model.port, "node": model.node, "key": model.key });
        json!({
            "node": self.node, "stage": self.stage, "version": self.version, "config": self.config,
            "seed": self.seed, "key": self.key, "models": self.models.iter().map(model).collect::<Vec<_>>(),
            "row": self.row,
        })
    }

    /// For a person: what this step added to the row that it was made of, and how.
    fn lines(&self, source: Option<&Row>) -> Vec<String> {
        let id = self.row.get(ID).map(text).unwrap_or_default();
        let mut lines = vec![format!("{} ({})  {}", self.node, self.stage, printable(&id))];
        let is_new = |(name, value): &(&String, &Value)| {
            ![ID, PARENT].contains(&name.as_str())
                && source.and_then(|source| source.get(*name)) != Some(*value)
        };
        for (name, value) in self.row.iter().filter(is_new) {
            lines.push(format!("    {name}: {}", printable(&text(value))));
        }
        for Model { port, node, key } in &self.models {
            let key = key.as_deref().map_or("", short);
            lines.push(format!("    by {port} `{node}`, result {key}"));
        }
        if let Some(seed) = self.seed {
            lines.push(format!("    seed {seed}"));
        }
        if self.config.as_object().is_some_and(|settings| !settings.is_empty()) {
            lines.push(format!("    with {}", printable(&self.config.to_string())));
        }
        if let Some(key) = &self.key {
            lines.push(format!("    result {}", short(key)));
        }
        lines
    }
}

fn short(key: &str) -> &str {
    key.get(..SHORT).unwrap_or(key)
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
