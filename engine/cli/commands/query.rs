//! Streams rows of a table part by part, in constant memory.

use arrow::array::RecordBatch;
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Schema, SchemaRef};
use paraloom_exec::{Found, Lookup, PortResult, TableRef};
use paraloom_expr::Expr;
use paraloom_pipeline::{Graph, nearest};
use paraloom_store::PartFile;

use crate::error::{CliError, NODE_FAILED, Result};

/// Which rows of a table, and which of their columns.
pub(crate) struct Query<'a> {
    table: &'a TableRef,
    condition: Option<&'a Expr>,
    /// The columns to give, in this order.
    columns: Vec<usize>,
    /// Those to read, in the order of the table: a condition may need others.
    read: Vec<usize>,
    skip: u64,
    limit: u64,
}

impl<'a> Query<'a> {
    /// All rows, with all columns.
    pub(crate) fn all(table: &'a TableRef) -> Self {
        let columns: Vec<_> = (0..table.schema.fields().len()).collect();
        let read = columns.clone();
        Self { table, condition: None, columns, read, skip: 0, limit: u64::MAX }
    }

    /// Only the columns with these numbers, in this order.
    pub(crate) fn columns(mut self, columns: Vec<usize>) -> Self {
        self.columns = columns;
        self.plan();
        self
    }

    /// Only rows that meet a condition, which was checked against the table.
    pub(crate) fn meeting(mut self, condition: Option<&'a Expr>) -> Self {
        self.condition = condition;
        self.plan();
        self
    }

    /// Only so many of these rows, after some that are passed over.
    pub(crate) fn range(mut self, skip: u64, limit: u64) -> Self {
        (self.skip, self.limit) = (skip, limit);
        self
    }

    fn plan(&mut self) {
        self.read.clone_from(&self.columns);
        let needed = self.condition.map(Expr::columns).unwrap_or_default();
        self.read.extend(needed.iter().filter_map(|name| self.table.schema.index_of(name).ok()));
        self.read.sort_unstable();
        self.read.dedup();
    }

    /// The schema of the rows.
    pub(crate) fn schema(&self) -> Result<SchemaRef> {
        Ok(self.table.schema.project(&self.columns)?.into())
    }

    /// The rows.
    pub(crate) fn rows(&self) -> impl Iterator<Item = Result<RecordBatch>> {
        let (mut parts, mut skip, mut left) = (self.table.parts.iter(), self.skip, self.limit);
        std::iter::from_fn(move || {
            while left > 0 {
                let part = parts.next()?;
                if self.condition.is_none() && skip >= part.rows {
                    // The part is skipped without reading it.
                    skip -= part.rows;
                    continue;
                }
                let rows = match self.part(part) {
                    Ok(rows) => rows,
                    Err(error) => {
                        left = 0;
                        return Some(Err(error));
                    }
                };
                let passed = skip.min(rows.num_rows() as u64);
                skip -= passed;
                let taken = (rows.num_rows() as u64 - passed).min(left);
                left -= taken;
                if taken > 0 {
                    return Some(Ok(rows.slice(passed as usize, taken as usize)));
                }
            }
            None
        })
    }

    /// The rows of a part that meet the condition.
    pub(crate) fn part(&self, part: &PartFile) -> Result<RecordBatch> {
        let rows = self.table.entry.read_part_columns(part, &self.read)?;
        let rows = passing(rows, self.condition)?;
        let place = |column: &usize| self.read.binary_search(column).unwrap_or_default();
        Ok(rows.project(&self.columns.iter().map(place).collect::<Vec<_>>())?)
    }
}

/// The rows that meet the condition, which was checked against their columns.
fn passing(rows: RecordBatch, condition: Option<&Expr>) -> Result<RecordBatch> {
    let Some(condition) = condition else { return Ok(rows) };
    let passes = condition.evaluate(&rows).map_err(|error| CliError::usage(error.to_string()))?;
    Ok(filter_record_batch(&rows, &passes)?)
}

/// A condition on the rows of a table.
pub(crate) fn parse_condition(text: &str, table: &TableRef) -> Result<Expr> {
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

/// The numbers of the columns with these names.
pub(crate) fn named(schema: &Schema, names: &[String]) -> Result<Vec<usize>> {
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
    names.iter().map(index).collect()
}

/// For a person: the named columns, or all but the parent, with the id last.
pub(crate) fn for_person(schema: &Schema, names: &[String]) -> Result<Vec<usize>> {
    if !names.is_empty() {
        return named(schema, names);
    }
    let name = |column: &usize| schema.field(*column).name().as_str();
    let all = || (0..schema.fields().len()).filter(|column| name(column) != "_parent");
    let ids = all().filter(|column| name(column) == "_id");
    Ok(all().filter(|column| name(column) != "_id").chain(ids).collect())
}

/// The finished table that `name` means.
pub(crate) fn find_table(graph: &Graph, lookup: &Lookup, name: &str) -> Result<TableRef> {
    let endpoint = graph.table(name).map_err(CliError::usage)?;
    match (lookup.output(endpoint), lookup.found(endpoint.node)) {
        (Some(PortResult::Table(table)), _) => Ok(table.clone()),
        (_, Found::Partial { parts, .. }) if parts.0 > 0 => {
            let message =
                format!("`{name}` is not finished: {} of {} parts are there", parts.0, parts.1);
            Err(CliError::new(NODE_FAILED, message).hint("`paraloom run` goes on"))
        }
        _ => Err(CliError::new(NODE_FAILED, format!("`{name}` has no result yet"))
            .hint("`paraloom run` makes it")),
    }
}
