//! An expression over the columns of a row: `stsb >= 4.0 and cola = 'acceptable'`.
//!
//! Types: text, numbers (whole ones and 64-bit floats), boolean, date, date and time. Of columns of other types one can ask whether
//! they are null. A row passes a filter only if the expression is *true*. Null makes a comparison unknown, as in SQL, and so does NaN: a score that is
//! missing or not a number never passes a threshold, not even under `not`. `is null`
//! and `is nan` ask for them. Whole numbers are exact, in comparisons with floats too; only `/` makes floats of them.
//!
//! ```text
//! or, and, not            = == != <> < <= > >=      + - * / %
//! x is [not] null         x is [not] nan            x [not] in (a, b, c)
//! 'text' with '' for '    `odd column name`         true false null
//! length words lower upper trim abs contains starts_with ends_with edit_distance word_overlap same_numbers coalesce
//! number text date        a text in another type; null where it has no form in it
//! ```

mod check;
mod conditions;
mod eval;
mod lex;
mod moment;
mod normal;
mod parse;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch};
use arrow::datatypes::Schema;

pub use check::{Type, type_name};
pub use conditions::{Bound, Condition};
pub use normal::normalise;
use parse::Node;

/// Why an expression cannot be used, and where in its text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ExprError {
    /// What is wrong, in the user's words.
    pub message: String,
    /// Byte range in the expression's text.
    pub span: (usize, usize),
    /// How to fix it, if there is a likely way.
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

fn first(errors: Vec<ExprError>) -> ExprError {
    errors
        .into_iter()
        .next()
        .unwrap_or_else(|| ExprError::new("the expression has no type", (0, 0)))
}

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

    /// The type of the result over rows of `schema`, or the first thing that is wrong.
    pub fn check(&self, schema: &Schema) -> Result<Type> {
        self.check_all(schema).map_err(first)
    }

    /// The type of the result over rows of `schema`, or all that is wrong, in the order of the text.
    ///
    /// # Errors
    /// At least one.
    pub fn check_all(&self, schema: &Schema) -> std::result::Result<Type, Vec<ExprError>> {
        let mut errors = Vec::new();
        let kind = check::check(&self.root, schema, &mut errors);
        errors.sort_by_key(|error| error.span);
        match kind {
            Some(kind) if errors.is_empty() => Ok(kind),
            _ => Err(errors),
        }
    }

    /// Errors that do not depend on the columns, such as unknown functions: for an expression over a table of unknown schema.
    pub fn check_functions(&self) -> Vec<ExprError> {
        let mut errors = Vec::new();
        check::check_functions(&self.root, &mut errors);
        errors
    }

    /// The column that the expression is, if it is nothing else.
    pub fn as_column(&self) -> Option<&str> {
        match &self.root.kind {
            parse::Kind::Column(name) => Some(name),
            _ => None,
        }
    }

    /// Checks that the expression is a condition over rows of `schema`.
    pub fn check_condition(&self, schema: &Schema) -> Result<()> {
        self.check_condition_all(schema).map_err(first)
    }

    /// Checks that the expression is a condition over rows of `schema`, and tells all that is wrong.
    ///
    /// # Errors
    /// At least one.
    pub fn check_condition_all(&self, schema: &Schema) -> std::result::Result<(), Vec<ExprError>> {
        match self.check_all(schema)? {
            Type::Bool | Type::Null => Ok(()),
            other => {
                let message = format!("the expression is {other}, not a condition");
                let error = ExprError::new(message, (0, self.text.len()));
                Err(vec![error.hint("compare it with something, as in `stsb >= 4.0`")])
            }
        }
    }

    /// True, false or unknown (null) for every row.
    pub fn evaluate(&self, rows: &RecordBatch) -> Result<BooleanArray> {
        self.check_condition(&rows.schema())?;
        let columns = eval::Columns::bind(rows, &self.columns());
        Ok((0..rows.num_rows()).map(|row| eval::truth(&self.root, &columns, row)).collect())
    }

    /// The value for every row: an array of booleans, 64-bit integers or floats, text, dates or times, as [`Expr::check`] says; of
    /// nulls where it is always null.
    ///
    /// # Errors
    /// What [`Expr::check`] says, or that a whole number does not fit into 64 bits.
    pub fn values(&self, rows: &RecordBatch) -> Result<ArrayRef> {
        let kind = self.check(&rows.schema())?;
        let columns = eval::Columns::bind(rows, &self.columns());
        let values = (0..rows.num_rows()).map(|row| eval::evaluate(&self.root, &columns, row));
        eval::array(kind, values).map_err(|row| {
            let message =
                format!("the result is too large for a whole number of 64 bits in row {}", row + 1);
            ExprError::new(message, self.root.span)
                .hint("`number(...)` of one of its parts makes it a float")
        })
    }

    /// For each row that does not pass: which of the conditions joined by `and` were not
    /// true, with the values of their columns. `None` for a row that passes.
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
