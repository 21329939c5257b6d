//! Rows as JSON lines and as CSV, in and out. Inside they are JSON: the body of `/v1/rows`.

use arrow::datatypes::{DataType, Schema};
use arrow_json::writer::{LineDelimited, WriterBuilder};
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use paraloom_formats::{Delimited, DelimitedWriter, Format as FileFormat, unsupported};
use serde_json::{Map, Value, json};

use crate::body::media_type;
use crate::cells::{Cell, records};
use crate::json::{json_of, utf8_of};
use crate::problem::{Problem, quoted};
use crate::{About, Mapped, Parameters};

/// How rows are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// An object with the rows and the parameters.
    Json,
    /// An object on each line.
    Lines,
    /// A line with the names of the columns, and one for each row.
    Csv,
}

/// The part of an address that names the output that is written where only one can be.
const OUTPUT: &str = "output";
/// The part of an address that names the model.
const MODEL: &str = "model";
/// The header that counts texts that were cut, where there is no other place to say so.
const TRUNCATED: &str = "x-paraloom-truncated";

impl Format {
    fn of_type(kind: &str) -> Option<Self> {
        match kind {
            "application/json" => Some(Self::Json),
            "application/x-ndjson"
            | "application/jsonl"
            | "application/x-jsonlines"
            | "application/jsonlines" => Some(Self::Lines),
            "text/csv" => Some(Self::Csv),
            _ => None,
        }
    }

    /// Of the body of a request.
    pub(crate) fn sent(headers: &HeaderMap) -> Result<Self, Problem> {
        Self::of_type(&media_type(headers)?).ok_or_else(|| {
            let message = "send the header `Content-Type: application/json`, or text/csv or application/x-ndjson";
            Problem::unsupported(message)
        })
    }

    /// Of the answer that a client wants: the one that it likes best, or JSON if it takes anything.
    pub(crate) fn wanted(headers: &HeaderMap) -> Result<Self, Problem> {
        let accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let mut kinds: Vec<_> =
            accepted.flat_map(|kinds| kinds.split(',')).filter_map(accepted_type).collect();
        let none_named = kinds.is_empty();
        kinds.retain(|(_, weight)| *weight > 0.0);
        // Those of the same weight stay in order.
        kinds.sort_by(|one, other| other.1.total_cmp(&one.1));
        let known = |(kind, _): &(String, f32)| match kind.as_str() {
            "*/*" | "application/*" => Some(Self::Json),
            "text/*" => Some(Self::Csv),
            kind => Self::of_type(kind),
        };
        match kinds.iter().find_map(known) {
            Some(format) => Ok(format),
            None if none_named => Ok(Self::Json),
            None => {
                let message = "answers are application/json, text/csv or application/x-ndjson";
                Err(Problem::new(StatusCode::NOT_ACCEPTABLE, "not_acceptable", message))
            }
        }
    }

    /// A body in this format, as the body of a request in JSON with the parameters of the address.
    pub(crate) fn to_json(
        self,
        body: &[u8],
        schema: &Schema,
        query: Parameters,
    ) -> Result<Vec<u8>, Problem> {
        let rows = match self {
            Self::Json if query.is_empty() => return Ok(body.to_vec()),
            Self::Json => {
                let message = "parameters are in the body, not in the address, where rows are JSON";
                return Err(Problem::bad_request(message));
            }
            Self::Lines => lines(body)?,
            Self::Csv => Value::from(csv_rows(body, schema)?).to_string().into_bytes(),
        };
        let parameters = Value::Object(query).to_string();
        Ok([b"{\"parameters\":", parameters.as_bytes(), b",\"rows\":", &rows, b"}"].concat())
    }

    /// An output as the body of an answer.
    pub(crate) fn write(self, output: &Mapped) -> Result<Response, Problem> {
        let internal = |error: arrow::error::ArrowError| Problem::internal(error.to_string());
        let mut bytes = Vec::new();
        let kind = if self == Self::Csv {
            let schema = output.rows.schema();
            if let Some((name, _, _)) = unsupported(&schema, FileFormat::Delimited) {
                let message = format!("`{name}` has lists, which CSV has not; take JSON");
                return Err(Problem::new(StatusCode::NOT_ACCEPTABLE, "not_acceptable", message));
            }
            let writer = DelimitedWriter::new(&mut bytes, Delimited::CSV, &schema);
            let writer = writer.map_err(|error| Problem::internal(error.to_string()));
            writer?.write(&output.rows).map_err(internal)?;
            "text/csv; charset=utf-8; header=present"
        } else {
            let builder = WriterBuilder::new().with_explicit_nulls(true);
            let mut writer = builder.build::<_, LineDelimited>(&mut bytes);
            writer.write(&output.rows).map_err(internal)?;
            writer.finish().map_err(internal)?;
            "application/x-ndjson"
        };
        let mut response = ([(CONTENT_TYPE, kind)], bytes).into_response();
        let cut = output.marks.iter().flatten().filter(|mark| mark.is_cut).count();
        if cut > 0 {
            let name = HeaderName::from_static(TRUNCATED);
            response.headers_mut().insert(name, HeaderValue::from(cut));
        }
        Ok(response)
    }
}

