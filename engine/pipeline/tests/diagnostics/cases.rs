//! The form of the cases.
//!
//! ```text
//! ### what is tried
//! #! set least=3
//!   a: { stage: laod }
//!               ^^^^ there is no stage `laod`
//!               = did you mean `load`?
//! ```
//!
//! A case whose first line is indented stands below `paraloom: 1` and `nodes:`. Under each line are the errors that begin in it:
//! `^` is the span, `<` an empty one, `~` another place that matters, `=` the way out. What is not an error follows `=>`, if
//! `#! show` asks for it.

use std::fmt::Write as _;

use paraloom_pipeline::{Diagnostic, Graph, Limits, Settings, Span, check_text};

use crate::stages::Stages;

/// What a case leaves out.
const PRELUDE: &str = "paraloom: 1\nnodes:\n";

/// A pipeline, and what is to be said of it.
#[derive(Default)]
pub(crate) struct Case {
    pub(crate) title: String,
    directives: Vec<(String, String)>,
    text: String,
    /// The text with what is said of it.
    pub(crate) expected: String,
}

/// The lines before the first case, and the cases.
pub(crate) fn read(file: &str) -> (String, Vec<Case>) {
    let (mut head, mut cases) = (String::new(), Vec::<Case>::new());
    for line in file.lines() {
        if let Some(title) = line.strip_prefix("### ") {
            cases.push(Case { title: title.to_owned(), ..Case::default() });
            continue;
        }
        let Some(case) = cases.last_mut() else {
            head += line;
            head.push('\n');
            continue;
        };
        if let Some(directive) = line.strip_prefix("#! ") {
            let (name, value) = directive.split_once(' ').unwrap_or((directive, ""));
            case.directives.push((name.to_owned(), value.to_owned()));
            continue;
        }
        case.expected.push_str(line);
        case.expected.push('\n');
        if !is_said(line) {
            case.text.push_str(line);
            case.text.push('\n');
        }
    }
    for case in &mut cases {
        case.expected.truncate(case.expected.trim_end_matches('\n').len());
        case.text.truncate(case.text.trim_end_matches('\n').len());
    }
    (head, cases)
}

/// The file with what was found in the place of what was expected.
pub(crate) fn write(head: &str, cases: &[Case], found: &[String]) -> String {
    let case = |(case, found): (&Case, &String)| {
        let directives = case.directives.iter().map(|(name, value)| format!("#! {name} {value}\n"));
        format!("### {}\n{}{found}\n", case.title, directives.collect::<String>())
    };
    let cases: Vec<_> = cases.iter().zip(found).map(case).collect();
    format!("{head}{}", cases.join("\n"))
}

/// Whether a line is about the one above it.
fn is_said(line: &str) -> bool {
    let line = line.trim_start_matches(' ');
    let rest = line.trim_start_matches(['^', '~', '…']);
    let is_span = rest.len() < line.len() && (rest.is_empty() || rest.starts_with(' '));
    is_span || ["< ", "= ", "=> "].iter().any(|mark| line.starts_with(mark))
}

impl Case {
    /// The values of the directives with a name.
    fn values<'a>(&'a self, wanted: &'a str) -> impl Iterator<Item = &'a str> {
        let found = self.directives.iter().filter(move |(name, _)| name == wanted);
        found.map(|(_, value)| value.as_str())
    }

    /// The text with what the case leaves out of it.
    pub(crate) fn whole(&self) -> String {
        let prelude = if self.text.starts_with(' ') { PRELUDE } else { "" };
        format!("{prelude}{}", self.text)
    }

    /// The text, with what is said of it.
    pub(crate) fn run(&self) -> String {
        let text = self.whole();
        let (graph, errors) = self.check(&text);
        assert_eq!(graph.is_some(), errors.is_empty(), "{}", self.title);
        let mut out = annotate(&text, text.len() - self.text.len(), &errors);
        if let (Some(graph), Some(what)) = (&graph, self.values("show").next()) {
            out.push_str(&shown(graph, what));
        }
        out.truncate(out.trim_end_matches('\n').len());
        out
    }

    pub(crate) fn errors(&self) -> Vec<Diagnostic> {
        self.check(&self.whole()).1
    }

