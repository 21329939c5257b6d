//! `stages test`: whether a stage keeps what the engine relies on, on rows of a real run.

use std::process::ExitCode;

use arrow::array::{Array, RecordBatch};
use arrow::compute::concat_batches;
use arrow::util::display::array_value_to_string;
use paraloom_exec::{Cancel, Chain, Job, Lookup, Mapped, PortResult};
use paraloom_pipeline::Endpoint;

use super::print;
use super::run::{find_node, options};
use super::show::read_rows;
use super::test_whole;
use crate::args::{StageArgs, TestArgs};
use crate::context::Project;
use crate::error::{CliError, NODE_FAILED, Result};

/// What was checked, and what is wrong with it.
pub(super) type Verdicts = Vec<(&'static str, Option<String>)>;

/// Tables by output port.
type Tables = Vec<RecordBatch>;

pub(crate) fn run(args: &TestArgs, stages: &StageArgs) -> Result<ExitCode> {
    let project = Project::open(&args.pipeline, stages)?;
    let store = project.need_store()?;
    let (graph, host) = (&project.graph, &project.workspace.host);
    let index = find_node(graph, &args.node)?;
    let job = Job {
        graph,
        nodes: &[index],
        host,
        store: &store,
        text: &project.workspace.text,
        set: &[],
    };
    let verdicts = match graph.mapped(index) {
        Some(from) => of_map(&job, from, args.rows)?,
        None => test_whole::verdicts(&job, index, args.rows)?,
    };
    for (check, wrong) in &verdicts {
        print(&format!("{check:24} {}", wrong.as_deref().unwrap_or("ok")))?;
    }
    let wrong = verdicts.iter().filter(|(_, wrong)| wrong.is_some()).count();
    if wrong == 0 {
        return Ok(ExitCode::SUCCESS);
    }
    let stage = &graph.node(index).stage.name;
    let message = format!("`{stage}` does not keep {wrong} of {} promises", verdicts.len());
    Err(CliError::new(NODE_FAILED, message))
}

/// The same rows in several ways, through a map stage.
fn of_map(job: &Job, from: Endpoint, count: usize) -> Result<Verdicts> {
    let Job { graph, host, store, .. } = *job;
    let lookup = Lookup::new(graph, host, Some(store))?;
    let Some(PortResult::Table(table)) = lookup.output(from) else {
        let input = &graph.node(from.node).name;
        return Err(CliError::new(
            NODE_FAILED,
            format!("`{input}`, which it reads, has no rows yet"),
        )
        .hint(format!("`paraloom run PIPELINE --until {input}` makes them")));
    };
    let rows = concat_batches(&table.schema, &read_rows(table, None, count)?)?;
    if rows.num_rows() == 0 {
        return Err(CliError::usage("there are no rows to test it with"));
    }

    let (events, _unread) = std::sync::mpsc::channel();
    let open = || Chain::open(job, &options(None, 1), &Cancel::default(), &events);
    let mut chain = open()?;
    let mapped = match chain.map(&rows) {
        Ok(mapped) => mapped,
        Err(error) => return Err(culprit(&mut chain, &rows).unwrap_or_else(|| error.into())),
    };
    let told_apart = mapped.iter().all(|table| table.origins.is_some());
    let expected = tables(mapped);

    let mut verdicts = Vec::new();
    let mut compare = |check: &'static str, found: Tables| {
        let difference = expected.iter().zip(&found).find_map(|(one, other)| differ(one, other));
        verdicts.push((check, difference));
    };
    compare("the same rows once more", tables(chain.map(&rows)?));
    if chain.is_batch_invariant() {
        compare("one row at a time", one_by_one(&mut chain, &rows)?);
    }
    let none = tables(chain.map(&rows.slice(0, 0))?);
    drop(chain);
    compare("opened anew", tables(open()?.map(&rows)?));
    let left = none.iter().map(RecordBatch::num_rows).sum::<usize>();
    let of_none = (left > 0).then(|| format!("{left} rows came of none"));
    verdicts.push(("no rows at all", of_none));
    let lost = "it gives up `_id` and `_parent`: all rows are computed again when some are new";
    verdicts.push(("rows can be told apart", (!told_apart).then(|| lost.to_owned())));
    Ok(verdicts)
}

/// The first row that fails alone.
fn culprit(chain: &mut Chain, rows: &RecordBatch) -> Option<CliError> {
    (0..rows.num_rows()).find_map(|row| {
        let error = chain.map(&rows.slice(row, 1)).err()?;
        let (message, hint) = (format!("row {} alone: {error}", row + 1), error.hint());
        let failed = CliError::new(NODE_FAILED, message);
        Some(match hint {
            Some(hint) => failed.hint(hint),
            None => failed,
        })
    })
}

fn tables(mapped: Vec<Mapped>) -> Tables {
    mapped.into_iter().map(|table| table.rows).collect()
}

fn one_by_one(chain: &mut Chain, rows: &RecordBatch) -> Result<Tables> {
    let mut all: Vec<Tables> = vec![Vec::new(); chain.outputs().len()];
    for row in 0..rows.num_rows() {
        let single = tables(chain.map(&rows.slice(row, 1))?);
        all.iter_mut().zip(single).for_each(|(all, table)| all.push(table));
    }
    let joined = chain.outputs().into_iter().zip(&all);
    Ok(joined
        .map(|((_, schema), tables)| concat_batches(&schema, tables))
        .collect::<Result<_, _>>()?)
}

/// The first difference between two tables of the same columns.
pub(super) fn differ(expected: &RecordBatch, found: &RecordBatch) -> Option<String> {
    if expected == found {
        return None;
    }
    let (before, after) = (expected.num_rows(), found.num_rows());
    if before != after {
        return Some(format!("{after} rows instead of {before}"));
    }
    let schema = expected.schema();
    let columns = schema.fields().iter().zip(expected.columns().iter().zip(found.columns()));
    let first = columns.filter_map(|(field, (one, other))| {
        let row = (0..before).find(|row| one.slice(*row, 1) != other.slice(*row, 1))?;
        let text = |column: &dyn Array| array_value_to_string(column, row).unwrap_or_default();
        let (name, one, other) = (field.name(), text(one), text(other));
        Some((row, format!("`{name}` of row {} is {other}, and was {one}", row + 1)))
    });
    first.min_by_key(|(row, _)| *row).map(|(_, difference)| difference)
}
