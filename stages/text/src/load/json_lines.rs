//! JSON lines: one object a line. Members that are objects or arrays become JSON text.

use std::path::Path;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Field, Schema, SchemaRef};
use paraloom_sdk::Result;
use serde_json::{Map, Value};

use super::columns::{Kind, build};
use super::text::LineReader;
use super::{BATCH_ROWS, Config, SAMPLE_ROWS, Source};

pub(super) struct JsonLines {
    lines: LineReader,
    schema: SchemaRef,
    kinds: Vec<Kind>,
}

impl JsonLines {
    pub(super) fn open(path: &Path, config: &Config) -> Result<Self> {
        let mut lines = LineReader::open(path, config.encoding)?;
        // In the order in which they first appear.
        let mut found: Vec<(String, Option<Kind>)> = Vec::new();
        for _ in 0..SAMPLE_ROWS {
            let Some(object) = read(&mut lines)? else { break };
            for (name, value) in object {
                let kind = kind(&value);
                match found.iter_mut().find(|(known, _)| *known == name) {
                    Some((_, old)) => {
                        *old = match (*old, kind) {
                            (Some(a), Some(b)) => Some(a.join(b)),
                            (a, b) => a.or(b),
                        };
                    }
                    None => found.push((name, kind)),
                }
            }
        }
        for (name, kind) in &mut found {
            *kind = config.types.get(name).copied().or(*kind);
        }
        let kinds: Vec<_> = found.iter().map(|(_, kind)| kind.unwrap_or(Kind::Text)).collect();
        let fields = found
            .iter()
            .zip(&kinds)
            .map(|((name, _), kind)| Field::new(name, kind.data_type(), true));
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        Ok(Self { lines: LineReader::open(path, config.encoding)?, schema, kinds })
    }
}

/// The next object; blank lines are left out.
fn read(lines: &mut LineReader) -> Result<Option<Map<String, Value>>> {
    while let Some(line) = lines.next()? {
        if line.trim().is_empty() {
            continue;
        }
        return match serde_json::from_str(&line) {
            Ok(Value::Object(object)) => Ok(Some(object)),
            Ok(_) => Err(lines.error("the line is not a JSON object")),
            Err(error) => Err(lines.error(&format!("the line is not JSON: {error}"))),
        };
    }
    Ok(None)
}

fn kind(value: &Value) -> Option<Kind> {
    match value {
        Value::Null => None,
        Value::Bool(_) => Some(Kind::Bool),
        Value::Number(number) if number.is_i64() => Some(Kind::Int),
        Value::Number(_) => Some(Kind::Number),
        Value::String(_) | Value::Array(_) | Value::Object(_) => Some(Kind::Text),
    }
}

fn cell(value: Option<Value>) -> Option<String> {
    match value {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => Some(text),
        Some(other) => Some(other.to_string()),
    }
}

impl Source for JsonLines {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn next(&mut self) -> Result<Option<RecordBatch>> {
        let mut cells: Vec<Vec<Option<String>>> =
            vec![Vec::with_capacity(BATCH_ROWS); self.kinds.len()];
        let mut count = 0;
        while count < BATCH_ROWS {
            let Some(mut object) = read(&mut self.lines)? else { break };
            for (column, field) in cells.iter_mut().zip(self.schema.fields()) {
                column.push(cell(object.remove(field.name())));
            }
            if let Some(name) = object.keys().next() {
                let message = format!("`{name}` does not appear in the first {SAMPLE_ROWS} lines");
                return Err(self.lines.error(&message));
            }
            count += 1;
        }
        if count == 0 {
            return Ok(None);
        }
        let mut columns = Vec::with_capacity(cells.len());
        for ((kind, column), field) in self.kinds.iter().zip(cells).zip(self.schema.fields()) {
            columns.push(build(*kind, column).map_err(|_| {
                let name = field.name();
                let message = format!("`{name}` is not {} in every line", field.data_type());
                self.lines.error(&message).hint(format!("say `types: {{ {name}: text }}`"))
            })?);
        }
        Ok(Some(RecordBatch::try_new(Arc::clone(&self.schema), columns)?))
    }
}
