//! One page on what came of a pipeline, which needs nothing beside it.

use minijinja::Environment;
use minijinja::value::Serde;
use paraloom_diff::Piece;
use serde::Serialize;

/// What the page shows.
#[derive(Serialize)]
pub(crate) struct Report {
    pub(crate) name: String,
    pub(crate) version: &'static str,
    /// When the page was made.
    pub(crate) made: String,
    pub(crate) status: Badge,
    /// The newest run: its name, when it began, how it ended.
    pub(crate) run: Option<String>,
    pub(crate) figures: Vec<Figure>,
    pub(crate) expectations: Vec<Check>,
    pub(crate) funnel: Vec<Step>,
    pub(crate) measured: Vec<Measured>,
    pub(crate) against: Option<Against>,
    pub(crate) scores: Vec<Chart>,
    pub(crate) reasons: Vec<Reason>,
    pub(crate) findings: Vec<Finding>,
    pub(crate) examples: Vec<Examples>,
    pub(crate) tables: Vec<Table>,
    /// Tables that are left out.
    pub(crate) more_tables: usize,
    pub(crate) training: Vec<Group>,
    pub(crate) nodes: Vec<NodeLine>,
    pub(crate) more_nodes: usize,
    /// The times at the ends and between them, as (percent, text).
    pub(crate) ticks: Vec<(f64, String)>,
    /// SVG; none of a graph that is too large to be followed.
    pub(crate) drawing: Option<String>,
    pub(crate) again: Again,
}

/// A word with a colour: `good`, `bad` or `quiet`.
#[derive(Serialize)]
pub(crate) struct Badge {
    pub(crate) kind: &'static str,
    pub(crate) word: String,
    pub(crate) detail: String,
}

/// A number that the run is about.
#[derive(Serialize)]
pub(crate) struct Figure {
    pub(crate) value: String,
    pub(crate) label: String,
    pub(crate) note: String,
}

/// An expectation; none in `met` where there is no result to judge.
#[derive(Serialize)]
pub(crate) struct Check {
    pub(crate) met: Option<bool>,
    pub(crate) table: String,
    pub(crate) expected: String,
    pub(crate) found: String,
}

/// A step of the main chain.
#[derive(Serialize)]
pub(crate) struct Step {
    pub(crate) name: String,
    pub(crate) stage: String,
    /// How many rows, or what was made.
    pub(crate) count: String,
    /// Of the longest bar, in percent.
    pub(crate) width: f64,
    /// Beside the count: a share, or what became of the rest.
    pub(crate) note: String,
    /// `rows`, `same` where no row left, `made` for an artifact, `missing`.
    pub(crate) kind: &'static str,
}

/// A value of a table of metrics.
#[derive(Serialize)]
pub(crate) struct Measured {
    pub(crate) node: String,
    pub(crate) metric: String,
    pub(crate) value: String,
}

#[derive(Serialize)]
pub(crate) struct Chart {
    pub(crate) title: String,
    pub(crate) node: String,
    pub(crate) summary: String,
    /// SVG.
    pub(crate) svg: String,
}

/// Why rows were rejected, and how many.
#[derive(Serialize)]
pub(crate) struct Reason {
    pub(crate) node: String,
    pub(crate) text: String,
    pub(crate) count: String,
    pub(crate) width: f64,
}

/// Something about rewritten texts: how many of those that were made, and of those that were kept.
#[derive(Serialize)]
pub(crate) struct Finding {
    pub(crate) text: String,
    pub(crate) made: String,
    pub(crate) kept: String,
}

#[derive(Serialize)]
pub(crate) struct Examples {
    pub(crate) title: String,
    pub(crate) kind: &'static str,
    pub(crate) note: String,
    pub(crate) rows: Vec<Example>,
}

#[derive(Serialize)]
pub(crate) struct Example {
    pub(crate) source: String,
    pub(crate) pieces: Vec<Piece>,
    pub(crate) scores: Vec<(String, String)>,
    pub(crate) reason: String,
}

#[derive(Serialize)]
pub(crate) struct Table {
    pub(crate) name: String,
    pub(crate) rows: String,
    pub(crate) shown: String,
    pub(crate) columns: Vec<Column>,
    pub(crate) cells: Vec<Vec<String>>,
}

#[derive(Serialize)]
pub(crate) struct Column {
    pub(crate) name: String,
    pub(crate) is_number: bool,
}

/// The charts of one training.
#[derive(Serialize)]
pub(crate) struct Group {
    pub(crate) title: String,
    pub(crate) note: String,
    pub(crate) charts: Vec<Chart>,
}

#[derive(Serialize)]
pub(crate) struct NodeLine {
    pub(crate) name: String,
    pub(crate) stage: String,
    pub(crate) outcome: String,
    /// `done`, `partial` or `missing`.
    pub(crate) state: &'static str,
    pub(crate) time: String,
    /// What of it was there before the newest run.
    pub(crate) reused: String,
    pub(crate) memory: String,
    pub(crate) key: String,
    /// Where its work began in the newest run and how long it took, in percent.
    pub(crate) bar: Option<(f64, f64)>,
}

/// How to make it again.
#[derive(Default, Serialize)]
pub(crate) struct Again {
    pub(crate) command: String,
    pub(crate) facts: Vec<(String, String)>,
    pub(crate) variables: Vec<(String, String)>,
    pub(crate) text: String,
    /// Bytes of the text that are left out.
    pub(crate) cut: usize,
}

/// What is other than in another run.
#[derive(Serialize)]
pub(crate) struct Against {
    pub(crate) run: String,
    pub(crate) began: String,
    pub(crate) variables: Vec<(String, String, String)>,
    pub(crate) nodes: Vec<Compared>,
    pub(crate) numbers: Vec<ComparedNumber>,
    /// Lines of the pipeline: `same`, `gone` or `new`.
    pub(crate) text: Vec<Piece>,
    pub(crate) same: usize,
}

#[derive(Serialize)]
pub(crate) struct Compared {
    pub(crate) node: String,
    pub(crate) then: String,
    pub(crate) now: String,
    pub(crate) what: String,
}

#[derive(Serialize)]
pub(crate) struct ComparedNumber {
    pub(crate) name: String,
    pub(crate) then: String,
    pub(crate) now: String,
    pub(crate) change: String,
}

/// The page; everything that came from a file is escaped.
pub(crate) fn report(report: Report) -> Result<String, minijinja::Error> {
    const PARTS: [(&str, &str); 6] = [
        ("report.html", include_str!("report/report.html")),
        ("result.html", include_str!("report/result.html")),
        ("against.html", include_str!("report/against.html")),
        ("data.html", include_str!("report/data.html")),
        ("work.html", include_str!("report/work.html")),
        ("report.css", include_str!("report/report.css")),
    ];
    let mut templates = Environment::new();
    for (name, text) in PARTS {
        templates.add_template(name, text)?;
    }
    templates.get_template("report.html")?.render(Serde(report))
}
