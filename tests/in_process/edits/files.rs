//! The files of a pipeline, in every format that can hold them.

use std::fmt::Write as _;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Float64Array, Int64Array, ListBuilder, RecordBatch, StringArray,
    StringBuilder, StructArray,
};
use arrow::datatypes::{DataType, Field, Schema};
use parquet::arrow::ArrowWriter;
use serde_json::{Map, Value, json};

use super::world::{Cell, Format, Kind, Table, World};

/// Writes every file of a world, and removes the others.
pub(crate) fn write_all(world: &World, dir: &Path) {
    for entry in std::fs::read_dir(dir).expect("it is ours").flatten() {
        let path = entry.path();
        if path.is_dir() {
            std::fs::remove_dir_all(path).expect("it is ours");
        } else {
            std::fs::remove_file(path).expect("it is ours");
        }
    }
    for table in &world.files {
        let path = dir.join(table.file_name());
        if table.linked {
            // As tools for data sets lay files down: the name is a link's, and what it names has none.
            let store = dir.join("blobs");
            std::fs::create_dir_all(&store).expect("it is ours");
            let blob = store.join(&table.name);
            write(table, &blob);
            std::os::unix::fs::symlink(blob, path).expect("it is ours");
        } else {
            write(table, &path);
        }
    }
}

fn write(table: &Table, path: &Path) {
    let text = match table.format {
        Format::Csv => delimited(table, ','),
        Format::Tsv => delimited(table, '\t'),
        Format::Jsonl => json_lines(table),
        Format::Parquet => return parquet(table, path),
    };
    std::fs::write(path, text).expect("it is ours");
}

fn delimited(table: &Table, delimiter: char) -> String {
    let cell = |text: String| match delimiter {
        ',' if text.contains([',', '"', '\n']) => format!("\"{}\"", text.replace('"', "\"\"")),
        _ => text,
    };
    let line = |cells: Vec<String>| {
        let cells: Vec<_> = cells.into_iter().map(cell).collect();
        cells.join(&delimiter.to_string()) + "\n"
    };
    let mut text = line(table.columns.iter().map(|(name, _)| name.clone()).collect());
    for row in &table.rows {
        let cells = row.iter().map(|cell| cell.as_ref().map_or_else(String::new, Cell::text));
        text.push_str(&line(cells.collect()));
    }
    text
}

fn json_lines(table: &Table) -> String {
    let mut text = String::new();
    for row in &table.rows {
        let members = table.columns.iter().zip(row).map(|((name, _), cell)| {
            let value = match cell {
                None => Value::Null,
                Some(Cell::Text(text)) => json!(text),
                Some(Cell::Int(number)) => json!(number),
                Some(Cell::Float(number)) => json!(number),
                Some(Cell::Bool(value)) => json!(value),
                Some(Cell::List(items)) => json!(items),
                Some(Cell::Struct(x, y)) => json!({"x": x, "y": y}),
            };
            (name.clone(), value)
        });
        let _ = writeln!(text, "{}", Value::Object(members.collect::<Map<_, _>>()));
    }
    text
}

fn parquet(table: &Table, path: &Path) {
    let columns = table.columns.iter().enumerate().map(|(at, (name, kind))| {
        let cells: Vec<Option<&Cell>> = table.rows.iter().map(|row| row[at].as_ref()).collect();
        let array = array(*kind, &cells);
        (Field::new(name, array.data_type().clone(), true), array)
    });
    let (fields, arrays): (Vec<_>, Vec<_>) = columns.unzip();
    let schema = Arc::new(Schema::new(fields));
    let file = File::create(path).expect("it is ours");
    let mut writer = ArrowWriter::try_new(file, Arc::clone(&schema), None).expect("a schema");
    writer
        .write(&RecordBatch::try_new(schema, arrays).expect("columns of one length"))
        .expect("rows");
    writer.close().expect("written");
}

/// A column; cells of another kind, as an edit may have left them, become text or nothing.
fn array(kind: Kind, cells: &[Option<&Cell>]) -> ArrayRef {
    let text = |cell: Option<&Cell>| cell.map(Cell::text);
    match kind {
        Kind::Text => Arc::new(cells.iter().copied().map(text).collect::<StringArray>()),
        Kind::Int => Arc::new(
            cells.iter().map(|cell| text(*cell)?.parse::<i64>().ok()).collect::<Int64Array>(),
        ),
        Kind::Float => Arc::new(
            cells.iter().map(|cell| text(*cell)?.parse::<f64>().ok()).collect::<Float64Array>(),
        ),
        Kind::Bool => Arc::new(
            cells.iter().map(|cell| text(*cell)?.parse::<bool>().ok()).collect::<BooleanArray>(),
        ),
        Kind::List => {
            let mut lists = ListBuilder::new(StringBuilder::new());
            for cell in cells {
                match cell {
                    Some(Cell::List(items)) => lists.append_value(items.iter().map(Some)),
                    _ => lists.append_null(),
                }
            }
            Arc::new(lists.finish())
        }
        Kind::Struct => {
            let member = |get: fn(&Cell) -> Option<String>| {
                let texts = cells.iter().map(|cell| get((*cell)?));
                Arc::new(texts.collect::<StringArray>()) as ArrayRef
            };
            let x =
                member(|cell| if let Cell::Struct(x, _) = cell { Some(x.clone()) } else { None });
            let y =
                member(|cell| if let Cell::Struct(_, y) = cell { Some(y.clone()) } else { None });
            let field = |name: &str| Arc::new(Field::new(name, DataType::Utf8, true));
            Arc::new(StructArray::from(vec![(field("x"), x), (field("y"), y)]))
        }
    }
}
