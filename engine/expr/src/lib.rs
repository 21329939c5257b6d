//! An expression over the columns of a row: `stsb >= 4.0 and cola = 'acceptable'`.
//!
//! Three types: text, number, boolean. A row passes a filter only if the expression is
//! *true*. Null makes a comparison unknown, as in SQL, and so does NaN: a score that is
//! missing or not a number never passes a threshold, not even under `not`. `is null`
//! and `is nan` ask for them. Numbers are 64-bit floats; whole numbers are exact up to
//! 2^53.
//!
//! ```text
//! or, and, not            = == != <> < <= > >=      + - * / %
//! x is [not] null         x is [not] nan            x [not] in (a, b, c)
//! 'text' with '' for '    `odd column name`         true false null
//! length words lower upper trim abs contains starts_with ends_with edit_distance word_overlap same_numbers coalesce
//! ```

mod check;
mod eval;
mod lex;
mod parse;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch};
use arrow::datatypes::Schema;

pub use check::Type;
use parse::Node;

/// Why an expression cannot be used, and where in its text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ExprError {
    /// What is wrong, in the user's words.
    pub message: String,
    /// Byte range in the expression's text.
    pub span: (usize, usize),
    /// The way out, if there is a likely one.
    pub hint: Option<String>,
}

impl ExprError {
    fn new(message: impl Into<String>, span: (usize, usize)) -> Self {
        Self { message: message.into(), span, hint: None }
    }

    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

type Result<T> = std::result::Result<T, ExprError>;

/// A parsed expression.
#[derive(Clone, Debug)]
pub struct Expr {
    text: String,
    root: Node,
}

impl Expr {
    /// Parses `text`; nesting is limited, so that hostile text cannot exhaust the stack.
    pub fn parse(text: &str) -> Result<Self> {
        Ok(Self { text: text.to_owned(), root: parse::parse(text)? })
    }

    /// The expression as it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The names of the columns it reads, each once.
    pub fn columns(&self) -> Vec<&str> {
        let mut names = Vec::new();
        self.root.visit_columns(&mut |name| {
            if !names.contains(&name) {
                names.push(name);
            }
        });
        names
    }

    /// The type of the result over rows of `schema`.
    pub fn check(&self, schema: &Schema) -> Result<Type> {
        check::check(&self.root, schema)
    }

    /// Checks that the expression is a condition over rows of `schema`.
    pub fn check_condition(&self, schema: &Schema) -> Result<()> {
        match self.check(schema)? {
            Type::Bool | Type::Null => Ok(()),
            other => Err(ExprError::new(
                format!("the expression is {other}, not a condition"),
                (0, self.text.len()),
            )
            .hint("compare it with something, as in `stsb >= 4.0`")),
        }
    }

    /// True, false or unknown (null) for every row.
    pub fn evaluate(&self, rows: &RecordBatch) -> Result<BooleanArray> {
        self.check_condition(&rows.schema())?;
        let columns = eval::Columns::bind(rows, &self.columns());
        Ok((0..rows.num_rows()).map(|row| eval::truth(&self.root, &columns, row)).collect())
    }

    /// The value for every row: an array of booleans, 64-bit floats or text, as [`Expr::check`] says; of nulls where it is always
    /// null.
    pub fn values(&self, rows: &RecordBatch) -> Result<ArrayRef> {
        let kind = self.check(&rows.schema())?;
        let columns = eval::Columns::bind(rows, &self.columns());
        let values = (0..rows.num_rows()).map(|row| eval::evaluate(&self.root, &columns, row));
        Ok(eval::array(kind, values))
    }

    /// For each row that does not pass: which of the conditions joined by `and` were not
    /// true, with the values that they saw. `None` for a row that passes.
    pub fn reasons(&self, rows: &RecordBatch) -> Result<Vec<Option<String>>> {
        self.check_condition(&rows.schema())?;
        let columns = eval::Columns::bind(rows, &self.columns());
        let conditions = self.root.conjuncts();
        let reason = |row| {
            let failed: Vec<_> = conditions
                .iter()
                .filter(|node| eval::truth(node, &columns, row) != Some(true))
                .map(|node| self.describe(node, &columns, row))
                .collect();
            (!failed.is_empty()).then(|| failed.join("; "))
        };
        Ok((0..rows.num_rows()).map(reason).collect())
    }

    /// "not stsb >= 4.0 (stsb = 3.2)"
    fn describe(&self, node: &Node, columns: &eval::Columns, row: usize) -> String {
        let (start, end) = node.span;
        let mut values = Vec::new();
        node.visit_columns(&mut |name| {
            let value = format!("{name} = {}", columns.value(name, row));
            if !values.contains(&value) {
                values.push(value);
            }
        });
        format!("not {} ({})", &self.text[start..end], values.join(", "))
    }
}
