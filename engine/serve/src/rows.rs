//! Rows as JSON: requests and responses.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow_json::ReaderBuilder;
use arrow_json::writer::{JsonArray, WriterBuilder};
use serde_json::{Map, Value};

use crate::json::{json_of, utf8_of};
use crate::{Parameters, types};

pub(crate) const ID: &str = "_id";
pub(crate) const PARENT: &str = "_parent";

/// Whether a column is what the engine knows rows by, and no part of what they say.
pub(crate) fn is_identity(column: &str) -> bool {
    matches!(column, ID | PARENT)
}

/// Rows of one request at most.
pub(crate) const MAX_ROWS: usize = 128;

/// A row as a client sends it.
pub(crate) type Row = Map<String, Value>;

/// A request `{"rows": [{...}, ...], "parameters": {...}, "model": "..."}`.
pub(crate) struct Sent<'a> {
    body: &'a [u8],
    rows: Vec<Row>,
    parameters: Parameters,
    /// The name of the model that is to map the rows; null where none is named.
    pub(crate) model: Value,
}

/// Reads a request, whatever columns its rows have.
pub(crate) fn sent(body: &[u8]) -> Result<Sent<'_>, BadRows> {
    utf8_of(body).and_then(parse).map_err(BadRows::Wrong)
}

/// The rows of a request with the schema `schema`; an error says which row is wrong, and how.
///
/// A row without `_id` gets one by its content, and by how often that came before in the request: equal requests get equal
/// answers, and equal rows of one request get answers of their own.
pub(crate) fn decode(
    schema: &SchemaRef,
    sent: Sent<'_>,
) -> Result<(RecordBatch, Parameters), BadRows> {
    let Sent { body, mut rows, parameters, .. } = sent;
    if rows.is_empty() {
        return Err(BadRows::Wrong("there are no rows".to_owned()));
    }
    if rows.len() > MAX_ROWS {
        let message = format!("a request has {MAX_ROWS} rows at most, not {}", rows.len());
        return Err(BadRows::TooMany(message));
    }
    let wrong = |number, what| BadRows::Wrong(format!("row {number}: {what}"));
    let (mut contents, mut ids) = (HashSet::new(), HashSet::new());
    for (number, row) in (1..).zip(&mut rows) {
        check(schema, row).map_err(|what| wrong(number, what))?;
        check_types(schema, row, body, number - 1).map_err(|what| wrong(number, what))?;
        complete(schema, row, &mut contents);
        let Some(Value::String(id)) = row.get(ID) else {
            return Err(wrong(number, format!("`{ID}` is not a text")));
        };
        if !ids.insert(id.clone()) {
            return Err(wrong(number, format!("another row has the `{ID}` {id:?} too")));
        }
    }
    let rows = batch(schema, body, &rows).map_err(|all| {
        let alone = |row: &Row| read(schema, std::slice::from_ref(row)).err();
        let found = (1..).zip(&rows).find_map(|(number, row)| Some((number, alone(row)?)));
        found.map_or_else(
            || BadRows::Wrong(message(&all)),
            |(number, what)| wrong(number, message(&what)),
        )
    })?;
    Ok((rows, parameters))
}

/// What is wrong with the rows of a request.
#[derive(Debug)]
pub(crate) enum BadRows {
    Wrong(String),
    TooMany(String),
}

/// What stands in the body of a request. Numbers with many digits may be off in the last bit.
fn parse(body: &[u8]) -> Result<Sent<'_>, String> {
    const SEND: &str = "send {\"rows\": [{...}, ...]}";
    let Value::Object(mut members) = json_of(body)? else { return Err(SEND.to_owned()) };
    let (rows, model) = (members.remove("rows"), members.remove("model").unwrap_or_default());
    let parameters = match members.remove("parameters") {
        None | Some(Value::Null) => Parameters::new(),
        Some(Value::Object(parameters)) => parameters,
        Some(_) => return Err("`parameters` is an object, {\"NAME\": VALUE, ...}".to_owned()),
    };
    if let Some(unknown) = members.keys().next() {
        return Err(format!("{unknown:?} is not known here; {SEND}"));
    }
    let Some(Value::Array(rows)) = rows else { return Err(SEND.to_owned()) };
    let row = |(number, row)| match row {
        Value::Object(row) => Ok(row),
        _ => Err(format!("row {number} is not an object; {SEND}")),
    };
    let rows = (1..).zip(rows).map(row).collect::<Result<_, _>>()?;
    Ok(Sent { body, rows, parameters, model })
}

