//! `diff`: what became of the rows of a table, by their ids: with other variables, or in an earlier run.

use std::collections::HashMap;
use std::process::ExitCode;

use arrow::array::{Array, AsArray, RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::DataType;
use arrow::util::display::array_value_to_string;
use paraloom_exec::{Lookup, TableRef};
use serde_json::{Map, Value, json};

use super::print;
use super::show::{find_table, project, read_rows};
use crate::args::{DiffArgs, StageArgs};
use crate::context::Project;
use crate::error::{CliError, NODE_FAILED, Result};
use crate::recorded;
use crate::render::{self, printable};

pub(crate) fn run(args: &DiffArgs, stages: &StageArgs) -> Result<ExitCode> {
    let now = Project::open(&args.pipeline, stages)?;
    // A name that is wrong is wrong now, whatever was before.
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
        let way_out = format!("`paraloom run PIPELINE --set {}` makes it", set.join(" --set "));
        (table(&before, &args.node).map_err(|error| error.before(&what).hint(way_out))?, what)
    };
    let changes = Changes::between(rows(&before)?, rows(&table_now)?)?;
    if args.json {
        changes.print_json()?;
    } else {
        changes.print(args, &what)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The table in the run that somebody asks for, or in the newest one that left another.
fn earlier(args: &DiffArgs, now: &Project, table_now: &TableRef) -> Result<(String, TableRef)> {
    let store = now.need_store()?;
    if let Some(id) = &args.run {
        let run = recorded::find_run(&store, id)?;
        let table = recorded::table(&store, &run, &args.node)?;
        return Ok((run, table));
    }
    let name = now.graph.name.as_str();
    for run in store.runs()?.into_iter().rev() {
        if run.events.iter().all(|event| event["pipeline"] != name) {
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

/// All rows of a table; some are looked up again.
fn rows(table: &TableRef) -> Result<RecordBatch> {
    Ok(concat_batches(&table.schema, &read_rows(table, None, usize::MAX)?)?)
}

/// What became of rows, each by its number before and now.
struct Changes {
    before: RecordBatch,
    now: RecordBatch,
    gone: Vec<u32>,
    new: Vec<u32>,
    changed: Vec<(u32, u32)>,
    same: usize,
    /// The columns that both have, by their numbers.
    columns: Vec<(usize, usize)>,
}

impl Changes {
    fn between(before: RecordBatch, now: RecordBatch) -> Result<Self> {
        let (ids, ids_now) = (ids(&before)?, ids(&now)?);
        let mut places: HashMap<&str, u32> =
            ids.iter().zip(0..).map(|(id, row)| (*id, row)).collect();
        let (schema_before, schema) = (before.schema(), now.schema());
        let both = schema_before.fields().iter().enumerate().filter_map(|(number, field)| {
            let other = schema.index_of(field.name()).ok()?;
            Some((number, other)).filter(|_| !field.name().starts_with('_'))
        });
        let columns: Vec<_> = both.collect();
        let (mut new, mut changed, mut same) = (Vec::new(), Vec::new(), 0);
        for (id, row_now) in ids_now.iter().zip(0..) {
            match places.remove(id) {
                None => new.push(row_now),
                Some(row)
                    if columns.iter().all(|pair| equal(&before, &now, *pair, row, row_now)) =>
                {
                    same += 1;
                }
                Some(row) => changed.push((row, row_now)),
            }
        }
        let mut gone: Vec<_> = places.into_values().collect();
        gone.sort_unstable();
        drop((ids, ids_now));
        Ok(Self { before, now, gone, new, changed, same, columns })
    }

    /// Names and texts of the values that differ.
    fn differences(&self, row: u32, row_now: u32) -> impl Iterator<Item = [String; 3]> {
        let differ =
            move |pair: &&(usize, usize)| !equal(&self.before, &self.now, **pair, row, row_now);
        self.columns.iter().filter(differ).map(move |(column, column_now)| {
            let name = self.now.schema().field(*column_now).name().clone();
            [name, text(&self.before, *column, row), text(&self.now, *column_now, row_now)]
        })
    }

    /// The first text of a row that is what it was, by which a person knows the row.
    fn text_that_stays(&self, row: u32, row_now: u32) -> Option<String> {
        let stays = |(column, column_now): &&(usize, usize)| {
            self.now.column(*column_now).data_type() == &DataType::Utf8
                && equal(&self.before, &self.now, (*column, *column_now), row, row_now)
        };
        let (_, column) = self.columns.iter().find(stays)?;
        Some(text(&self.now, *column, row_now))
    }

    /// Columns that only one of the tables has.
    fn columns_only_in(one: &RecordBatch, other: &RecordBatch) -> Vec<String> {
        let (fields, other) = (one.schema(), other.schema());
        let names = fields.fields().iter().map(|field| field.name());
        names.filter(|name| other.index_of(name).is_err()).cloned().collect()
    }

    fn print(&self, args: &DiffArgs, what: &str) -> Result<()> {
        let (before, now) = (self.before.num_rows(), self.now.num_rows());
        print(&format!("{}: {before} rows {what}, {now} now", args.node))?;
        let [gone, new, changed] = [self.gone.len(), self.new.len(), self.changed.len()];
        let same = self.same;
        print(&format!(
            "{gone} are gone, {new} are new, {changed} have changed, {same} are the same"
        ))?;
        for (one, other, what) in
            [(&self.before, &self.now, "gone"), (&self.now, &self.before, "new")]
        {
            let columns = Self::columns_only_in(one, other);
            if !columns.is_empty() {
                print(&format!("{what} columns: {}", columns.join(", ")))?;
            }
        }
        for (table, rows, what) in
            [(&self.before, &self.gone, "gone"), (&self.now, &self.new, "new")]
        {
            let shown = &rows[..rows.len().min(args.limit)];
            if !shown.is_empty() {
                print(&format!("\n{what}{}", of(shown.len(), rows.len())))?;
                let rows = take_record_batch(table, &UInt32Array::from(shown.to_vec()))?;
                render::print_rows(&project(vec![rows], &args.columns)?)?;
            }
        }
        let shown = self.changed.len().min(args.limit);
        if shown > 0 {
            print(&format!("\nchanged{}", of(shown, changed)))?;
        }
        let id = self.now.schema().index_of("_id")?;
        for (row, row_now) in &self.changed[..shown] {
            let known_by = self.text_that_stays(*row, *row_now).unwrap_or_default();
            let line = format!("{}  {}", text(&self.now, id, *row_now), printable(&known_by));
            print(line.trim_end())?;
            for [name, before, now] in self.differences(*row, *row_now) {
                print(&format!(
                    "    {name}: {}\n    {:>2$} {3}",
                    printable(&before),
                    "->",
                    name.len() + 1,
                    printable(&now)
                ))?;
            }
        }
        Ok(())
    }

    /// One object a line: the id, what became of it, and for each column that differs both values.
    fn print_json(&self) -> Result<()> {
        let line = |table: &RecordBatch, row: u32, change: &str| -> Result<Map<String, Value>> {
            let id = text(table, table.schema().index_of("_id")?, row);
            Ok(Map::from_iter([
                ("_id".to_owned(), id.into()),
                ("change".to_owned(), change.into()),
            ]))
        };
        for (table, rows, change) in
            [(&self.before, &self.gone, "gone"), (&self.now, &self.new, "new")]
        {
            for row in rows {
                let mut line = line(table, *row, change)?;
                for (field, number) in table.schema().fields().iter().zip(0..) {
                    if !field.name().starts_with('_') {
                        line.insert(field.name().clone(), value(table, number, *row));
                    }
                }
                print(&Value::from(line).to_string())?;
            }
        }
        for (row, row_now) in &self.changed {
            let mut line = line(&self.now, *row_now, "changed")?;
            for (column, column_now) in &self.columns {
                if !equal(&self.before, &self.now, (*column, *column_now), *row, *row_now) {
                    let name = self.now.schema().field(*column_now).name().clone();
                    let (before, now) = (
                        value(&self.before, *column, *row),
                        value(&self.now, *column_now, *row_now),
                    );
                    line.insert(name, json!({ "before": before, "now": now }));
                }
            }
            print(&Value::from(line).to_string())?;
        }
        Ok(())
    }
}

/// ` (3 of 12; --limit shows more)`, where not all are shown.
fn of(shown: usize, all: usize) -> String {
    if shown == all { String::new() } else { format!(" ({shown} of {all}; --limit shows more)") }
}

fn ids(table: &RecordBatch) -> Result<Vec<&str>> {
    let missing = || CliError::new(NODE_FAILED, "the table has no ids");
    let ids = table.column_by_name("_id").and_then(|ids| ids.as_string_opt::<i32>());
    Ok(ids.ok_or_else(missing)?.iter().map(Option::unwrap_or_default).collect())
}

fn equal(
    before: &RecordBatch,
    now: &RecordBatch,
    columns: (usize, usize),
    row: u32,
    row_now: u32,
) -> bool {
    let one = before.column(columns.0).slice(row as usize, 1);
    let other = now.column(columns.1).slice(row_now as usize, 1);
    if one.data_type() == other.data_type() {
        return one == other;
    }
    text(before, columns.0, row) == text(now, columns.1, row_now)
}

fn text(table: &RecordBatch, column: usize, row: u32) -> String {
    let column = table.column(column);
    if column.is_null(row as usize) {
        return "null".to_owned();
    }
    array_value_to_string(column, row as usize).unwrap_or_default()
}

/// Numbers as numbers; what JSON has no number for as a text.
fn value(table: &RecordBatch, column: usize, row: u32) -> Value {
    let (array, text) = (table.column(column), text(table, column, row));
    match array.data_type() {
        _ if array.is_null(row as usize) => Value::Null,
        kind if kind.is_numeric() => text.parse().map_or(Value::String(text), Value::Number),
        DataType::Boolean => Value::Bool(text == "true"),
        _ => Value::String(text),
    }
}
