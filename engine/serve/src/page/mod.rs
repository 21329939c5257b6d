//! The page to try it: a form that works without scripts, and a script that makes it quicker to use.
//!
//! Everything is rendered here. The script (`page.js`) sends the same form and puts the results of the answer into the page,
//! so that both ways show the same.

mod beside;
mod controls;
mod hints;
mod results;

use arrow::array::RecordBatch;
use axum::Router;
use axum::http::HeaderValue;
use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use minijinja::Environment;
use minijinja::value::Serde;
use serde::Serialize;
use serde_json::{Map, Value, json};

use self::controls::{Control, controls};
pub use self::hints::{ColumnHint, Condition, Hints, Judge, Limit};
use self::results::Results;
use crate::models::Models;
use crate::problem::Problem;
use crate::rows::{MAX_ROWS, Row, text_columns};
use crate::{About, is_told};

const TEMPLATE: &str = "page.html";
/// More columns than a person would fill in.
const MAX_FIELDS: usize = 6;
/// Examples that are offered.
const MAX_EXAMPLES: usize = 5;
/// Before the name of a parameter in the form.
const PARAMETER: &str = "p.";
/// What names a model in the form, once for each that is to be asked.
const MODEL: &str = "model";
/// Only what this server has: no script, style or picture from elsewhere, and no script in the page itself.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// The page of a server.
pub(crate) struct Page {
    templates: Environment<'static>,
    title: String,
    /// What there is to choose from, by the numbers of the models.
    models: Vec<Shown>,
    columns: Vec<String>,
    controls: Vec<Control>,
    asks_for_token: bool,
}

/// A model, as far as the page speaks of it.
struct Shown {
    name: String,
    nodes: Vec<String>,
    /// All columns that rows come with.
    input: Vec<String>,
    parameters: Vec<String>,
    ports: Vec<String>,
    hints: Hints,
}

/// What came of a form, of the model with this number.
pub(crate) type Outcome = (usize, Result<Vec<RecordBatch>, Problem>);

/// Content of the form: per column a text with one line per row, and the parameters that were set.
#[derive(Default)]
pub(crate) struct Filled {
    /// Whether a form was sent at all.
    is_sent: bool,
    texts: Vec<(String, String)>,
    parameters: Map<String, Value>,
    /// Names of models.
    models: Vec<String>,
    /// What was written into the controls, to be shown again.
    written: Vec<(String, String)>,
}

/// Context of the template.
#[derive(Serialize)]
struct Content<'a> {
    title: &'a str,
    /// The nodes of each chain; models of one chain share a line.
    chains: Vec<Chain<'a>>,
    choices: Vec<Choice<'a>>,
    fields: Vec<Field<'a>>,
    controls: Vec<(&'a Control, String)>,
    has_more: bool,
    examples: Vec<&'a str>,
    results: Option<Results>,
    problem: Option<&'a str>,
    max_rows: usize,
    can_draw_again: bool,
    curl: String,
    python: String,
}

#[derive(Serialize)]
struct Chain<'a> {
    /// Names of its models; none where there is one alone.
    models: Vec<&'a str>,
    nodes: &'a [String],
}

/// A model that can be chosen.
#[derive(Serialize)]
struct Choice<'a> {
    name: &'a str,
    is_chosen: bool,
}

#[derive(Serialize)]
struct Field<'a> {
    name: &'a str,
    label: &'a str,
    text: &'a str,
}

/// The files beside the page.
pub(crate) fn assets<S: Clone + Send + Sync + 'static>() -> Router<S> {
    let file = |kind: &'static str, text: &'static str| {
        get(async move || ([(CONTENT_TYPE, HeaderValue::from_static(kind))], text))
    };
    Router::new()
        .route("/page.js", file("text/javascript; charset=utf-8", include_str!("page.js")))
        .route("/page.css", file("text/css; charset=utf-8", include_str!("page.css")))
        .route("/favicon.svg", file("image/svg+xml", include_str!("favicon.svg")))
        .route("/favicon.ico", file("image/svg+xml", include_str!("favicon.svg")))
}

/// A page as an answer, with the policy that it needs.
pub(crate) fn answer(html: String) -> Response {
    let mut response = Html(html).into_response();
    response.headers_mut().insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    response
}