/// All columns are known, and those that must have a value have one.
fn check(schema: &SchemaRef, row: &Row) -> Result<(), String> {
    if let Some(unknown) = row.keys().find(|name| schema.index_of(name).is_err()) {
        let names = schema.fields().iter().map(|field| format!("`{}`", field.name()));
        let names: Vec<_> = names.filter(|name| !name.starts_with("`_")).collect();
        return Err(format!("there is no column {unknown:?}, only {}", names.join(", ")));
    }
    let is_missing = |name: &str| row.get(name).is_none_or(Value::is_null);
    let needed = schema.fields().iter().filter(|field| !field.is_nullable());
    let mut names = needed.map(|field| field.name().as_str());
    match names.find(|name| !is_identity(name) && is_missing(name)) {
        Some(name) => Err(format!("it has no `{name}`")),
        None => Ok(()),
    }
}

/// All values are of the types of their columns; `number` is that of the row in the body, from 0.
fn check_types(schema: &SchemaRef, row: &Row, body: &[u8], number: usize) -> Result<(), String> {
    let fields = schema.fields().iter().filter(|field| !is_identity(field.name()));
    fields.filter_map(|field| Some((field, row.get(field.name())?))).try_for_each(
        |(field, value)| types::check(field, value, || types::sent(body, number, field.name())),
    )
}

/// Adds the columns that tell where a row comes from.
fn complete(schema: &SchemaRef, row: &mut Row, contents: &mut HashSet<String>) {
    if row.get(ID).is_none_or(Value::is_null) {
        let values = schema.fields().iter().filter(|field| !is_identity(field.name()));
        let values = values.map(|field| row.get(field.name()).unwrap_or(&Value::Null).to_string());
        let content = values.collect::<Vec<_>>().join("\n");
        let id = |occurrence: u32| {
            let mut hasher = blake3::Hasher::new_derive_key("paraloom 2026 row id: served");
            hasher.update(&occurrence.to_le_bytes()).update(content.as_bytes());
            hasher.finalize().to_hex()[..24].to_owned()
        };
        let mut occurrence = 0;
        while !contents.insert(id(occurrence)) {
            occurrence += 1;
        }
        let id = id(occurrence);
        row.insert(ID.to_owned(), Value::String(id));
    }
    if schema.index_of(PARENT).is_ok() && row.get(PARENT).is_none_or(Value::is_null) {
        row.insert(PARENT.to_owned(), row[ID].clone());
    }
}

/// The rows of the body, whose numbers are read to the last bit, with the ids of `rows`, which are the same.
fn batch(schema: &SchemaRef, body: &[u8], rows: &[Row]) -> Result<RecordBatch, ArrowError> {
    let nullable = |field: &FieldRef| field.as_ref().clone().with_nullable(true);
    let columns: Fields = schema.fields().iter().map(nullable).collect();
    let row = Field::new("row", DataType::Struct(columns), true);
    let list = Field::new("rows", DataType::List(Arc::new(row)), true);
    let mut decoder = ReaderBuilder::new(Arc::new(Schema::new(vec![list]))).build_decoder()?;
    decoder.decode(body)?;
    let unread = || ArrowError::JsonError("the rows cannot be read".to_owned());
    let read = decoder.flush()?.ok_or_else(unread)?;
    let values = read.column(0).as_list_opt::<i32>().ok_or_else(unread)?.values();
    let values = values.as_struct_opt().ok_or_else(unread)?;
    let columns = schema.fields().iter().zip(values.columns()).map(|(field, read)| {
        match field.name().as_str() {
            name @ (ID | PARENT) => {
                let texts = rows.iter().map(|row| row.get(name).and_then(Value::as_str));
                Arc::new(texts.collect::<StringArray>()) as ArrayRef
            }
            _ => Arc::clone(read),
        }
    });
    RecordBatch::try_new(Arc::clone(schema), columns.collect())
}

fn read(schema: &SchemaRef, rows: &[Row]) -> Result<Option<RecordBatch>, ArrowError> {
    let mut decoder = ReaderBuilder::new(Arc::clone(schema)).build_decoder()?;
    decoder.serialize(rows)?;
    decoder.flush()
}

