//! One page on what came of a pipeline, which needs nothing beside it.

use minijinja::Environment;
use minijinja::value::Serde;
use serde::Serialize;

/// What the page shows.
#[derive(Serialize)]
pub(crate) struct Report {
    pub(crate) name: String,
    pub(crate) version: &'static str,
    /// When.
    pub(crate) made: String,
    /// Nodes that are done.
    pub(crate) done: usize,
    /// What is not as the pipeline expects.
    pub(crate) unmet: Vec<String>,
    pub(crate) nodes: Vec<NodeLine>,
    /// SVG.
    pub(crate) drawing: String,
    pub(crate) groups: Vec<Group>,
    pub(crate) tables: Vec<Table>,
}

#[derive(Serialize)]
pub(crate) struct NodeLine {
    pub(crate) name: String,
    pub(crate) stage: String,
    pub(crate) outcome: String,
    /// Of the rows that came in, those that the first output has.
    pub(crate) share: Option<f64>,
    pub(crate) time: String,
    pub(crate) key: String,
}

/// The charts of one node.
#[derive(Serialize)]
pub(crate) struct Group {
    pub(crate) title: String,
    pub(crate) charts: Vec<Chart>,
}

#[derive(Serialize)]
pub(crate) struct Chart {
    pub(crate) title: String,
    pub(crate) summary: String,
    /// SVG.
    pub(crate) svg: String,
}

#[derive(Serialize)]
pub(crate) struct Table {
    pub(crate) name: String,
    pub(crate) rows: u64,
    pub(crate) shown: usize,
    pub(crate) columns: Vec<String>,
    pub(crate) cells: Vec<Vec<String>>,
}

/// The page; everything that came from a file is escaped.
pub(crate) fn report(report: Report) -> Result<String, minijinja::Error> {
    let mut templates = Environment::new();
    templates.add_template("report.html", include_str!("report.html"))?;
    templates.get_template("report.html")?.render(Serde(report))
}