    fn check(&self, text: &str) -> (Option<Graph>, Vec<Diagnostic>) {
        let pair = |text: &str| {
            let (name, value) = text.split_once('=').unwrap_or((text, ""));
            (name.to_owned(), value.to_owned())
        };
        let set: Vec<_> = self.values("set").map(pair).collect();
        let env: Vec<_> = self.values("env").map(pair).collect();
        let number = |name: &str| self.values(name).next().and_then(|text| text.parse().ok());
        let mut limits = Limits::default();
        limits.bytes = number("bytes").unwrap_or(limits.bytes);
        limits.values = number("values").unwrap_or(limits.values);
        let settings = Settings {
            set: &set,
            backend: self.values("backend").next(),
            device: self.values("device").next(),
            limits,
            env: &|name| {
                env.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
            },
        };
        check_text(text, &settings, &Stages::default())
    }
}

/// The text from `start` on, with each error below the line where it begins.
fn annotate(text: &str, start: usize, errors: &[Diagnostic]) -> String {
    let mut out = String::new();
    let mut at = start;
    let mut said: Vec<_> = errors.iter().flat_map(about).collect();
    said.sort_by_key(|(span, ..)| span.start);
    let mut said = said.into_iter().peekable();
    let mut lines: Vec<_> = text[start..].split_inclusive('\n').collect();
    if lines.is_empty() {
        lines.push("");
    }
    for (number, line) in lines.iter().enumerate() {
        let is_last = number + 1 == lines.len();
        out.push_str(line.trim_end_matches('\n'));
        out.push('\n');
        at += line.len();
        while let Some((span, mark, message, hint)) =
            said.next_if(|(span, ..)| span.start < at || is_last)
        {
            assert!(span.start <= span.end && span.end <= text.len(), "{span:?}");
            let line_start = at - line.len();
            let from = span.start.max(line_start).min(at);
            let column = text[line_start..from].trim_end_matches('\n').chars().count();
            let within = &text[from..span.end.max(from)];
            let first = within.lines().next().unwrap_or_default();
            let indent = " ".repeat(column);
            let marks = match first.chars().count() {
                _ if span.start < start => "<".to_owned(),
                0 => "<".to_owned(),
                count if within.trim_end().len() > first.len() => mark.repeat(count) + "…",
                count => mark.repeat(count),
            };
            let _ = writeln!(out, "{indent}{marks} {message}");
            if let Some(hint) = hint {
                let _ = writeln!(out, "{indent}= {hint}");
            }
        }
    }
    out
}

type Said<'a> = (Span, &'static str, &'a str, Option<&'a str>);

fn about(error: &Diagnostic) -> Vec<Said<'_>> {
    let mut all: Vec<Said<'_>> = vec![(error.span, "^", &error.message, error.hint.as_deref())];
    all.extend(error.related.iter().map(|(span, what)| (*span, "~", what.as_str(), None)));
    all
}

/// What a sound pipeline comes to.
fn shown(graph: &Graph, what: &str) -> String {
    let mut out = String::new();
    for index in graph.order() {
        let node = graph.node(*index);
        let name = &node.name;
        let line = match what {
            "config" => node.config.to_string(),
            "paths" => format!("{:?}", node.paths),
            "inputs" => {
                let inputs = graph.inputs(*index).into_iter().map(|(from, edge)| {
                    let source = graph.node(from.node);
                    let output = &source.stage.outputs[from.port].name;
                    let label = if edge.label.is_empty() {
                        String::new()
                    } else {
                        format!("[{}]", edge.label)
                    };
                    format!(
                        "{}{label} = {}.{output}",
                        node.stage.inputs[edge.input].name, source.name
                    )
                });
                inputs.collect::<Vec<_>>().join(", ")
            }
            "outputs" => {
                let outputs = node.outputs.iter().map(|schema| {
                    let Some(schema) = schema else { return "artifact".to_owned() };
                    let field = |field: &std::sync::Arc<arrow::datatypes::Field>| {
                        format!("{} {}", field.name(), field.data_type())
                    };
                    schema.fields().iter().map(field).collect::<Vec<_>>().join(", ")
                });
                outputs.collect::<Vec<_>>().join("; ")
            }
            "settings" => format!(
                "seed {}, repeats {}, part_rows {}, {} on {}",
                node.seed,
                node.repeats,
                node.part_rows.map_or_else(|| "auto".to_owned(), |rows| rows.to_string()),
                node.stage.backend,
                node.device
            ),
            "order" => String::new(),
            other => panic!("nothing is known of `#! show {other}`"),
        };
        let _ = writeln!(out, "{}", format!("=> {name} {line}").trim_end());
    }
    out
}