fn message(error: &ArrowError) -> String {
    let text = error.to_string();
    text.strip_prefix("Json error: ").unwrap_or(&text).to_owned()
}

/// Rows as a JSON array of objects, all columns in each.
pub(crate) fn encode(rows: &RecordBatch) -> Result<String, arrow::error::ArrowError> {
    if rows.num_rows() == 0 {
        return Ok("[]".to_owned());
    }
    let builder = WriterBuilder::new().with_explicit_nulls(true);
    let mut writer = builder.build::<_, JsonArray>(Vec::new());
    writer.write(rows)?;
    writer.finish()?;
    Ok(String::from_utf8_lossy(&writer.into_inner()).into_owned())
}

/// The columns that a person can fill in: texts that are not made by the engine.
pub(crate) fn text_columns(schema: &SchemaRef) -> Vec<&str> {
    let fields = schema.fields().iter().filter(|field| field.data_type() == &DataType::Utf8);
    fields.map(|field| field.name().as_str()).filter(|name| !is_identity(name)).collect()
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::Float64Type;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn schema() -> SchemaRef {
        Arc::new(Schema::new(vec![
            Field::new(ID, DataType::Utf8, false),
            Field::new(PARENT, DataType::Utf8, false),
            Field::new("text", DataType::Utf8, false),
            Field::new("count", DataType::Int64, true),
            Field::new("share", DataType::Float64, true),
        ]))
    }

    fn decode(schema: &SchemaRef, body: &[u8]) -> Result<(RecordBatch, Parameters), BadRows> {
        super::decode(schema, sent(body)?)
    }

    /// Values as JSON has them, columns of the schema among the names.
    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".{0,8}".prop_map(Value::from),
        ];
        let name = prop_oneof!["_id|_parent|text|count|share|rows", ".{0,4}"];
        leaf.prop_recursive(4, 32, 4, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec((name.clone(), inner), 0..5)
                    .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
            ]
        })
    }

    #[test]
    fn a_value_that_must_be_there_is_named() {
        for row in ["{}", r#"{"text": null, "count": 1}"#, r#"{"_id": "a"}"#] {
            let said = decode(&schema(), format!("{{\"rows\": [{row}]}}").as_bytes());
            let said = said.expect_err("there is no text");
            assert!(
                matches!(&said, BadRows::Wrong(what) if what == "row 1: it has no `text`"),
                "{said:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn anything_is_rows_or_an_error(bytes in any::<Vec<u8>>(), body in value(), rows in value()) {
            let bodies = [body.to_string(), json!({ "rows": [rows] }).to_string()];
            for body in bodies.iter().map(String::as_bytes).chain([&bytes[..]]) {
                let _ = decode(&schema(), body);
            }
        }

        #[test]
        fn rows_come_back_as_they_came(
            rows in prop::collection::vec((".{0,20}", any::<Option<i64>>(), -1e9..1e9_f64), 1..5)
        ) {
            let row = |(text, count, share): &(String, Option<i64>, f64)| {
                let row = json!({ "text": text, "count": count, "share": share });
                row.as_object().cloned().unwrap_or_default()
            };
            let sent: Vec<Row> = rows.iter().map(row).collect();
            let decoded = decode(&schema(), json!({ "rows": sent }).to_string().as_bytes());
            let (decoded, _) = decoded.expect("they fit");
            let shares = decoded["share"].as_primitive::<Float64Type>().values().to_vec();
            prop_assert_eq!(shares, rows.iter().map(|row| row.2).collect::<Vec<_>>());
            let texts = decoded["text"].as_string::<i32>().iter().flatten().collect::<Vec<_>>();
            prop_assert_eq!(texts, rows.iter().map(|row| row.0.as_str()).collect::<Vec<_>>());
            prop_assert_eq!(&decoded[ID], &decoded[PARENT]);
            let ids: HashSet<_> = decoded[ID].as_string::<i32>().iter().flatten().collect();
            prop_assert_eq!(ids.len(), rows.len());
            // What is written can be sent again.
            let written = format!("{{\"rows\": {}}}", encode(&decoded).expect("JSON"));
            prop_assert_eq!(decode(&schema(), written.as_bytes()).expect("they fit").0, decoded);
        }
    }
}