impl Page {
    pub(crate) fn new(models: &Models, asks_for_token: bool) -> Self {
        let mut templates = Environment::new();
        // The templates are compiled in and rendered by a test, so this cannot fail.
        let _ = templates.add_template(TEMPLATE, include_str!("page.html"));
        let _ = templates.add_template("results.html", include_str!("results.html"));
        let _ = templates.add_template("candidate.html", include_str!("candidate.html"));
        let _ = templates.add_template("control.html", include_str!("control.html"));
        let (mut columns, mut parameters): (Vec<String>, Vec<Value>) = (Vec::new(), Vec::new());
        for about in models.all() {
            for column in text_columns(&about.input).into_iter().take(MAX_FIELDS) {
                if !columns.iter().any(|known| known == column) {
                    columns.push(column.to_owned());
                }
            }
            // Of a name that several models have, the control is that of the first.
            for parameter in about.parameters.json().as_array().into_iter().flatten() {
                if !parameters.iter().any(|known| known["name"] == parameter["name"]) {
                    parameters.push(parameter.clone());
                }
            }
        }
        let names = |about: &About| {
            about.parameters.list().iter().map(|parameter| parameter.name.clone()).collect()
        };
        let shown = |about: &About| Shown {
            name: about.name.clone(),
            nodes: about.nodes.clone(),
            input: about.input.fields().iter().map(|field| field.name().clone()).collect(),
            parameters: names(about),
            ports: about.outputs.iter().map(|(port, _)| port.clone()).collect(),
            hints: about.hints.clone(),
        };
        Self {
            templates,
            title: models.first().title.clone(),
            models: models.all().iter().map(shown).collect(),
            columns,
            controls: controls(&parameters.into()),
            asks_for_token,
        }
    }

    /// The page to begin with.
    pub(crate) fn empty(&self, origin: &str) -> String {
        self.render(origin, &Filled::default(), None, None)
    }

    /// The page that says what is wrong with a form that could not be read.
    pub(crate) fn refused(&self, origin: &str, problem: &str) -> String {
        self.render(origin, &Filled::default(), None, Some(problem))
    }

    /// What was written into the form.
    pub(crate) fn fill(&self, body: &[u8]) -> Filled {
        let mut filled = Filled { is_sent: true, ..Filled::default() };
        for (name, text) in form_urlencoded::parse(body).into_owned() {
            if name == MODEL {
                filled.models.push(text);
                continue;
            }
            if self.columns.contains(&name) {
                filled.texts.push((name, text));
            } else if let Some(name) = name.strip_prefix(PARAMETER)
                && let Some(control) = self.controls.iter().find(|control| control.name == name)
            {
                if let Some(value) = control.value_of(&text) {
                    filled.parameters.insert(name.to_owned(), value);
                }
                filled.written.push((name.to_owned(), text));
            }
        }
        filled
    }

    /// The models that a form asks, by their numbers: those that it names, or else the first.
    pub(crate) fn models(&self, filled: &Filled) -> Vec<usize> {
        let is_named = |number: &usize| filled.models.contains(&self.models[*number].name);
        let named: Vec<_> = (0..self.models.len()).filter(is_named).collect();
        if named.is_empty() { vec![0] } else { named }
    }

    /// What a form asks of a model, without what that does not know.
    pub(crate) fn request(&self, filled: &Filled, model: usize) -> Value {
        self.of_rows(filled, model, filled.rows())
    }

    fn of_rows(&self, filled: &Filled, model: usize, mut rows: Vec<Row>) -> Value {
        let shown = &self.models[model];
        rows.iter_mut().for_each(|row| row.retain(|name, _| shown.input.contains(name)));
        let mut parameters = filled.parameters.clone();
        parameters.retain(|name, _| shown.parameters.contains(name));
        let mut request = json!({ "rows": rows });
        if !parameters.is_empty() {
            request["parameters"] = parameters.into();
        }
        request
    }

    /// The page with what was asked and what came of it, of each model that was asked.
    pub(crate) fn filled(&self, origin: &str, filled: &Filled, outcomes: &[Outcome]) -> String {
        let rows = filled.rows();
        let results = |(model, outputs): (usize, &Vec<RecordBatch>)| {
            let Shown { hints, input, ports, .. } = &self.models[model];
            let outputs = ports.iter().map(String::as_str).zip(outputs);
            let told: Vec<_> = outputs.filter(|(port, rows)| is_told(port, rows)).collect();
            Results::new(hints, input, &rows, &told)
        };
        match outcomes {
            [(model, Ok(outputs))] => {
                self.render(origin, filled, Some(results((*model, outputs))), None)
            }
            [(_, Err(problem))] => self.render(origin, filled, None, Some(&problem.message)),
            several => {
                let outcome = |(model, outcome): &Outcome| {
                    let of_model = outcome.as_ref().map(|outputs| results((*model, outputs)));
                    let of_model = of_model.map_err(|problem| problem.message.clone());
                    (self.models[*model].name.clone(), of_model)
                };
                let beside = Results::beside(several.iter().map(outcome).collect());
                self.render(origin, filled, Some(beside), None)
            }
        }
    }

