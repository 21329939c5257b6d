//! What the tests of `load` share.

#![allow(dead_code, reason = "each test binary uses some of it")]

use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::util::display::array_value_to_string;
use paraloom_sdk::testing::Harness;
use paraloom_stages_text::Load;
use parquet::arrow::ArrowWriter;
use serde_json::{Value, json};

/// What `load` makes of a file with these bytes, or what it says.
pub(crate) fn load(dir: &Path, name: &str, bytes: &[u8], mut config: Value) -> String {
    let path = dir.join(name);
    std::fs::write(&path, bytes).expect("the directory is ours");
    config["from"] = json!(path);
    outcome(dir, config)
}

/// What `load` makes of a file, or what it says.
pub(crate) fn outcome(dir: &Path, config: Value) -> String {
    match Harness::new(config).run::<Load>() {
        Ok(outputs) => {
            let schema = outputs[0].first().map(RecordBatch::schema);
            let types = schema.map(|schema| {
                let types: Vec<_> = schema
                    .fields()
                    .iter()
                    .map(|field| format!("{}: {}", field.name(), field.data_type()))
                    .collect();
                types.join(", ")
            });
            format!("{}\n{}", types.unwrap_or_default(), lines(&outputs[0]))
        }
        Err(error) => {
            let hint = error.detail("hint").map_or(String::new(), |hint| format!("\nhint: {hint}"));
            let at = error.detail("pointer").unwrap_or_default();
            format!("{:?} {at}: {error}{hint}", error.status())
                .replace(dir.to_str().expect("text"), "[DIR]")
        }
    }
}

/// One line a row, cells between bars.
pub(crate) fn lines(batches: &[RecordBatch]) -> String {
    let mut out = String::new();
    for batch in batches {
        for row in 0..batch.num_rows() {
            let cell = |column: &ArrayRef| {
                let text = array_value_to_string(column, row).expect("it prints");
                if column.is_null(row) { "null".to_owned() } else { format!("|{text}|") }
            };
            let cells: Vec<_> = batch.columns().iter().map(cell).collect();
            writeln!(out, "{}", cells.join(" ")).expect("a string takes everything");
        }
    }
    out
}

/// A Parquet file with the column `text`, or others.
pub(crate) fn write_parquet(path: &Path, columns: &[(&str, ArrayRef)]) {
    let columns = columns.iter().map(|(name, column)| (*name, Arc::clone(column), true));
    let rows = RecordBatch::try_from_iter_with_nullable(columns).expect("one length");
    let file = std::fs::File::create(path).expect("the directory is ours");
    let mut writer = ArrowWriter::try_new(file, rows.schema(), None).expect("a writer");
    writer.write(&rows).expect("the directory is ours");
    writer.close().expect("the directory is ours");
}
