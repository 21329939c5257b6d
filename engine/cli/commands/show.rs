//! `show`: rows of a table.

use std::process::ExitCode;

use arrow::array::RecordBatch;
use paraloom_exec::{Lookup, TableRef};
use paraloom_expr::Expr;

use super::formats::Format;
use super::order::Order;
pub(crate) use super::query::find_table;
use super::query::{Query, for_person, named, parse_condition};
use crate::args::{ShowArgs, StageArgs};
use crate::context::Project;
use crate::error::Result;
use crate::out::Out;
use crate::{recorded, render};

/// Rows in a table for a person, unless asked otherwise.
const DEFAULT_LIMIT: u64 = 20;

/// Up to this many rows are laid out in memory. More are read twice, first for the widths of the columns.
const FEW: u64 = 10_000;

pub(crate) fn run(args: &ShowArgs, stages: &StageArgs) -> Result<ExitCode> {
    let table = table(args, stages)?;
    let condition =
        args.condition.as_deref().map(|text| parse_condition(text, &table)).transpose()?;
    let for_programs = match (args.json, args.csv) {
        (true, _) => Some(Format::Jsonl),
        (_, true) => Some(Format::Csv),
        _ => None,
    };
    let columns = match for_programs {
        Some(_) if args.columns.is_empty() => (0..table.schema.fields().len()).collect(),
        Some(_) => named(&table.schema, &args.columns)?,
        None => for_person(&table.schema, &args.columns)?,
    };
    let default = if for_programs.is_some() { u64::MAX } else { DEFAULT_LIMIT };
    let mut limit = args.limit.unwrap_or(default);
    let mut skip = args.offset;
    if let Some(tail) = args.tail {
        let all = passing_rows(&table, condition.as_ref())?;
        (skip, limit) = (all.saturating_sub(tail), tail);
    }
    let query = Query::all(&table).columns(columns).meeting(condition.as_ref()).range(skip, limit);
    if let Some(order) = &args.sort {
        let order = Order::parse(order, &table.schema)?;
        let default = for_programs.is_none().then_some(DEFAULT_LIMIT);
        let rows = order.rows(&query, skip, args.limit.or(default))?;
        let shown = rows.num_rows() as u64;
        if let Some(format) = for_programs {
            format.write(Out::stdout(), &query.schema()?, std::iter::once(Ok(rows)))?;
            return Ok(ExitCode::SUCCESS);
        }
        render::print_rows(&[rows])?;
        tell_of_more(skip, shown, &table, condition.as_ref());
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(format) = for_programs {
        format.write(Out::stdout(), &query.schema()?, query.rows())?;
        return Ok(ExitCode::SUCCESS);
    }
    let shown = print(&query, limit)?;
    tell_of_more(skip, shown, &table, condition.as_ref());
    Ok(ExitCode::SUCCESS)
}

fn tell_of_more(skip: u64, shown: u64, table: &TableRef, condition: Option<&Expr>) {
    let all = table.rows();
    if condition.is_some() || shown == all {
        return;
    }
    render::note(&if skip >= all {
        format!("the table has {all} rows")
    } else {
        format!("{shown} of {all} rows; --limit shows more")
    });
}

/// The current table, or that of a recorded run.
fn table(args: &ShowArgs, stages: &StageArgs) -> Result<TableRef> {
    if let Some(run) = &args.run {
        let (store, run) = recorded::open(&args.pipeline, run)?;
        return recorded::table(&store, &run, &args.node);
    }
    let project = Project::open(&args.pipeline, stages)?;
    let store = project.need_store()?;
    let lookup = Lookup::new(&project.graph, &project.workspace.host, Some(&store))?;
    find_table(&project.graph, &lookup, &args.node)
}

/// Prints a table for a person; returns the number of rows.
fn print(query: &Query, limit: u64) -> Result<u64> {
    if limit <= FEW {
        let rows = query.rows().collect::<Result<Vec<_>>>()?;
        let shown = rows.iter().map(|rows| rows.num_rows() as u64).sum();
        let empty = RecordBatch::new_empty(query.schema()?);
        render::print_rows(if rows.is_empty() { std::slice::from_ref(&empty) } else { &rows })?;
        return Ok(shown);
    }
    let schema = query.schema()?;
    let (mut layout, mut shown) = (render::Layout::new(&schema), 0);
    for rows in query.rows() {
        let rows = rows?;
        shown += rows.num_rows() as u64;
        layout.measure(&rows)?;
    }
    let mut out = Out::styled();
    let table = layout.fit(render::width());
    table.head().iter().try_for_each(|line| out.line(line))?;
    for rows in query.rows() {
        table.lines(&rows?)?.iter().try_for_each(|line| out.line(line))?;
    }
    out.finish()?;
    Ok(shown)
}

/// How many rows of a table meet a condition.
fn passing_rows(table: &TableRef, condition: Option<&Expr>) -> Result<u64> {
    if condition.is_none() {
        return Ok(table.rows());
    }
    let query = Query::all(table).columns(Vec::new()).meeting(condition);
    query.rows().try_fold(0, |count, rows| Ok(count + rows?.num_rows() as u64))
}

/// The first `limit` rows of a table that meet the condition; a batch without rows where there are none.
pub(crate) fn read_rows(
    table: &TableRef,
    condition: Option<&Expr>,
    limit: usize,
) -> Result<Vec<RecordBatch>> {
    let query = Query::all(table).meeting(condition).range(0, limit as u64);
    let mut rows = query.rows().collect::<Result<Vec<_>>>()?;
    if rows.is_empty() {
        rows.push(RecordBatch::new_empty(table.schema.clone()));
    }
    Ok(rows)
}

/// For a person: the named columns, or all but the ids, which come last anyway.
pub(crate) fn project(rows: Vec<RecordBatch>, columns: &[String]) -> Result<Vec<RecordBatch>> {
    let Some(first) = rows.first() else { return Ok(rows) };
    let columns = for_person(&first.schema(), columns)?;
    rows.iter().map(|batch| Ok(batch.project(&columns)?)).collect()
}
