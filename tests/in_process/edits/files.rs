//! The files of a pipeline, in every format that can hold them.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    Array as _, ArrayRef, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int64Array,
    ListArray, ListBuilder, MapBuilder, RecordBatch, StringArray, StringBuilder, StructArray,
    TimestampMicrosecondArray,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, Field, Schema};
use flate2::Compression;
use flate2::write::GzEncoder;
use parquet::arrow::ArrowWriter;
use serde_json::{Map, Value, json};

use super::table::{Cell, Format, Kind, Layout, Table};
use super::world::World;

type Rows = [Vec<Option<Cell>>];

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
        for (path, rows) in table.files() {
            write(table, &table.rows[rows], &dir.join(path));
        }
    }
}

fn write(table: &Table, rows: &Rows, path: &Path) {
    let bytes = match table.format {
        Format::Csv if table.dress.semicolons => dressed(table, &delimited(table, rows, ';')),
        Format::Csv => dressed(table, &delimited(table, rows, ',')),
        Format::Tsv => dressed(table, &delimited(table, rows, '\t')),
        Format::Jsonl => dressed(table, &json_lines(table, rows)),
        Format::Json => {
            format!("[{}]", json_lines(table, rows).trim_end().replace('\n', ",\n")).into_bytes()
        }
        Format::Lines => dressed(table, &lines(table, rows)),
        Format::Parquet => parquet(table, rows),
    };
    let place = |path: &Path, bytes: &[u8]| {
        std::fs::create_dir_all(path.parent().expect("a directory")).expect("it is ours");
        std::fs::write(path, bytes).expect("it is ours");
    };
    match table.layout {
        Layout::Link => {
            let blob = path.with_file_name("blobs").join(&table.name);
            place(&blob, &bytes);
            std::os::unix::fs::symlink(blob, path).expect("it is ours");
        }
        Layout::Packed => {
            let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
            packed.write_all(&bytes).expect("memory");
            place(path, &packed.finish().expect("memory"));
        }
        _ => place(path, &bytes),
    }
}

/// A file of lines as its table is written.
fn dressed(table: &Table, text: &str) -> Vec<u8> {
    let dress = table.dress;
    let notes = |what: &str, count: usize| -> String {
        (0..count)
            .map(|at| if at == 1 { "\n".to_owned() } else { format!("{what} \"{at}, \n") })
            .collect()
    };
    let is_delimited = matches!(table.format, Format::Csv | Format::Tsv);
    let mut all = notes("Title", dress.titles);
    for (at, line) in text.split_inclusive('\n').enumerate() {
        if dress.comments && is_delimited && at < 2 {
            all.push_str("# a, \"comment\n");
        }
        all.push_str(line);
    }
    all.push_str(&notes("Note", dress.notes));
    if dress.windows {
        all = format!("\u{feff}{}", all.replace('\n', "\r\n"));
    }
    all.into_bytes()
}

fn delimited(table: &Table, rows: &Rows, delimiter: char) -> String {
    let cell = |text: String| match delimiter {
        ',' | ';' if text.contains([delimiter, '"', '\n', '#']) => {
            format!("\"{}\"", text.replace('"', "\"\""))
        }
        _ => text,
    };
    // An empty text is not the same as none.
    let empty = if delimiter == '\t' { "" } else { "\"\"" };
    let line = |cells: Vec<Option<String>>| {
        let cells: Vec<_> = cells
            .into_iter()
            .map(|text| match text {
                Some(text) if text.is_empty() => empty.to_owned(),
                Some(text) => cell(text),
                None => String::new(),
            })
            .collect();
        cells.join(&delimiter.to_string()) + "\n"
    };
    let mut text = line(table.columns.iter().map(|(name, _)| Some(name.clone())).collect());
    for row in rows {
        text.push_str(&line(row.iter().map(|cell| cell.as_ref().map(Cell::text)).collect()));
    }
    text
}

fn lines(table: &Table, rows: &Rows) -> String {
    let place = table.columns.iter().position(|(name, _)| name == "text").unwrap_or(0);
    let texts = rows.iter().filter_map(|row| row[place].as_ref());
    texts.map(|cell| cell.text() + "\n").collect()
}

