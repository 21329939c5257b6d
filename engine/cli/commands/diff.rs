//! `diff`: what became of the rows of a table, by their ids: with other variables, or in an earlier run.

use std::process::ExitCode;

use arrow::array::{ArrayRef, RecordBatch};
use paraloom_exec::{Lookup, TableRef};
use paraloom_pipeline::is_identity;
use serde_json::{Map, Value, json};

use super::compare::{Changes, Columns, Comparison};
use super::json::{cell, cell_text};
use super::print;
use super::query::{find_table, for_person};
use super::status::started;
use crate::args::{DiffArgs, StageArgs};
use crate::context::Project;
use crate::error::{CliError, NODE_FAILED, Result};
use crate::out::Out;
use crate::recorded;
use crate::render::{self, printable};
use crate::shell::quoted;

pub(crate) fn run(args: &DiffArgs, stages: &StageArgs) -> Result<ExitCode> {
    let now = Project::open(&args.pipeline, stages)?;
    // An unknown name is an error even if an earlier run had it.
    let table_now = table(&now, &args.node)?;
    let (before, what) = if args.before.is_empty() {
        let (run, before) = earlier(args, &now, &table_now)?;
        (before, format!("in run {run}"))
    } else {
        let mut earlier = args.pipeline.clone();
        let is_other =
            |(set, _): &(String, String)| args.before.iter().all(|(name, _)| name != set);
        earlier.settings.set.retain(is_other);
        earlier.settings.set.extend(args.before.iter().cloned());
        let set: Vec<_> =
            args.before.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let what = format!("with {}", set.join(", "));
        let unsound = |_| CliError::usage(format!("{what}, the pipeline cannot be checked"));
        let before = Project::open(&earlier, stages).map_err(unsound)?;
        let words = set.iter().flat_map(|set| ["--set".to_owned(), quoted(set)]);
        let pipeline = quoted(&args.pipeline.pipeline.to_string_lossy());
        let words: Vec<_> = std::iter::once(pipeline).chain(words).collect();
        let way_out = format!("`paraloom run {}` makes it", words.join(" "));
        (table(&before, &args.node).map_err(|error| error.before(&what).hint(way_out))?, what)
    };
    if args.json {
        print_json(&before, &table_now)?;
    } else {
        print_changes(args, &what, &before, &table_now)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The table in the requested run, or in the newest run that left a different one.
fn earlier(args: &DiffArgs, now: &Project, table_now: &TableRef) -> Result<(String, TableRef)> {
    let store = now.need_store()?;
    if let Some(id) = &args.run {
        let run = recorded::find_run(&store, id)?;
        recorded::warn_of_another(&store, &run, &now.graph.name)?;
        let table = recorded::table(&store, &run, &args.node)?;
        return Ok((run, table));
    }
    let name = now.graph.name.as_str();
    for run in store.runs()?.into_iter().rev() {
        if started(&run).is_none_or(|(pipeline, _)| pipeline != name) {
            continue;
        }
        // A run that was cut short has left no record, one of another text perhaps no such table.
        if let Ok(table) = recorded::table(&store, &run.id, &args.node)
            && table.digest() != table_now.digest()
        {
            return Ok((run.id, table));
        }
    }
    Err(CliError::usage(format!("no run of this pipeline has left another `{}`", args.node))
        .hint("say which one with --run, or with --before NAME=VALUE what a variable was"))
}

fn table(project: &Project, node: &str) -> Result<TableRef> {
    let store = project.need_store()?;
    let lookup = Lookup::new(&project.graph, &project.workspace.host, Some(&store))?;
    find_table(&project.graph, &lookup, node)
}

/// ` (3 of 12; --limit shows more)`, where not all are shown.
fn title(what: &str, shown: usize, count: u64) -> String {
    let of = if shown as u64 == count {
        String::new()
    } else {
        format!(" ({shown} of {count}; --limit shows more)")
    };
    format!("\n{what}{of}")
}

/// The first rows of one kind, of so many.
fn print_first(what: &str, rows: &[RecordBatch], count: u64) -> Result<()> {
    let shown = rows.iter().map(RecordBatch::num_rows).sum();
    if shown == 0 {
        return Ok(());
    }
    print(&title(what, shown, count))?;
    render::print_rows(rows)
}

/// Columns that only one of the tables has.
fn columns_only_in(one: &TableRef, other: &TableRef) -> Vec<String> {
    let names = one.schema.fields().iter().map(|field| field.name());
    names.filter(|name| other.schema.index_of(name).is_err()).cloned().collect()
}

/// For a person.
fn print_changes(args: &DiffArgs, what: &str, before: &TableRef, now: &TableRef) -> Result<()> {
    let mut compared = Comparison::new(before, now)?;
    let counts = compared.counts();
    let columns = for_person(&before.schema, &args.columns)?;
    let gone = compared.gone(columns, args.limit).collect::<Result<Vec<_>>>()?;
    let columns = for_person(&now.schema, &args.columns)?;
    let (mut new, mut changed) = (Vec::new(), Vec::new());
    for changes in compared.changes(args.limit) {
        let changes = changes?;
        new.push(changes.new.project(&columns)?);
        changed.push(changes.changed);
    }
    new.retain(|rows| rows.num_rows() > 0);
    print(&format!("{}: {} rows {what}, {} now", args.node, before.rows(), now.rows()))?;
    print(&format!(
        "{} are gone, {} are new, {} have changed, {} are the same",
        counts.gone, counts.new, counts.changed, counts.same
    ))?;
    for (one, other, what) in [(before, now, "gone"), (now, before, "new")] {
        let columns = columns_only_in(one, other);
        if !columns.is_empty() {
            print(&format!("{what} columns: {}", columns.join(", ")))?;
        }
    }
    print_first("gone", &gone, counts.gone)?;
    print_first("new", &new, counts.new)?;
    let shown = changed.iter().map(|(_, now)| now.num_rows()).sum();
    if shown > 0 {
        print(&title("changed", shown, counts.changed))?;
    }
    for (before, now) in &changed {
        for row in 0..now.num_rows() {
            print_changed(&compared.columns, before, now, row)?;
        }
    }
    Ok(())
}

/// A row that has changed: by what a person knows it, and each value as it was and as it is.
fn print_changed(
    columns: &Columns,
    before: &RecordBatch,
    now: &RecordBatch,
    row: usize,
) -> Result<()> {
    let known_by = columns.text_that_stays(before, now, row).unwrap_or_default();
    let line = format!("{}  {}", cell_text(id(now)?, row), printable(&known_by));
    print(line.trim_end())?;
    for (name, one, other) in columns.differing(before, now, row) {
        print(&format!(
            "    {name}: {}\n    {:>2$} {3}",
            printable(&cell_text(before.column(*one), row)),
            "->",
            name.len() + 1,
            printable(&cell_text(now.column(*other), row))
        ))?;
    }
    Ok(())
}

/// One object a line: the id, what became of it, and for each column that differs both values. What is gone comes first,
/// and then what is new or has changed, in the order of the table.
fn print_json(before: &TableRef, now: &TableRef) -> Result<()> {
    let mut compared = Comparison::new(before, now)?;
    let columns = compared.columns.clone();
    let mut out = Out::stdout();
    for rows in compared.gone((0..before.schema.fields().len()).collect(), usize::MAX) {
        write_whole(&mut out, &rows?, "gone")?;
    }
    for changes in compared.changes(usize::MAX) {
        let Changes { new, changed: (before, now) } = changes?;
        write_whole(&mut out, &new, "new")?;
        for row in 0..now.num_rows() {
            let mut line = line(&now, row, "changed")?;
            for (name, one, other) in columns.differing(&before, &now, row) {
                let (before, now) = (cell(before.column(*one), row), cell(now.column(*other), row));
                line.insert(name.clone(), json!({ "before": before, "now": now }));
            }
            out.line(&Value::from(line).to_string())?;
        }
    }
    out.finish()
}

/// Rows with all that they hold.
fn write_whole(out: &mut Out, rows: &RecordBatch, change: &str) -> Result<()> {
    let schema = rows.schema();
    let names = || schema.fields().iter().map(|field| field.name());
    for row in 0..rows.num_rows() {
        let mut line = line(rows, row, change)?;
        let columns = names().zip(rows.columns());
        for (name, column) in columns.filter(|(name, _)| !is_identity(name)) {
            line.insert(name.clone(), cell(column, row));
        }
        out.line(&Value::from(line).to_string())?;
    }
    Ok(())
}

fn line(rows: &RecordBatch, row: usize, change: &str) -> Result<Map<String, Value>> {
    let id = cell_text(id(rows)?, row);
    Ok(Map::from_iter([("_id".to_owned(), id.into()), ("change".to_owned(), change.into())]))
}

fn id(rows: &RecordBatch) -> Result<&ArrayRef> {
    let missing = || CliError::new(NODE_FAILED, "the table has no ids");
    rows.column_by_name("_id").ok_or_else(missing)
}
