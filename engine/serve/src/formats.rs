//! Rows as JSON lines and as CSV, in and out. Inside they are JSON: the body of `/v1/rows`.

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Schema};
use arrow_csv::WriterBuilder as CsvWriterBuilder;
use arrow_json::writer::{LineDelimited, WriterBuilder};
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use crate::body::media_type;
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
        Self::of_type(&media_type(headers)).ok_or_else(|| {
            let message = "send the header `Content-Type: application/json`, or text/csv or application/x-ndjson";
            Problem::unsupported(message)
        })
    }

    /// Of the answer that a client wants; JSON if it takes anything.
    pub(crate) fn wanted(headers: &HeaderMap) -> Result<Self, Problem> {
        let accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let kinds: Vec<_> = accepted
            .flat_map(|kinds| kinds.split(','))
            .map(|kind| kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase())
            .filter(|kind| !kind.is_empty())
            .collect();
        let takes_json = |kind: &String| ["*/*", "application/*"].contains(&kind.as_str());
        let known =
            |kind: &String| Self::of_type(kind).or_else(|| takes_json(kind).then_some(Self::Json));
        match kinds.iter().find_map(known) {
            Some(format) => Ok(format),
            None if kinds.is_empty() => Ok(Self::Json),
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
            let mut writer = CsvWriterBuilder::new().with_header(true).build(&mut bytes);
            writer.write(&texts_only(&output.rows)?).map_err(internal)?;
            drop(writer);
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

/// CSV has no lists: they are written as JSON.
fn texts_only(rows: &RecordBatch) -> Result<RecordBatch, Problem> {
    let schema = rows.schema();
    let nested = schema.fields().iter().find(|field| field.data_type().is_nested());
    match nested {
        None => Ok(rows.clone()),
        Some(field) => {
            let message = format!("`{}` has lists, which CSV has not; take JSON", field.name());
            Err(Problem::new(StatusCode::NOT_ACCEPTABLE, "not_acceptable", message))
        }
    }
}

/// Lines of JSON as a list.
fn lines(body: &[u8]) -> Result<Vec<u8>, Problem> {
    let mut list = vec![b'['];
    for (number, line) in (1..).zip(body.split(|byte| *byte == b'\n')) {
        let line = line.trim_ascii();
        if line.is_empty() {
            continue;
        }
        // Each is whole: otherwise two halves could make one.
        serde_json::from_slice::<Map<String, Value>>(line).map_err(|error| {
            Problem::bad_request(format!("line {number} is not a JSON object: {error}"))
        })?;
        if list.len() > 1 {
            list.push(b',');
        }
        list.extend_from_slice(line);
    }
    list.push(b']');
    Ok(list)
}

/// Rows of CSV, with values of the types of their columns. An empty cell of a column that may be empty is null.
fn csv_rows(body: &[u8], schema: &Schema) -> Result<Vec<Value>, Problem> {
    let wrong = |error: csv::Error| Problem::bad_request(format!("this is not CSV: {error}"));
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    let mut reader = csv::ReaderBuilder::new().from_reader(body);
    let names = reader.headers().map_err(wrong)?.clone();
    let mut fields = Vec::new();
    for name in &names {
        let field = schema.field_with_name(name).map_err(|_| {
            let known = schema.fields().iter().map(|field| format!("`{}`", field.name()));
            let known: Vec<_> = known.filter(|name| !name.starts_with("`_")).collect();
            let name = quoted(name);
            Problem::bad_request(format!("there is no column {name:?}, only {}", known.join(", ")))
        })?;
        if fields.contains(&field) {
            return Err(Problem::bad_request(format!("there are two columns `{name}`")));
        }
        fields.push(field);
    }
    let mut rows = Vec::new();
    for (number, record) in (1..).zip(reader.records()) {
        let record = record.map_err(wrong)?;
        let mut row = Map::new();
        for (field, text) in fields.iter().zip(&record) {
            let value = value(text, field.data_type(), field.is_nullable()).ok_or_else(|| {
                let (name, kind) = (field.name(), field.data_type());
                let text = quoted(text);
                Problem::bad_request(format!(
                    "row {number}: `{name}` is {text:?}, not of type {kind}"
                ))
            })?;
            row.insert(field.name().clone(), value);
        }
        rows.push(Value::Object(row));
    }
    Ok(rows)
}

fn value(text: &str, kind: &DataType, is_nullable: bool) -> Option<Value> {
    if text.is_empty() && is_nullable {
        return Some(Value::Null);
    }
    match kind {
        kind if kind.is_numeric() => serde_json::from_str(text.trim()).ok().map(Value::Number),
        DataType::Boolean => text.trim().to_ascii_lowercase().parse().ok().map(Value::Bool),
        kind if kind.is_nested() => serde_json::from_str(text).ok(),
        _ => Some(text.into()),
    }
}

/// The parameters in an address, and the output that it names. A value that is not JSON is text.
pub(crate) fn query(uri: &Uri, about: &About) -> Result<(Parameters, usize), Problem> {
    let (mut parameters, mut output) = (Parameters::new(), 0);
    let pairs = form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
    for (name, value) in pairs {
        if name == OUTPUT {
            let found = about.outputs.iter().position(|(port, _)| *port == value);
            output = found.ok_or_else(|| {
                let ports: Vec<_> = about.outputs.iter().map(|(port, _)| port.as_str()).collect();
                let value = quoted(&value);
                let message = format!("there is no output {value:?}, only {}", ports.join(", "));
                Problem::bad_request(message)
            })?;
            continue;
        }
        let parsed = serde_json::from_str(&value).unwrap_or_else(|_| json!(value));
        if parameters.insert(name.to_string(), parsed).is_some() {
            return Err(Problem::bad_request(format!("{:?} is given twice", quoted(&name))));
        }
    }
    Ok((parameters, output))
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
            ("\u{feff}text,note\n12,\"\"\n", r#"[{"text":"12","note":null}]"#),
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
        assert!(read("text,count\na\n").starts_with("this is not CSV"));
    }

    #[test]
    fn each_line_is_an_object() {
        let read = |body: &str| match lines(body.as_bytes()) {
            Ok(list) => String::from_utf8(list).expect("text"),
            Err(problem) => problem.message,
        };
        assert_eq!(read("{\"a\": 1}\r\n\n {\"b\":2}"), "[{\"a\": 1},{\"b\":2}]");
        assert!(read("{\"a\":\n1}").starts_with("line 1 is not a JSON object"));
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
            ("application/jsonl;q=0.9, text/csv", Some(Format::Lines)),
            ("application/*", Some(Format::Json)),
            ("image/png", None),
            ("", Some(Format::Json)),
        ];
        for (accept, expected) in cases {
            assert_eq!(wanted(accept), expected, "{accept:?}");
        }
    }
}
