//! Streams rows of a table part by part, in constant memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, filter, filter_record_batch, take_record_batch};
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
        self.read.extend(self.needed());
        self.read.sort_unstable();
        self.read.dedup();
    }

    /// The columns that the condition is about.
    fn needed(&self) -> Vec<usize> {
        let names = self.condition.map(Expr::columns).unwrap_or_default();
        names.iter().filter_map(|name| self.table.schema.index_of(name).ok()).collect()
    }

    /// Which rows meet the condition; none where there is no condition. It was checked against their columns.
    fn passes(&self, rows: &RecordBatch) -> Result<Option<BooleanArray>> {
        let passes = self.condition.map(|condition| condition.evaluate(rows)).transpose();
        passes.map_err(|error| CliError::usage(error.to_string()))
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

    /// How many parts the table has.
    pub(crate) fn parts(&self) -> usize {
        self.table.parts.len()
    }

    /// Of the rows of a part that meet the condition: which they are, and their values in a column.
    pub(crate) fn column_of(&self, part: usize, column: usize) -> Result<(UInt32Array, ArrayRef)> {
        let mut read = self.needed();
        read.push(column);
        read.sort_unstable();
        read.dedup();
        let rows = self.table.entry.read_part_columns(&self.table.parts[part], &read)?;
        let values = Arc::clone(rows.column(read.binary_search(&column).unwrap_or_default()));
        let all = UInt32Array::from_iter_values(0..rows.num_rows() as u32);
        let Some(passes) = self.passes(&rows)? else { return Ok((all, values)) };
        let places = filter(&all, &passes)?.as_primitive().clone();
        Ok((places, filter(&values, &passes)?))
    }

    /// The rows at some places, each a part and a row in it, in that order. Each part is read once.
    pub(crate) fn rows_at(&self, places: &[(usize, u32)]) -> Result<RecordBatch> {
        // By part: which rows, and where they belong.
        let mut wanted: BTreeMap<usize, Vec<(u32, u32)>> = BTreeMap::new();
        for (at, (part, row)) in (0..).zip(places) {
            wanted.entry(*part).or_default().push((at, *row));
        }
        let all = Self::all(self.table).columns(self.columns.clone());
        let (mut found, mut order) = (Vec::new(), vec![0; places.len()]);
        let mut count = 0;
        for (part, rows) in wanted {
            let numbers: UInt32Array = rows.iter().map(|(_, row)| Some(*row)).collect();
            found.push(take_record_batch(&all.part(&self.table.parts[part])?, &numbers)?);
            for (at, _) in rows {
                order[at as usize] = count;
                count += 1;
            }
        }
        let found = concat_batches(&self.schema()?, &found)?;
        Ok(take_record_batch(&found, &UInt32Array::from(order))?)
    }

    /// The rows of a part that meet the condition.
    pub(crate) fn part(&self, part: &PartFile) -> Result<RecordBatch> {
        let rows = self.table.entry.read_part_columns(part, &self.read)?;
        let rows = match self.passes(&rows)? {
            Some(passes) => filter_record_batch(&rows, &passes)?,
            None => rows,
        };
        let place = |column: &usize| self.read.binary_search(column).unwrap_or_default();
        Ok(rows.project(&self.columns.iter().map(place).collect::<Vec<_>>())?)
    }
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
    let mut found = Vec::with_capacity(names.len());
    for name in names {
        let Ok(column) = schema.index_of(name) else {
            let names = || schema.fields().iter().map(|field| field.name().as_str());
            let error = CliError::usage(format!("there is no column `{name}`"));
            return Err(error.hint(match nearest(name, names()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => {
                    let names: Vec<_> = names().map(|name| format!("`{name}`")).collect();
                    format!("there is {}", names.join(", "))
                }
            }));
        };
        // Neither JSON nor `load` would tell the two apart.
        if found.contains(&column) {
            return Err(CliError::usage(format!("the column `{name}` is named twice")));
        }
        found.push(column);
    }
    Ok(found)
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
