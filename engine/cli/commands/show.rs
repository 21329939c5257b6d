//! `show`: rows of a table.

use std::process::ExitCode;

use arrow::array::RecordBatch;
use arrow::compute::filter_record_batch;
use paraloom_exec::{Found, Lookup, PortResult, TableRef};
use paraloom_expr::Expr;
use paraloom_pipeline::{Graph, nearest};

use crate::args::{ShowArgs, StageArgs};
use crate::context::Project;
use crate::error::{CliError, Result};
use crate::render;

/// Rows in a table for a person, unless asked otherwise.
const DEFAULT_LIMIT: usize = 20;

pub(crate) fn run(args: &ShowArgs, stages: &StageArgs) -> Result<ExitCode> {
    let project_ = Project::open(&args.pipeline, stages)?;
    let store = project_.need_store()?;
    let lookup = Lookup::new(&project_.graph, &project_.workspace.host, Some(&store))?;
    let table = find_table(&project_.graph, &lookup, &args.node)?;
    let condition =
        args.condition.as_deref().map(|text| parse_condition(text, &table)).transpose()?;
    let for_person = !args.json && !args.csv;
    let limit = args.limit.unwrap_or(if for_person { DEFAULT_LIMIT } else { usize::MAX });
    let rows = read_rows(&table, condition.as_ref(), limit)?;
    if for_person {
        let shown: usize = rows.iter().map(RecordBatch::num_rows).sum();
        render::print_rows(&project(rows, &args.columns)?)?;
        if condition.is_none() && (shown as u64) < table.rows() {
            render::note(&format!("{shown} of {} rows; --limit shows more", table.rows()));
        }
        return Ok(ExitCode::SUCCESS);
    }
    let rows = select(rows, &args.columns)?;
    if args.json {
        write_json(&rows)?;
    } else {
        write_csv(&table, &rows)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The finished table that `name` means.
pub(crate) fn find_table(graph: &Graph, lookup: &Lookup, name: &str) -> Result<TableRef> {
    let endpoint = graph.table(name).map_err(CliError::usage)?;
    match (lookup.output(endpoint), lookup.found(endpoint.node)) {
        (Some(PortResult::Table(table)), _) => Ok(table.clone()),
        (_, Found::Partial { parts, .. }) if parts.0 > 0 => {
            let message =
                format!("`{name}` is not finished: {} of {} parts are there", parts.0, parts.1);
            Err(CliError::new(1, message).hint("`paraloom run` goes on"))
        }
        _ => {
            Err(CliError::new(1, format!("`{name}` has no result yet"))
                .hint("`paraloom run` makes it"))
        }
    }
}

fn parse_condition(text: &str, table: &TableRef) -> Result<Expr> {
    let refuse = |error: paraloom_expr::ExprError| {
        let failure = CliError::usage(format!("--where: {error}"));
        match error.hint {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    };
    let expr = Expr::parse(text).map_err(refuse)?;
    expr.check_condition(&table.schema).map_err(refuse)?;
    Ok(expr)
}

/// The rows that meet the condition, which was checked against their columns.
pub(crate) fn passing(rows: RecordBatch, condition: Option<&Expr>) -> Result<RecordBatch> {
    let Some(condition) = condition else { return Ok(rows) };
    let passes = condition.evaluate(&rows).map_err(|error| CliError::usage(error.to_string()))?;
    Ok(filter_record_batch(&rows, &passes)?)
}

/// The first `limit` rows that meet the condition; parts are read one at a time.
pub(crate) fn read_rows(
    table: &TableRef,
    condition: Option<&Expr>,
    limit: usize,
) -> Result<Vec<RecordBatch>> {
    let (mut rows, mut left) = (Vec::new(), limit);
    for batch in table.batches() {
        if left == 0 {
            break;
        }
        let batch = passing(batch?, condition)?;
        let taken = batch.num_rows().min(left);
        left -= taken;
        rows.push(batch.slice(0, taken));
    }
    if rows.is_empty() {
        rows.push(RecordBatch::new_empty(table.schema.clone()));
    }
    Ok(rows)
}

/// For a person: the named columns, or all but the ids, which come last anyway.
pub(crate) fn project(rows: Vec<RecordBatch>, columns: &[String]) -> Result<Vec<RecordBatch>> {
    if !columns.is_empty() {
        return select(rows, columns);
    }
    let Some(first) = rows.first() else { return Ok(rows) };
    let names: Vec<_> = first.schema().fields().iter().map(|field| field.name().clone()).collect();
    let shown: Vec<_> = names.into_iter().filter(|name| name != "_parent").collect();
    let ids_last = |name: &String| name == "_id";
    let (ids, mut others): (Vec<_>, Vec<_>) = shown.into_iter().partition(ids_last);
    others.extend(ids);
    select(rows, &others)
}

fn select(rows: Vec<RecordBatch>, columns: &[String]) -> Result<Vec<RecordBatch>> {
    if columns.is_empty() {
        return Ok(rows);
    }
    let Some(first) = rows.first() else { return Ok(rows) };
    let schema = first.schema();
    let index = |name: &String| {
        schema.index_of(name).map_err(|_| {
            let names = schema.fields().iter().map(|field| field.name().as_str());
            let error = CliError::usage(format!("there is no column `{name}`"));
            match nearest(name, names) {
                Some(near) => error.hint(format!("did you mean `{near}`?")),
                None => error,
            }
        })
    };
    let indices: Vec<_> = columns.iter().map(index).collect::<Result<_>>()?;
    rows.iter().map(|batch| Ok(batch.project(&indices)?)).collect()
}

fn write_json(rows: &[RecordBatch]) -> Result<()> {
    let builder = arrow_json::WriterBuilder::new().with_explicit_nulls(true);
    let mut writer =
        builder.build::<_, arrow_json::writer::LineDelimited>(std::io::stdout().lock());
    for batch in rows {
        writer.write(batch)?;
    }
    Ok(writer.finish()?)
}

fn write_csv(table: &TableRef, rows: &[RecordBatch]) -> Result<()> {
    let mut writer =
        arrow_csv::WriterBuilder::new().with_header(true).build(std::io::stdout().lock());
    if rows.is_empty() {
        writer.write(&RecordBatch::new_empty(table.schema.clone()))?;
    }
    for batch in rows {
        writer.write(batch)?;
    }
    Ok(())
}
