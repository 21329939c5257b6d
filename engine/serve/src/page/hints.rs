//! What is known of the columns beyond their types, so that the page can speak of them in words.

use serde::Serialize;

/// How the page shows rows. Without hints it shows plain tables.
#[derive(Clone, Debug, Default)]
pub struct Hints {
    /// The column that is rewritten, and the one that holds what it became.
    pub pair: Option<(String, String)>,
    /// Columns with a name or a scale for people.
    pub columns: Vec<ColumnHint>,
    /// What decides whether a row is kept; none where all are.
    pub judge: Option<Judge>,
    /// Some texts to try it with.
    pub examples: Vec<String>,
}

/// A column in words.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ColumnHint {
    /// The column.
    pub column: String,
    /// What a person calls it; empty for a column that need not be shown.
    pub label: String,
    /// The ends of its scale, if it has one.
    pub scale: Option<(f64, f64)>,
}

/// What decides whether a row is kept.
#[derive(Clone, Debug, PartialEq)]
pub struct Judge {
    /// The output with the rows that are kept.
    pub kept: String,
    /// The output with the others.
    pub rejected: String,
    /// The column of `rejected` that says why: `not CONDITION (...)` for each that failed, joined by `; `.
    pub reason: String,
    /// All that a row must meet.
    pub conditions: Vec<Condition>,
}

/// Something that a row must meet.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    /// As the pipeline says it.
    pub text: String,
    /// What is wrong with a row that does not meet it, in words.
    pub words: Option<String>,
    /// The threshold that it is, if it is one.
    pub limit: Option<Limit>,
}

/// A threshold.
#[derive(Clone, Debug, PartialEq)]
pub struct Limit {
    /// The column.
    pub column: String,
    /// `<`, `<=`, `>` or `>=`.
    pub comparison: String,
    /// What the column is compared with.
    pub value: f64,
}

impl Hints {
    /// A column in words.
    pub(crate) fn label<'a>(&'a self, column: &'a str) -> &'a str {
        self.column(column).map_or(column, |hint| &hint.label)
    }

    pub(crate) fn column(&self, column: &str) -> Option<&ColumnHint> {
        self.columns.iter().find(|hint| hint.column == column)
    }
}