    /// The chains, each with its models.
    fn chains(&self) -> Vec<Chain<'_>> {
        let mut chains: Vec<Chain<'_>> = Vec::new();
        for Shown { name, nodes, .. } in &self.models {
            match chains.iter_mut().find(|chain| chain.nodes == nodes) {
                Some(chain) => chain.models.push(name),
                None => chains.push(Chain { models: vec![name], nodes }),
            }
        }
        if let [only] = &mut chains[..] {
            only.models.clear();
        }
        chains
    }

    fn render(
        &self,
        origin: &str,
        filled: &Filled,
        results: Option<Results>,
        problem: Option<&str>,
    ) -> String {
        let label = |name| match self.columns.len() {
            1 => "Your text",
            _ => self.hints().label(name),
        };
        let field = |name| Field { name, label: label(name), text: filled.text(name) };
        let mut body = self.example(filled);
        let chosen = self.models(filled);
        // Before anything was asked, all are to be compared.
        let is_chosen = |number: usize| !filled.is_sent || chosen.contains(&number);
        let choices = self.models.iter().enumerate();
        let choices = choices
            .map(|(number, shown)| Choice { name: &shown.name, is_chosen: is_chosen(number) });
        if self.models.len() > 1 {
            body["model"] = self.models[chosen[0]].name.as_str().into();
        }
        let controls = self.controls.iter().map(|control| (control, filled.shown(control)));
        let content = Content {
            title: &self.title,
            chains: self.chains(),
            choices: match self.models.len() {
                1 => Vec::new(),
                _ => choices.collect(),
            },
            fields: self.columns.iter().map(|name| field(name)).collect(),
            controls: controls.collect(),
            has_more: !self.controls.iter().all(Control::is_common),
            // An example is one text, so it cannot fill in several columns.
            examples: match self.columns.len() {
                1 => self.hints().examples.iter().map(String::as_str).take(MAX_EXAMPLES).collect(),
                _ => Vec::new(),
            },
            results,
            problem,
            max_rows: MAX_ROWS,
            can_draw_again: self.controls.iter().any(Control::is_seed),
            curl: curl(origin, &body, self.asks_for_token),
            python: python(origin, &body, self.asks_for_token),
        };
        let template = self.templates.get_template(TEMPLATE);
        let rendered = template.and_then(|page| page.render(Serde(content)));
        rendered.unwrap_or_else(|error| error.to_string())
    }

    /// What is said of columns: the first model's words for them.
    fn hints(&self) -> &Hints {
        &self.models[0].hints
    }

    /// The request that the form stands for, with its first row only; without one, with an example or with dots.
    fn example(&self, filled: &Filled) -> Value {
        let model = self.models(filled)[0];
        let first = filled.rows().into_iter().next();
        let row = first.unwrap_or_else(|| {
            let example = self.hints().examples.first().map_or("...", String::as_str);
            self.columns.iter().map(|name| (name.clone(), example.into())).collect()
        });
        self.of_rows(filled, model, vec![row])
    }
}

/// The command that sends a request, for a shell.
fn curl(origin: &str, body: &Value, asks_for_token: bool) -> String {
    let token = if asks_for_token { " \\\n  -H \"Authorization: Bearer $TOKEN\"" } else { "" };
    let body = body.to_string().replace('\'', "'\\''");
    format!(
        "curl {origin}/v1/rows \\\n  -H 'Content-Type: application/json'{token} \\\n  -d '{body}'"
    )
}

/// The program that sends a request, with Python's own library.
fn python(origin: &str, body: &Value, asks_for_token: bool) -> String {
    let (import, token) = if asks_for_token {
        (
            "import json, os, urllib.request",
            ", \"Authorization\": \"Bearer \" + os.environ[\"TOKEN\"]",
        )
    } else {
        ("import json, urllib.request", "")
    };
    // A text in JSON is one in Python; true, false and null are not.
    let body = Value::from(body.to_string());
    format!(
        "{import}\n\nbody = {body}\nrequest = urllib.request.Request(\n    \"{origin}/v1/rows\", body.encode(),\n    \
         {{\"Content-Type\": \"application/json\"{token}}})\nprint(json.load(urllib.request.urlopen(request)))"
    )
}