/// A media type that a client takes, and how much it likes it.
fn accepted_type(text: &str) -> Option<(String, f32)> {
    let mut parts = text.split(';').map(str::trim);
    let kind = parts.next().filter(|kind| !kind.is_empty())?.to_ascii_lowercase();
    let weight = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
    Some((kind, weight.and_then(|weight| weight.trim().parse().ok()).unwrap_or(1.0)))
}

/// Lines of JSON as a list.
fn lines(body: &[u8]) -> Result<Vec<u8>, Problem> {
    let body = utf8_of(body).map_err(Problem::bad_request)?;
    let mut list = vec![b'['];
    for (number, line) in (1..).zip(body.split(|byte| *byte == b'\n')) {
        let line = line.trim_ascii();
        if line.is_empty() {
            continue;
        }
        // Each is whole: otherwise two halves could make one.
        match json_of(line) {
            Ok(Value::Object(_)) => {}
            Ok(_) => {
                return Err(Problem::bad_request(format!("line {number} is not a JSON object")));
            }
            Err(error) => {
                let error = error.replace(" at line 1 column", " at column");
                return Err(Problem::bad_request(format!("line {number}: {error}")));
            }
        }
        if list.len() > 1 {
            list.push(b',');
        }
        list.extend_from_slice(line);
    }
    list.push(b']');
    Ok(list)
}

/// Rows of CSV, with values of the types of their columns.
fn csv_rows(body: &[u8], schema: &Schema) -> Result<Vec<Value>, Problem> {
    let bad = |what: String| Problem::bad_request(what);
    let body = utf8_of(body).map_err(bad)?;
    let records = records(&String::from_utf8_lossy(body));
    let mut records = records.map_err(|what| bad(format!("this is not CSV: {what}")))?.into_iter();
    let Some(names) = records.next() else {
        return Err(bad("there is no line with the names of the columns".to_owned()));
    };
    let mut fields = Vec::new();
    for (name, _) in &names.cells {
        let field = schema.field_with_name(name).map_err(|_| {
            let known = schema.fields().iter().map(|field| format!("`{}`", field.name()));
            let known: Vec<_> = known.filter(|name| !name.starts_with("`_")).collect();
            let name = quoted(name);
            bad(format!("there is no column {name:?}, only {}", known.join(", ")))
        })?;
        if fields.contains(&field) {
            return Err(bad(format!("there are two columns `{name}`")));
        }
        fields.push(field);
    }
    let mut rows = Vec::new();
    for (number, record) in (1..).zip(records) {
        if record.cells.len() != fields.len() {
            let (line, cells, columns) = (record.line, record.cells.len(), fields.len());
            return Err(bad(format!(
                "this is not CSV: line {line} has {cells} cells, and the first line {columns}"
            )));
        }
        let mut row = Map::new();
        for (field, cell) in fields.iter().zip(&record.cells) {
            let value = value(cell, field.data_type(), field.is_nullable()).ok_or_else(|| {
                let (name, kind) = (field.name(), field.data_type());
                let text = quoted(&cell.0);
                bad(format!("row {number}: `{name}` is {text:?}, not of type {kind}"))
            })?;
            row.insert(field.name().clone(), value);
        }
        rows.push(Value::Object(row));
    }
    Ok(rows)
}

