//! `expect`: what must hold of the tables that a run leaves.

use paraloom_expr::Expr;

use crate::check::table;
use crate::diagnostic::{Diagnostic, Span};
use crate::document::Reader;
use crate::expression::diagnostics;
use crate::graph::{Endpoint, Graph};
use crate::yaml::{Tree, Value};

const KEYS: [&str; 5] = ["node", "where", "least", "most", "every"];

/// An expectation, as it is written.
#[derive(Clone, Debug)]
pub(crate) struct ExpectDocument {
    /// `node:` a node or `node.port`, and where it is named.
    pub(crate) node: (String, Span),
    /// `where:` the rows that count; all if there is none.
    pub(crate) condition: Option<(String, Span)>,
    /// `every:` what each of them meets.
    pub(crate) every: Option<(String, Span)>,
    /// `least:` how many there are at least.
    pub(crate) least: Option<u64>,
    /// `most:` how many there are at most.
    pub(crate) most: Option<u64>,
    /// Where it stands.
    pub(crate) span: Span,
}

/// What must hold of a table that a run leaves.
#[derive(Clone, Debug)]
pub struct Expectation {
    /// The table.
    pub endpoint: Endpoint,
    /// What the pipeline calls it.
    pub name: String,
    /// The rows that count; all if there is none.
    pub condition: Option<Expr>,
    /// What each of them meets.
    pub every: Option<Expr>,
    /// How many there are at least.
    pub least: u64,
    /// How many there are at most.
    pub most: Option<u64>,
    /// Where it stands.
    pub span: Span,
}

impl Expectation {
    /// What is wrong with `rows` that count, of which `failing` do not meet `every`.
    pub fn unmet(&self, rows: u64, failing: u64) -> Option<String> {
        let of = match &self.condition {
            Some(condition) => format!("`{}` where {}", self.name, condition.text()),
            None => format!("`{}`", self.name),
        };
        let rows_of = |count: u64| match count {
            1 => format!("1 row of {of}"),
            count => format!("{count} rows of {of}"),
        };
        if rows < self.least {
            return Some(format!("{}, and at least {} expected", rows_of(rows), self.least));
        }
        if let Some(most) = self.most.filter(|most| rows > *most) {
            return Some(format!("{}, and at most {most} expected", rows_of(rows)));
        }
        let every = self.every.as_ref().filter(|_| failing > 0)?;
        Some(format!("{failing} of {} not as expected: {}", rows_of(rows), every.text()))
    }
}

impl Reader<'_> {
    pub(crate) fn expectations(&mut self, tree: Tree) -> Vec<ExpectDocument> {
        let items = self.items(tree, "`expect`").into_iter();
        items.filter_map(|item| self.expectation(item)).collect()
    }

    fn expectation(&mut self, tree: Tree) -> Option<ExpectDocument> {
        let span = tree.span;
        if tree.value == Value::Unknown {
            return None;
        }
        if !matches!(tree.value, Value::Map(_)) {
            let message = format!("an entry of `expect` must be a mapping, not {}", tree.kind());
            let error = Diagnostic::error(message, span);
            self.errors.push(error.hint("write `{ node: …, least: … }`"));
            return None;
        }
        let mut expect = ExpectDocument {
            node: (String::new(), span),
            condition: None,
            every: None,
            least: None,
            most: None,
            span,
        };
        for (key, key_span, value) in self.members(tree, "an entry of `expect`")? {
            match key.as_str() {
                "node" => expect.node = self.placed(&value, "`node`")?,
                "where" => expect.condition = Some(self.placed(&value, "`where`")?),
                "every" => expect.every = Some(self.placed(&value, "`every`")?),
                "least" => expect.least = Some(self.whole(&value, "`least`", 0)?),
                "most" => expect.most = Some(self.whole(&value, "`most`", 0)?),
                other => {
                    // Whatever was meant by it, nothing more is to be said of this entry.
                    self.unknown_key(other, key_span, &KEYS);
                    return None;
                }
            }
        }
        if expect.node.0.is_empty() {
            self.error("`node` is missing", span);
            return None;
        }
        if expect.least.is_none() && expect.most.is_none() && expect.every.is_none() {
            let error = Diagnostic::error("nothing is expected of the table", span);
            self.errors.push(
                error.hint(
                    "say how many rows with `least` or `most`, or what they meet with `every`",
                ),
            );
            return None;
        }
        if let (Some(least), Some(most)) = (expect.least, expect.most)
            && least > most
        {
            let message = format!("no table has at least {least} and at most {most} rows");
            self.error(&message, span);
            return None;
        }
        Some(expect)
    }
}

pub(crate) fn check_expect(
    expect: &ExpectDocument,
    graph: &Graph,
    errors: &mut Vec<Diagnostic>,
) -> Option<Expectation> {
    let endpoint = table(&expect.node, graph, errors)?;
    let schema = graph.schema(endpoint)?;
    let mut condition = |written: &Option<(String, Span)>| {
        let (text, span) = written.as_ref()?;
        let parsed = Expr::parse(text).map_err(|error| vec![error]);
        let checked = parsed.and_then(|expr| expr.check_condition_all(schema).map(|()| expr));
        checked.map_err(|found| errors.extend(diagnostics(text, *span, found))).ok()
    };
    Some(Expectation {
        endpoint,
        name: expect.node.0.clone(),
        condition: condition(&expect.condition),
        every: condition(&expect.every),
        // `every` holds trivially for no rows, which is what a misspelt value in `where` finds.
        least: expect.least.unwrap_or(u64::from(expect.every.is_some())),
        most: expect.most,
        span: expect.span,
    })
}
