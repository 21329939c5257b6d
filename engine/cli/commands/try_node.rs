//! `try`: a sentence through a map node of a finished run.

use std::process::ExitCode;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, new_null_array};
use arrow::compute::{CastOptions, cast, cast_with_options};
use arrow::datatypes::{DataType, Field, Schema};
use paraloom_exec::{Cancel, Chain, Changes, Job, Mapped};
use paraloom_pipeline::{Graph, is_identity};
use petgraph::graph::NodeIndex;

use super::formats::Format;
use super::json::cell_text;
use super::run::{find_node, options};
use super::show::project;
use crate::args::{StageArgs, TryArgs};
use crate::context::Project;
use crate::error::{CliError, Result};
use crate::out::Out;
use crate::render;

pub(crate) fn run(args: &TryArgs, stages: &StageArgs) -> Result<ExitCode> {
    let project_ = Project::open(&args.pipeline, stages)?;
    let store = project_.need_store()?;
    let (graph, host) = (&project_.graph, &project_.workspace.host);
    let node = find_node(graph, &args.node)?;
    let row = make_row(graph, node, args)?;
    let (events, _unread) = std::sync::mpsc::channel();
    let job = Job {
        graph,
        nodes: &[node],
        host,
        store: &store,
        text: &project_.workspace.text,
        set: &[],
    };
    let mut chain = Chain::open(&job, &options(None, 1), &Cancel::default(), &events)?;
    let changes = changes(&chain, args)?;
    let outputs = chain.map_with(&row, &changes)?;
    for (Mapped { rows, .. }, (port, _)) in outputs.into_iter().zip(chain.outputs()) {
        if rows.num_rows() == 0 {
            continue;
        }
        if args.json {
            Format::Jsonl.write(Out::stdout(), &rows.schema(), std::iter::once(Ok(rows)))?;
        } else {
            render::note(&format!("{port}:"));
            render::print_rows(&project(vec![rows], &[])?)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The parameters, checked. A value that is not JSON is text.
fn changes(chain: &Chain, args: &TryArgs) -> Result<Changes> {
    let mut sent = serde_json::Map::new();
    for (name, value) in &args.parameters {
        let value = serde_json::from_str(value).unwrap_or_else(|_| value.as_str().into());
        if sent.insert(name.clone(), value).is_some() {
            return Err(CliError::usage(format!("`--parameter {name}` is given twice")));
        }
    }
    chain.parameters().check(&sent).map_err(CliError::usage)
}

/// A row of the node's mapped table: the sentence in its text column, other columns as
/// `--with` says, the rest empty.
fn make_row(graph: &Graph, index: NodeIndex, args: &TryArgs) -> Result<RecordBatch> {
    let node = graph.node(index);
    let schema = graph.mapped(index).and_then(|from| graph.schema(from));
    let schema = schema.ok_or_else(|| {
        CliError::usage(format!(
            "`{}` reads its input whole; only map stages can be tried",
            node.stage.name
        ))
    })?;
    let column = text_column(schema, args)?;
    for (name, _) in &args.with {
        schema
            .index_of(name)
            .map_err(|_| CliError::usage(format!("there is no column `{name}`")))?;
    }
    let mut columns: Vec<ArrayRef> = Vec::new();
    let mut empty = Vec::new();
    for field in schema.fields() {
        let given = args
            .with
            .iter()
            .find(|(name, _)| name == field.name())
            .map(|(_, value)| value.as_str());
        let text = match field.name().as_str() {
            "_id" | "_parent" => Some("try"),
            name if name == column => Some(args.sentence.as_str()),
            _ => given,
        };
        let cell = text.map(|text| Arc::new(StringArray::from(vec![text])) as ArrayRef);
        columns.push(match cell {
            Some(cell) => parsed(&cell, field)?,
            None if field.is_nullable() => {
                empty.extend((field.data_type() == &DataType::Utf8).then(|| field.name().as_str()));
                new_null_array(field.data_type(), 1)
            }
            None if field.data_type() == &DataType::Utf8 => {
                empty.push(field.name().as_str());
                Arc::new(StringArray::from(vec![""]))
            }
            // Such as the number of the candidate; no stage uses it.
            None => cast(&Int64Array::from(vec![0]), field.data_type())?,
        });
    }
    if !empty.is_empty() {
        let given: Vec<_> = empty.iter().map(|name| format!("--with {name}=TEXT")).collect();
        render::note(&format!(
            "the sentence is the row's `{column}`; {} fills the rest",
            given.join(" ")
        ));
    }
    RecordBatch::try_new(Arc::clone(schema), columns).map_err(|error| {
        CliError::usage(format!("the row is not complete: {error}"))
            .hint("give the other columns with --with COLUMN=VALUE")
    })
}

/// A text as a value of a column.
fn parsed(cell: &ArrayRef, field: &Field) -> Result<ArrayRef> {
    let strict = CastOptions { safe: false, ..CastOptions::default() };
    cast_with_options(cell, field.data_type(), &strict).map_err(|_| {
        let text = cell_text(cell, 0);
        let what = match field.data_type() {
            kind if kind.is_integer() => "a whole number".to_owned(),
            kind if kind.is_numeric() => "a number".to_owned(),
            DataType::Boolean => "true or false".to_owned(),
            kind => kind.to_string(),
        };
        CliError::usage(format!("`{}` is {what}, which `{text}` is not", field.name()))
    })
}

fn text_column(schema: &Schema, args: &TryArgs) -> Result<String> {
    if let Some(name) = &args.column {
        return match schema.index_of(name) {
            Ok(_) => Ok(name.clone()),
            Err(_) => Err(CliError::usage(format!("there is no column `{name}`"))),
        };
    }
    let is_text =
        |field: &&Arc<Field>| field.data_type() == &DataType::Utf8 && !is_identity(field.name());
    let given = |name: &String| args.with.iter().any(|(given, _)| given == name);
    let names: Vec<_> =
        schema.fields().iter().filter(is_text).map(|field| field.name().clone()).collect();
    let open: Vec<_> = names.into_iter().filter(|name| !given(name)).collect();
    // The first text column is what a generator reads.
    open.into_iter().next().ok_or_else(|| CliError::usage("the node's input has no text column"))
}