/// Nothing at all is null where a column may be empty; `""` is an empty text.
fn value((text, is_quoted): &Cell, kind: &DataType, is_nullable: bool) -> Option<Value> {
    let is_text = matches!(kind, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    if text.is_empty() && is_nullable && !(is_text && *is_quoted) {
        return Some(Value::Null);
    }
    match kind {
        kind if kind.is_numeric() => serde_json::from_str(text.trim()).ok().map(Value::Number),
        DataType::Boolean => text.trim().to_ascii_lowercase().parse().ok().map(Value::Bool),
        kind if kind.is_nested() => serde_json::from_str(text).ok(),
        _ => Some(text.as_str().into()),
    }
}

/// What stands in the address of a request.
#[derive(Default)]
pub(crate) struct Query {
    pub(crate) parameters: Parameters,
    /// The model that is named.
    pub(crate) model: Option<String>,
    output: Option<String>,
}

impl Query {
    /// A value that is not JSON is text.
    pub(crate) fn of(uri: &Uri) -> Result<Self, Problem> {
        let mut query = Self::default();
        let pairs = form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
        for (name, value) in pairs {
            let before = match &*name {
                OUTPUT => query.output.replace(value.into_owned()).map(|_| ()),
                MODEL => query.model.replace(value.into_owned()).map(|_| ()),
                name => {
                    let value = serde_json::from_str(&value).unwrap_or_else(|_| json!(value));
                    query.parameters.insert(name.to_owned(), value).map(|_| ())
                }
            };
            if before.is_some() {
                let message = format!("{:?} is given twice", quoted(&name));
                return Err(Problem::bad_request(message));
            }
        }
        Ok(query)
    }

    /// The number of the output that is named, of the first one where none is.
    pub(crate) fn output(&self, about: &About) -> Result<usize, Problem> {
        let Some(name) = &self.output else { return Ok(0) };
        let found = about.outputs.iter().position(|(port, _)| port == name);
        found.ok_or_else(|| {
            let ports: Vec<_> = about.outputs.iter().map(|(port, _)| port.as_str()).collect();
            let name = quoted(name);
            let message = format!("there is no output {name:?}, only {}", ports.join(", "));
            Problem::bad_request(message)
        })
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::Field;

    use super::*;

    fn schema() -> Schema {
        Schema::new(vec![
            Field::new("text", DataType::Utf8, false),
            Field::new("note", DataType::Utf8, true),
            Field::new("count", DataType::Int64, true),
            Field::new("share", DataType::Float64, true),
            Field::new("good", DataType::Boolean, true),
        ])
    }

    #[test]
    fn cells_have_the_types_of_their_columns() {
        let read = |body: &str| match csv_rows(body.as_bytes(), &schema()) {
            Ok(rows) => Value::from(rows).to_string(),
            Err(problem) => problem.message,
        };
        let cases = [
            (
                "text,count\na,1\n\"b, c\",\n",
                r#"[{"text":"a","count":1},{"text":"b, c","count":null}]"#,
            ),
            (
                "\u{feff}text,note\r12,\"\"\r13,",
                r#"[{"text":"12","note":""},{"text":"13","note":null}]"#,
            ),
            (
                "text,count\n\"a\n",
                "this is not CSV: line 2: the quote of this cell is never closed",
            ),
            ("text,count\na\n", "this is not CSV: line 2 has 1 cells, and the first line 2"),
            ("", "there is no line with the names of the columns"),
            ("text,share,good\n,4.5,TRUE\n", r#"[{"text":"","share":4.5,"good":true}]"#),
            ("text,share\na,inf\n", "row 1: `share` is \"inf\", not of type Float64"),
            ("text,count\na,many\n", "row 1: `count` is \"many\", not of type Int64"),
            (
                "txt\na\n",
                "there is no column \"txt\", only `text`, `note`, `count`, `share`, `good`",
            ),
            ("text,text\na,b\n", "there are two columns `text`"),
        ];
        for (body, expected) in cases {
            assert_eq!(read(body), expected);
        }
    }

    #[test]
    fn each_line_is_an_object() {
        let read = |body: &str| match lines(body.as_bytes()) {
            Ok(list) => String::from_utf8(list).expect("text"),
            Err(problem) => problem.message,
        };
        assert_eq!(read("{\"a\": 1}\r\n\n {\"b\":2}"), "[{\"a\": 1},{\"b\":2}]");
        assert_eq!(
            read("{\"a\":1}\n{\"a\":\n1}"),
            "line 2: this is not JSON: EOF while parsing a value at column 5"
        );
        assert_eq!(
            read("{\"a\":1,\"a\":2}"),
            "line 1: this is not JSON: \"a\" is there twice at column 10"
        );
        assert!(read("{\"a\": 1}\n[2]").starts_with("line 2 is not a JSON object"));
    }

    #[test]
    fn a_client_says_what_it_wants() {
        let wanted = |accept: &str| {
            let value = HeaderValue::from_str(accept).expect("a header");
            Format::wanted(&HeaderMap::from_iter([(ACCEPT, value)])).ok()
        };
        let cases = [
            ("text/csv", Some(Format::Csv)),
            ("text/html, */*;q=0.8", Some(Format::Json)),
            ("application/jsonl;q=0.9, text/csv", Some(Format::Csv)),
            ("text/csv;q=0, application/jsonl", Some(Format::Lines)),
            ("text/csv; q=0.1, */*;q=0.5", Some(Format::Json)),
            ("text/*", Some(Format::Csv)),
            ("application/*", Some(Format::Json)),
            ("*/*;q=0", None),
            ("image/png", None),
            ("", Some(Format::Json)),
        ];
        for (accept, expected) in cases {
            assert_eq!(wanted(accept), expected, "{accept:?}");
        }
    }
}