impl Filled {
    fn text(&self, column: &str) -> &str {
        self.texts.iter().find(|(name, _)| name == column).map_or("", |(_, text)| text)
    }

    /// What a control shows: what was written there, or else its default.
    fn shown(&self, control: &Control) -> String {
        let written = self.written.iter().find(|(name, _)| *name == control.name);
        match written {
            Some((_, text)) => text.clone(),
            // Of a form that was sent, a box without a tick is not there.
            None if control.is_box() && !self.written.is_empty() => "false".to_owned(),
            None => control.default.clone(),
        }
    }

    /// A row for every line; lines that are empty in all columns are left out.
    pub(crate) fn rows(&self) -> Vec<Row> {
        let lines = |text: &str| text.lines().map(|line| line.trim().to_owned()).collect();
        let columns: Vec<(&String, Vec<String>)> =
            self.texts.iter().map(|(name, text)| (name, lines(text))).collect();
        let count = columns.iter().map(|(_, lines)| lines.len()).max().unwrap_or(0);
        let row = |at: usize| -> Row {
            let given = columns.iter().filter_map(|(name, lines)| Some((name, lines.get(at)?)));
            let given = given.filter(|(_, line)| !line.is_empty());
            given.map(|(name, line)| ((*name).clone(), line.as_str().into())).collect()
        };
        (0..count).map(row).filter(|row: &Row| !row.is_empty()).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Float64Array, StringArray};
    use arrow::datatypes::{DataType, Field, Schema};

    use super::*;
    use crate::{Checked, Parameter, ParameterSet};

    /// A page for texts that are rewritten and judged, with a parameter.
    fn page() -> Page {
        page_of(&["p"])
    }

    /// The same, of several models.
    fn page_of(names: &[&str]) -> Page {
        let column = |name: &str| ColumnHint {
            column: name.to_owned(),
            label: "Similarity".to_owned(),
            scale: Some((0.0, 5.0)),
        };
        let limit = Limit { column: "stsb".to_owned(), comparison: ">=".to_owned(), value: 4.0 };
        let judge = Judge {
            kept: "kept".to_owned(),
            rejected: "rejected".to_owned(),
            reason: "reason".to_owned(),
            conditions: vec![Condition {
                text: "stsb >= 4".to_owned(),
                words: None,
                limit: Some(limit),
            }],
        };
        let parameter = Parameter {
            name: "candidates".to_owned(),
            nodes: vec!["p".to_owned()],
            setting: "candidates".to_owned(),
            schema: json!({"type": "integer", "minimum": 1, "default": 2}),
        };
        let schema = Arc::new(Schema::new(vec![Field::new("source", DataType::Utf8, false)]));
        let about = |name: &&str| About {
            name: (*name).to_owned(),
            title: "<t>".to_owned(),
            version: "1".to_owned(),
            nodes: vec!["p".to_owned()],
            input: Arc::clone(&schema),
            outputs: ["kept", "rejected"].map(|port| (port.to_owned(), Arc::clone(&schema))).into(),
            hints: Hints {
                pair: Some(("source".to_owned(), "text".to_owned())),
                columns: vec![column("stsb")],
                judge: Some(judge.clone()),
                examples: vec!["An <example>.".to_owned()],
            },
            batch_invariant: true,
            parameters: ParameterSet::new(vec![parameter.clone()], |_| {
                Ok(Checked { parameters: Map::new(), factor: 1 })
            }),
        };
        let models = Models::new(names.iter().map(about).collect()).expect("names");
        Page::new(&models, true)
    }

    fn rows(text: &str, stsb: f64, reason: Option<&str>) -> RecordBatch {
        let texts = |text: &str| Arc::new(StringArray::from(vec![text])) as ArrayRef;
        let stsb = Arc::new(Float64Array::from(vec![stsb])) as ArrayRef;
        let columns = [("source", texts("a b")), ("text", texts(text)), ("stsb", stsb)];
        let reason = reason.map(|reason| ("reason", texts(reason)));
        RecordBatch::try_from_iter(columns.into_iter().chain(reason)).expect("columns of one row")
    }

