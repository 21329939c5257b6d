//! What programs for language models send and expect: texts in, texts out.

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::Float64Type;
use serde_json::{Map, Value, json};

use crate::ask::{ask, decoded};
use crate::json::json_of;
use crate::problem::Problem;
use crate::rows::text_columns;
use crate::shared::Chosen;
use crate::{About, Mapped, Mark, ParameterSet, Parameters};

/// Where texts go in and where they come out.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Texts {
    /// The column that is read.
    pub(crate) source: String,
    /// The column that is written, of the first output.
    pub(crate) target: String,
}

/// A text that was written.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Written {
    pub(crate) text: String,
    /// Ended for its length, and how many tokens it was made of and has.
    pub(crate) mark: Mark,
    /// Its tokens and the logarithms of their probabilities, where the node that writes tells them.
    pub(crate) tokens: Option<Vec<(String, f64)>>,
}

impl Texts {
    /// Of a chain that reads one text and writes another one; an error says why there are none.
    pub(crate) fn of(about: &About) -> Result<Self, String> {
        let columns = text_columns(&about.input);
        let is_needed =
            |name: &&str| about.input.field_with_name(name).is_ok_and(|field| !field.is_nullable());
        let needed: Vec<_> = columns.iter().copied().filter(is_needed).collect();
        let source = match (&needed[..], &columns[..]) {
            ([one], _) | ([], [one, ..]) => (*one).to_owned(),
            ([], []) => return Err("these nodes read no text".to_owned()),
            (several, _) => {
                return Err(format!("these nodes read several texts: {}", several.join(", ")));
            }
        };
        let Some((_, output)) = about.outputs.first() else {
            return Err("these nodes have no output".to_owned());
        };
        let is_new = |name: &&str| about.input.index_of(name).is_err();
        match text_columns(output).into_iter().find(is_new) {
            Some(target) => Ok(Self { source, target: target.to_owned() }),
            None => Err("these nodes write no text".to_owned()),
        }
    }

    /// Those of a model, or why there are none.
    pub(crate) fn of_model(model: Chosen<'_>) -> Result<Self, Problem> {
        Self::of(model.about()).map_err(|why| {
            let message = format!("{why}; send rows to /v1/rows, whose columns /v1/info tells");
            Problem::bad_request(message)
        })
    }

    /// What is written for each of some sources.
    pub(crate) async fn write(
        &self,
        model: Chosen<'_>,
        sources: &[String],
        parameters: Parameters,
    ) -> Result<Vec<Vec<Written>>, Problem> {
        let row = |source: &String| json!({self.source.as_str(): source});
        let rows: Vec<_> = sources.iter().map(row).collect();
        let body = json!({"rows": rows, "parameters": parameters}).to_string();
        let (_, rows) = decoded(model.shared, Some(model.number), body.as_bytes())?;
        let ids = rows.rows.column_by_name("_id").cloned();
        let ids = ids.as_ref().and_then(|ids| ids.as_string_opt::<i32>());
        let ids: Vec<&str> = ids.into_iter().flatten().flatten().collect();
        let outputs = ask(model.shared, rows).await?;
        let mut texts = vec![Vec::new(); sources.len()];
        let Some(output) = outputs.first() else { return Ok(texts) };
        let written = self.read(output).ok_or_else(|| {
            Problem::internal(format!("there is no text `{}` in what came out", self.target))
        })?;
        for (of, text) in written {
            // Of a single source it is clear; of several, a row tells by its id or by its parent's.
            let source = match sources.len() {
                1 => Some(0),
                _ => of.iter().find_map(|id| ids.iter().position(|sent| *sent == id)),
            };
            let source = source.ok_or_else(|| {
                let message = "it cannot be told which text came of which; send one at a time";
                Problem::bad_request(message)
            })?;
            texts[source].push(text);
        }
        Ok(texts)
    }

