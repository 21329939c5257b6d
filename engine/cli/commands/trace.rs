//! `trace`: a row, and the rows that it was made from.

use std::process::ExitCode;

use arrow::array::{Array, RecordBatch, StringArray};
use arrow::util::display::array_value_to_string;
use paraloom_exec::{Lookup, PortResult};
use paraloom_pipeline::{Endpoint, Graph};
use petgraph::graph::NodeIndex;
use serde_json::{Map, Value, json};

use super::print;
use super::show::find_table;
use crate::args::{StageArgs, TraceArgs};
use crate::context::Project;
use crate::error::{CliError, Result};

pub(crate) fn run(args: &TraceArgs, stages: &StageArgs) -> Result<ExitCode> {
    let project = Project::open(&args.pipeline, stages)?;
    let store = project.need_store()?;
    let graph = &project.graph;
    let lookup = Lookup::new(graph, &project.workspace.host, Some(&store))?;
    // An unfinished node is an error with a hint.
    find_table(graph, &lookup, &args.node)?;
    let endpoint = graph.table(&args.node).map_err(CliError::usage)?;
    let Some(row) = find(&lookup, endpoint, &args.row) else {
        return Err(CliError::usage(format!(
            "`{}` has no row whose _id starts with `{}`",
            args.node, args.row
        )));
    };
    let mut steps = vec![step(graph, &lookup, endpoint, &row)];
    walk(graph, &lookup, endpoint.node, &row, &mut steps);
    if args.json {
        print(&serde_json::to_string_pretty(&steps).unwrap_or_default())?;
        return Ok(ExitCode::SUCCESS);
    }
    for step in &steps {
        print(&format!("{} ({})", text(&step["node"]), text(&step["stage"])))?;
        for (name, value) in step["row"].as_object().into_iter().flatten() {
            print(&format!("    {name}: {}", crate::render::printable(&text(value))))?;
        }
        if let Some(key) = step["key"].as_str() {
            print(&format!("    result {}", &key[..16]))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

type Row = Map<String, Value>;

/// The first row of a table whose id starts with `id`.
fn find(lookup: &Lookup, endpoint: Endpoint, id: &str) -> Option<Row> {
    let PortResult::Table(table) = lookup.output(endpoint)? else { return None };
    for batch in table.batches().flatten() {
        let ids = batch.column_by_name("_id")?.as_any().downcast_ref::<StringArray>()?.clone();
        if let Some(row) = (0..ids.len()).find(|row| ids.value(*row).starts_with(id)) {
            return Some(as_map(&batch, row));
        }
    }
    None
}

fn as_map(batch: &RecordBatch, row: usize) -> Row {
    let schema = batch.schema();
    let cells = schema.fields().iter().zip(batch.columns());
    cells
        .map(|(field, column)| {
            let value = if column.is_null(row) {
                Value::Null
            } else {
                array_value_to_string(column, row).unwrap_or_default().into()
            };
            (field.name().clone(), value)
        })
        .collect()
}

fn step(graph: &Graph, lookup: &Lookup, endpoint: Endpoint, row: &Row) -> Value {
    let node = graph.node(endpoint.node);
    let key = lookup.complete(endpoint.node).map(|result| result.key.to_string());
    json!({
        "node": node.name, "stage": node.stage.name, "version": node.stage.version,
        "config": node.config, "seed": node.stage.uses_seed.then_some(node.seed),
        "key": key, "row": row,
    })
}

/// Looks for the row itself, then for its parent, in the tables that the node read.
fn walk(graph: &Graph, lookup: &Lookup, node: NodeIndex, row: &Row, steps: &mut Vec<Value>) {
    for (from, _) in graph.inputs(node) {
        let mut ids = ["_id", "_parent"].into_iter().filter_map(|name| row.get(name)?.as_str());
        if let Some(found) = ids.find_map(|id| find(lookup, from, id)) {
            steps.push(step(graph, lookup, from, &found));
            walk(graph, lookup, from.node, &found, steps);
            return;
        }
    }
}