    #[test]
    fn what_was_rewritten_stands_in_cards() {
        let page = page();
        let filled = page.fill(b"source=a+b&p.candidates=3&p.other=1");
        assert_eq!(
            page.request(&filled, 0),
            json!({"rows": [{"source": "a b"}], "parameters": {"candidates": 3}})
        );
        let outputs = [rows("a c", 4.5, None), rows("<q>", 1.0, Some("not stsb >= 4 (stsb = 1)"))];
        let html = page.filled("http://host:1", &filled, &[(0, Ok(outputs.to_vec()))]);
        for expected in [
            "<del>b</del><ins>c</ins>",
            "<bdi>&lt;q&gt;</bdi>",
            "<li class=\"candidate kept\"",
            "<li class=\"candidate rejected\"",
            "Similarity 1 is below 4",
            "<meter min=\"0.0\" max=\"5.0\" value=\"4.5\" aria-label=\"Similarity\"></meter>",
            "1 kept, 1 rejected",
            "type=\"range\" min=\"0.0\" max=\"5.0\"",
            "name=\"p.candidates\" value=\"3\" data-default=\"2\"",
            "Authorization: Bearer $TOKEN",
            "\"parameters\":{\"candidates\":3}}'",
            "<bdi>&lt;t&gt;</bdi>",
        ] {
            let plain = html.replace("&quot;", "\"").replace("&#x27;", "'").replace("&#x2f;", "/");
            assert!(plain.contains(expected), "{expected}: {html}");
        }
    }

    #[test]
    fn models_stand_side_by_side() {
        let page = page_of(&["base", "<new>"]);
        let empty = page.empty("http://host:1");
        assert_eq!(empty.matches("name=\"model\"").count(), 2);
        assert_eq!(empty.matches(" checked>").count(), 2, "all are compared at first");
        let filled = page.fill(b"source=a+b&model=%3Cnew%3E&model=other");
        assert_eq!(page.models(&filled), [1]);
        assert_eq!(page.models(&page.fill(b"source=a")), [0]);
        let filled = page.fill(b"source=a+b&model=%3Cnew%3E&model=base");
        assert_eq!(page.models(&filled), [0, 1]);
        let outcomes = [
            (
                0,
                Ok(vec![
                    rows("a c", 4.5, None),
                    rows("a d", 1.0, Some("not stsb >= 4 (stsb = 1)")),
                ]),
            ),
            (1, Ok(vec![rows("a e", 4.1, None), rows("f", 1.0, None).slice(0, 0)])),
        ];
        let html = page.filled("http://host:1", &filled, &outcomes);
        let plain = html.replace("&quot;", "\"").replace("&#x27;", "'").replace("&#x2f;", "/");
        for (expected, count) in [
            ("<article class=\"group\">", 1),
            ("<h4><bdi>base</bdi></h4>", 1),
            ("<h4><bdi>&lt;new&gt;</bdi></h4>", 1),
            ("data-model=\"&lt;new&gt;\"", 2),
            ("<bdi>base</bdi>: <span>1 kept, 1 rejected</span>", 1),
            ("<bdi>&lt;new&gt;</bdi>: <span>1 kept, 0 rejected</span>", 1),
            // They share a judge, so one slider is for both.
            ("type=\"range\"", 1),
            ("\"model\":\"base\"}'", 1),
            (" checked>", 2),
        ] {
            assert_eq!(plain.matches(expected).count(), count, "{expected}: {plain}");
        }
        let failed = Problem::busy("too much <waits>");
        let outcomes = [(0, Err(failed)), (1, Ok(vec![rows("a e", 4.1, None)]))];
        let html = page.filled("http://host:1", &filled, &outcomes);
        assert!(html.contains("too much &lt;waits&gt;") && html.contains("<ins>e</ins>"), "{html}");
    }

    #[test]
    fn the_empty_page_has_examples_and_controls() {
        let html = page().empty("http://localhost");
        assert!(html.contains("<bdi>An &lt;example&gt;.</bdi>"), "{html}");
        assert!(html.contains("max=\"20.0\"") && html.contains("Number of sentences"), "{html}");
        assert!(html.contains("Results appear here.") && !html.contains("id=\"rows\""), "{html}");
    }

    #[test]
    fn code_for_programs_is_quoted() {
        let body = json!({"rows": [{"text": "it's \"so\" \\ $x `y`"}]});
        let shell = curl("h", &body, false);
        assert!(
            shell.contains(r#"-d '{"rows":[{"text":"it'\''s \"so\" \\ $x `y`"}]}'"#),
            "{shell}"
        );
        let python = python("h", &body, true);
        assert!(
            python.contains(r#"body = "{\"rows\":[{\"text\":\"it's \\\"so\\\" \\\\ $x `y`\"}]}""#),
            "{python}"
        );
        assert!(python.contains("import json, os, urllib.request"), "{python}");
    }
}