    /// The texts of an output, with the ids of each row.
    fn read(&self, output: &Mapped) -> Option<Vec<(Vec<String>, Written)>> {
        let column = |name: &str| output.rows.column_by_name(name)?.as_string_opt::<i32>();
        let texts = column(&self.target)?;
        let ids = [column("_id"), column("_parent")];
        let row = |row: usize| {
            let ids = ids.iter().flatten().filter(|ids| ids.is_valid(row));
            let mark = output.marks.as_ref().map(|marks| marks[row]).unwrap_or_default();
            let text = texts.value(row).to_owned();
            let text = Written { text, mark, tokens: tokens(&output.rows, row) };
            (ids.map(|ids| ids.value(row).to_owned()).collect(), text)
        };
        Some((0..texts.len()).filter(|at| texts.is_valid(*at)).map(row).collect())
    }
}

/// What a node with `token_scores` tells of a row's text. The end has a score and is none of the tokens.
fn tokens(rows: &RecordBatch, row: usize) -> Option<Vec<(String, f64)>> {
    let list = |name: &str| Some(rows.column_by_name(name)?.as_list_opt::<i32>()?.value(row));
    let (tokens, scores) = (list("tokens")?, list("token_scores")?);
    let tokens = tokens.as_string_opt::<i32>()?.iter().flatten().map(str::to_owned);
    Some(tokens.zip(scores.as_primitive_opt::<Float64Type>()?.values().iter().copied()).collect())
}

/// The answer where a text has none, since all that was written for it was rejected.
pub(crate) fn nothing_kept(number: usize) -> Problem {
    let message =
        format!("nothing that was written for text {} was kept; /v1/rows tells why", number + 1);
    Problem::new(axum::http::StatusCode::UNPROCESSABLE_ENTITY, "nothing_kept", message)
}

/// The body of a request, an object.
pub(crate) fn object(body: &[u8]) -> Result<Map<String, Value>, Problem> {
    match json_of(body).map_err(Problem::bad_request)? {
        Value::Object(body) => Ok(body),
        _ => Err(Problem::bad_request("send a JSON object")),
    }
}

/// One text or several, and whether it was several.
pub(crate) fn texts(name: &str, value: Option<Value>) -> Result<(Vec<String>, bool), Problem> {
    let wrong = || Problem::bad_request(format!("`{name}` is a text or a list of texts"));
    match value {
        Some(Value::String(text)) => Ok((vec![text], false)),
        Some(Value::Array(texts)) if !texts.is_empty() => {
            let text = |text| match text {
                Value::String(text) => Ok(text),
                _ => Err(wrong()),
            };
            Ok((texts.into_iter().map(text).collect::<Result<_, _>>()?, true))
        }
        _ => Err(wrong()),
    }
}

/// What a program calls a parameter and what it sends for it, in the words of the pipeline.
pub(crate) struct Translation<'a> {
    known: &'a ParameterSet,
    pub(crate) parameters: Parameters,
}

impl<'a> Translation<'a> {
    pub(crate) fn new(about: &'a About) -> Self {
        Self { known: &about.parameters, parameters: Parameters::new() }
    }

    /// Whether a request may set it.
    pub(crate) fn knows(&self, name: &str) -> bool {
        self.known.list().iter().any(|known| known.name == name)
    }

    /// Sets a parameter; one that is set twice, by two names, is refused.
    pub(crate) fn set(&mut self, name: &str, value: Value) -> Result<(), Problem> {
        match self.parameters.insert(name.to_owned(), value) {
            None => Ok(()),
            Some(_) => Err(Problem::bad_request(format!("`{name}` is given twice"))),
        }
    }

    /// Turns drawing at random on or off. On changes nothing where the pipeline draws already.
    pub(crate) fn sample(&mut self, is_on: bool) -> Result<(), Problem> {
        let known = self.known.list();
        let sample = known.iter().find(|known| known.setting == "sample");
        match (sample, is_on) {
            (None, true) => Err(unsupported("do_sample")),
            (None, false) => Ok(()),
            (Some(sample), true) if !sample.schema["default"].is_null() => Ok(()),
            (Some(sample), true) => self.set(&sample.name.clone(), json!({})),
            (Some(sample), false) => self.set(&sample.name.clone(), Value::Null),
        }
    }
}

/// A parameter that other programs have and these models do not.
pub(crate) fn unsupported(name: &str) -> Problem {
    let message = format!("`{name}` is not something that this server can do; leave it out");
    Problem::bad_request(message)
}

/// Whether a value asks for nothing: null, false, 0, nothing in a list or an object.
pub(crate) fn asks_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.is_empty(),
        Value::Bool(true) => false,
    }
}