fn json_lines(table: &Table, rows: &Rows) -> String {
    let mut text = String::new();
    for row in rows {
        let members = table.columns.iter().zip(row).map(|((name, _), cell)| {
            let value = match cell {
                None => Value::Null,
                Some(Cell::Text(text)) => json!(text),
                Some(Cell::Int(number)) => json!(number),
                Some(Cell::Float(number)) => json!(number),
                Some(Cell::Bool(value)) => json!(value),
                Some(cell @ (Cell::Date(_) | Cell::Moment(_) | Cell::Decimal(_))) => {
                    json!(cell.text())
                }
                Some(Cell::List(items)) => json!(items),
                Some(Cell::Struct(x, y)) => json!({"x": x, "y": y}),
                Some(Cell::Map(pairs)) => {
                    let member = |(key, value): &(String, String)| (key.clone(), json!(value));
                    Value::Object(pairs.iter().map(member).collect())
                }
                Some(Cell::Deep(items)) => {
                    let item = |(x, y): &(Option<i64>, Vec<String>)| json!({"x": x, "y": y});
                    Value::Array(items.iter().map(item).collect())
                }
            };
            (name.clone(), value)
        });
        let _ = writeln!(text, "{}", Value::Object(members.collect::<Map<_, _>>()));
    }
    text
}

fn parquet(table: &Table, rows: &Rows) -> Vec<u8> {
    let columns = table.columns.iter().enumerate().map(|(at, (name, kind))| {
        let cells: Vec<Option<&Cell>> = rows.iter().map(|row| row[at].as_ref()).collect();
        let array = array(*kind, &cells);
        (Field::new(name, array.data_type().clone(), true), array)
    });
    let (fields, arrays): (Vec<_>, Vec<_>) = columns.unzip();
    let schema = Arc::new(Schema::new(fields));
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, Arc::clone(&schema), None).expect("a schema");
    writer
        .write(&RecordBatch::try_new(schema, arrays).expect("columns of one length"))
        .expect("rows");
    writer.close().expect("written");
    bytes
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
        Kind::Date => {
            let day = |cell: Option<&Cell>| match cell {
                Some(Cell::Date(day)) => Some(31 + day),
                _ => None,
            };
            Arc::new(cells.iter().copied().map(day).collect::<Date32Array>())
        }
        Kind::Moment => {
            let moment = |cell: Option<&Cell>| match cell {
                Some(Cell::Moment(hour)) => Some((31 * 24 + hour) * 3_600_000_000),
                _ => None,
            };
            let moments: TimestampMicrosecondArray = cells.iter().copied().map(moment).collect();
            Arc::new(moments.with_timezone("Europe/Berlin"))
        }
        Kind::Decimal => {
            let cents = |cell: Option<&Cell>| match cell {
                Some(Cell::Decimal(cents)) => Some(i128::from(*cents)),
                _ => None,
            };
            let cents: Decimal128Array = cells.iter().copied().map(cents).collect();
            Arc::new(cents.with_precision_and_scale(10, 2).expect("it fits"))
        }
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
        Kind::Map => {
            let mut maps = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
            for cell in cells {
                let pairs = if let Some(Cell::Map(pairs)) = cell { Some(pairs) } else { None };
                for (key, value) in pairs.into_iter().flatten() {
                    maps.keys().append_value(key);
                    maps.values().append_value(value);
                }
                maps.append(pairs.is_some()).expect("keys and values");
            }
            Arc::new(maps.finish())
        }
        Kind::Deep => deep(cells),
    }
}

/// Lists of structs that have a list.
fn deep(cells: &[Option<&Cell>]) -> ArrayRef {
    let lists: Vec<_> = cells
        .iter()
        .map(|cell| if let Some(Cell::Deep(items)) = cell { Some(items) } else { None })
        .collect();
    let items: Vec<_> = lists.iter().copied().flatten().flatten().collect();
    let x: Int64Array = items.iter().map(|(x, _)| *x).collect();
    let mut y = ListBuilder::new(StringBuilder::new());
    items.iter().for_each(|(_, texts)| y.append_value(texts.iter().map(Some)));
    let y = y.finish();
    let field =
        |name: &str, data_type: &DataType| Arc::new(Field::new(name, data_type.clone(), true));
    let columns: Vec<(_, ArrayRef)> = vec![
        (field("x", &DataType::Int64), Arc::new(x)),
        (field("y", y.data_type()), Arc::new(y.clone())),
    ];
    let structs = StructArray::from(columns);
    let offsets = OffsetBuffer::from_lengths(lists.iter().map(|list| list.map_or(0, Vec::len)));
    let nulls: NullBuffer = lists.iter().map(Option::is_some).collect();
    let item = field("item", structs.data_type());
    Arc::new(ListArray::new(item, offsets, Arc::new(structs), Some(nulls)))
}
