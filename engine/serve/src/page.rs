//! The page to try it: a form without scripts, filled in by the server.

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::FieldRef;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use minijinja::Environment;
use minijinja::value::Serde;
use serde::Serialize;

use crate::rows::{Row, text_columns};
use crate::{About, is_told};

const TEMPLATE: &str = "page.html";
/// More columns than a person would fill in.
const MAX_FIELDS: usize = 6;

/// The page of a server.
pub(crate) struct Page {
    templates: Environment<'static>,
    title: String,
    nodes: Vec<String>,
    columns: Vec<String>,
    ports: Vec<String>,
    asks_for_token: bool,
}

/// Content of the form: per column a text with one line per row.
pub(crate) struct Filled(Vec<(String, String)>);

/// Context of the template.
#[derive(Serialize)]
struct Content<'a> {
    title: &'a str,
    nodes: &'a [String],
    fields: Vec<Field<'a>>,
    tables: &'a [Table<'a>],
    problem: Option<&'a str>,
    host: &'a str,
    asks_for_token: bool,
    /// The body of a request with the first row.
    example: String,
}

#[derive(Serialize)]
struct Field<'a> {
    name: &'a str,
    text: &'a str,
}

#[derive(Serialize)]
struct Table<'a> {
    port: &'a str,
    columns: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Page {
    pub(crate) fn new(about: &About, asks_for_token: bool) -> Self {
        let mut templates = Environment::new();
        // The template is compiled in and rendered by a test, so this cannot fail.
        let _ = templates.add_template(TEMPLATE, include_str!("page.html"));
        let columns = text_columns(&about.input).into_iter().take(MAX_FIELDS);
        Self {
            templates,
            title: about.title.clone(),
            nodes: about.nodes.clone(),
            columns: columns.map(str::to_owned).collect(),
            ports: about.outputs.iter().map(|(port, _)| port.clone()).collect(),
            asks_for_token,
        }
    }

    /// The page to begin with.
    pub(crate) fn empty(&self, host: &str) -> String {
        self.render(host, &Filled(Vec::new()), &[], None)
    }

    /// What was written into the form.
    pub(crate) fn fill(&self, body: &[u8]) -> Filled {
        let pairs = form_urlencoded::parse(body).into_owned();
        Filled(pairs.filter(|(name, _)| self.columns.contains(name)).collect())
    }

    /// The page with what was asked and what came of it.
    pub(crate) fn filled(
        &self,
        host: &str,
        filled: &Filled,
        outcome: Result<&[RecordBatch], &str>,
    ) -> String {
        match outcome {
            Ok(outputs) => {
                let tables = self.ports.iter().zip(outputs);
                let tables = tables.filter(|(port, rows)| is_told(port, rows));
                let tables = tables.map(|(port, rows)| table(port, rows));
                self.render(host, filled, &tables.collect::<Vec<_>>(), None)
            }
            Err(problem) => self.render(host, filled, &[], Some(problem)),
        }
    }

    fn render(
        &self,
        host: &str,
        filled: &Filled,
        tables: &[Table],
        problem: Option<&str>,
    ) -> String {
        let field = |name| Field { name, text: filled.text(name) };
        let fields: Vec<_> = self.columns.iter().map(|name| field(name)).collect();
        let example = filled.rows().into_iter().next().unwrap_or_else(|| {
            let example = |name: &String| (name.clone(), "...".into());
            self.columns.iter().map(example).collect()
        });
        let content = Content {
            title: &self.title,
            nodes: &self.nodes,
            fields,
            tables,
            problem,
            host,
            asks_for_token: self.asks_for_token,
            // Within quotes of a shell.
            example: serde_json::json!({"rows": [example]}).to_string().replace('\'', "'\\''"),
        };
        let template = self.templates.get_template(TEMPLATE);
        let rendered = template.and_then(|page| page.render(Serde(content)));
        rendered.unwrap_or_else(|error| error.to_string())
    }
}

impl Filled {
    fn text(&self, column: &str) -> &str {
        self.0.iter().find(|(name, _)| name == column).map_or("", |(_, text)| text)
    }

    /// A row for every line; lines that are empty in all columns are left out.
    pub(crate) fn rows(&self) -> Vec<Row> {
        let lines = |text: &str| text.lines().map(|line| line.trim().to_owned()).collect();
        let columns: Vec<(&String, Vec<String>)> =
            self.0.iter().map(|(name, text)| (name, lines(text))).collect();
        let count = columns.iter().map(|(_, lines)| lines.len()).max().unwrap_or(0);
        let row = |at: usize| -> Row {
            let given = columns.iter().filter_map(|(name, lines)| Some((name, lines.get(at)?)));
            let given = given.filter(|(_, line)| !line.is_empty());
            given.map(|(name, line)| ((*name).clone(), line.as_str().into())).collect()
        };
        (0..count).map(row).filter(|row: &Row| !row.is_empty()).collect()
    }
}

/// Rows as texts, without what the engine uses to find them again.
fn table<'a>(port: &'a str, rows: &RecordBatch) -> Table<'a> {
    let options = FormatOptions::default().with_display_error(true);
    let schema = rows.schema();
    let fields = schema.fields().iter().zip(rows.columns());
    let shown: Vec<_> = fields.filter(|(field, _)| !field.name().starts_with('_')).collect();
    let formatters: Vec<_> = shown
        .iter()
        .filter_map(|(_, values)| ArrayFormatter::try_new(values.as_ref(), &options).ok())
        .collect();
    let cell = |(column, (_, values)): (&ArrayFormatter, &(&FieldRef, &ArrayRef)), row| {
        let text = column.value(row).to_string();
        match text.parse::<f64>() {
            // More digits than a person wants.
            Ok(number) if values.data_type().is_floating() => format!("{number:.4}"),
            _ => text,
        }
    };
    let row = |row| formatters.iter().zip(&shown).map(|column| cell(column, row)).collect();
    Table {
        port,
        columns: shown.iter().map(|(field, _)| field.name().clone()).collect(),
        rows: (0..rows.num_rows()).map(row).collect(),
    }
}
