//! Odd files as data: what `load` makes of them, or what it says.

use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Float64Array, RecordBatch, StringArray};
use arrow::util::display::array_value_to_string;
use paraloom_sdk::testing::Harness;
use paraloom_stages_text::{Evaluate, Export, Load, Threshold};
use parquet::arrow::ArrowWriter;
use serde_json::{Value, json};

fn load(dir: &Path, name: &str, bytes: &[u8], mut config: Value) -> String {
    let path = dir.join(name);
    std::fs::write(&path, bytes).expect("the directory is ours");
    config["from"] = json!(path);
    outcome(dir, config)
}

/// What `load` makes of a file, or what it says. The engine fills in the defaults of the
/// schema, and so does this.
fn outcome(dir: &Path, mut config: Value) -> String {
    let defaults =
        json!({"header": true, "skip": 0, "encoding": "utf-8", "detokenize": false, "types": {}});
    for (key, value) in defaults.as_object().expect("an object") {
        config.as_object_mut().expect("an object").entry(key).or_insert(value.clone());
    }
    match Harness::new(config).run::<Load>() {
        Ok(outputs) => {
            let schema = outputs[0].first().map(RecordBatch::schema);
            let types = schema.map(|schema| {
                let types: Vec<_> =
                    schema.fields().iter().map(|field| field.data_type().to_string()).collect();
                types.join(", ")
            });
            format!("{}\n{}", types.unwrap_or_default(), lines(&outputs[0]))
        }
        Err(error) => {
            let hint = error.detail("hint").map_or(String::new(), |hint| format!("\nhint: {hint}"));
            format!("{:?}: {error}{hint}", error.status())
                .replace(dir.to_str().expect("text"), "[DIR]")
        }
    }
}

/// One line a row, cells between bars.
fn lines(batches: &[RecordBatch]) -> String {
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

#[test]
fn odd_files() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let long = "x".repeat(2 << 20);
    let cases: Vec<(&str, &str, Vec<u8>, Value)> = vec![
        ("types", "a.csv", b"n,x,t,b,code\n1,1.5,a,true,007\n2,,b,false,010\n".to_vec(), json!({})),
        ("byte order mark, crlf", "a.csv", b"\xef\xbb\xbfa,b\r\n1,2\r\n".to_vec(), json!({})),
        ("quotes", "a.csv", b"t\n\"a, \"\"b\"\"\"\n".to_vec(), json!({})),
        ("quotes are text in tsv", "a.tsv", b"t\tn\n\"open\t1\n".to_vec(), json!({})),
        ("semicolons", "a.csv", b"a;b\n1;2\n".to_vec(), json!({"delimiter": ";"})),
        (
            "no header",
            "a.csv",
            b"x,1\ny,2\n".to_vec(),
            json!({"header": false, "columns": {"column1": "t"}}),
        ),
        (
            "chosen and renamed",
            "a.csv",
            b"a,b,c\n1,2,3\n".to_vec(),
            json!({"columns": {"c": "x", "a": "y"}}),
        ),
        (
            "kept, skipped, limited",
            "a.csv",
            b"n\n1\n2\n3\n4\n5\n6\n".to_vec(),
            json!({"keep": "n % 2 = 0", "skip": 1, "limit": 1}),
        ),
        ("latin-1", "a.csv", b"t\ncaf\xe9\n".to_vec(), json!({"encoding": "latin-1"})),
        ("utf-16", "a.txt", b"\xff\xfeh\0i\0".to_vec(), json!({"encoding": "utf-16"})),
        ("lines", "a.txt", b"one\n\n  \ntwo".to_vec(), json!({})),
        (
            "json lines",
            "a.jsonl",
            b"{\"a\": 1, \"b\": \"x\"}\n\n{\"b\": null, \"a\": 2.5, \"c\": [1]}\n".to_vec(),
            json!({}),
        ),
        ("special tokens are text", "a.txt", b"a </s> b <pad>\n".to_vec(), json!({})),
        ("header only", "a.csv", b"a,b\n".to_vec(), json!({})),
        ("empty", "a.csv", b"".to_vec(), json!({})),
        ("ragged", "a.csv", b"a,b\n1,2\n3\n".to_vec(), json!({})),
        ("unbalanced quote", "a.csv", b"a,b\n\"1,2\n3,4\n".to_vec(), json!({})),
        ("duplicate header", "a.csv", b"a,a\n1,2\n".to_vec(), json!({})),
        ("empty header", "a.csv", b"a,\n1,2\n".to_vec(), json!({})),
        ("not utf-8", "a.csv", b"t\ncaf\xe9\n".to_vec(), json!({})),
        ("utf-16 without saying so", "a.csv", b"\xff\xfea\0".to_vec(), json!({})),
        ("gzip", "a.csv", b"\x1f\x8b\x08".to_vec(), json!({})),
        ("long line", "a.txt", long.into_bytes(), json!({})),
        (
            "no such column",
            "a.csv",
            b"sentence1,label\na,1\n".to_vec(),
            json!({"columns": {"sentence": "t"}}),
        ),
        ("no such type", "a.csv", b"score\n1\n".to_vec(), json!({"types": {"scores": "text"}})),
        ("bad condition", "a.csv", b"score\n1\n".to_vec(), json!({"keep": "score >= 'x'"})),
        ("unknown extension", "a.xls", b"x".to_vec(), json!({})),
        ("not json", "a.jsonl", b"{\"a\": 1}\n{a: 2}\n".to_vec(), json!({})),
        ("not an object", "a.jsonl", b"[1]\n".to_vec(), json!({})),
        ("not parquet", "a.parquet", b"PAR1 nonsense PAR1".to_vec(), json!({})),
        ("not arrow", "a.arrow", b"ARROW1 nonsense".to_vec(), json!({})),
    ];
    let mut all = String::new();
    for (name, file, bytes, config) in cases {
        let outcome = load(dir.path(), file, &bytes, config);
        write!(all, "######## {name}\n{outcome}\n\n").expect("a string takes everything");
    }
    insta::assert_snapshot!(all);
}

/// A Parquet file with the column `text`, or others.
fn write_parquet(path: &Path, columns: &[(&str, ArrayRef)]) {
    let rows = RecordBatch::try_from_iter(columns.iter().cloned()).expect("one length");
    let file = std::fs::File::create(path).expect("the directory is ours");
    let mut writer = ArrowWriter::try_new(file, rows.schema(), None).expect("a writer");
    writer.write(&rows).expect("the directory is ours");
    writer.close().expect("the directory is ours");
}

#[test]
fn several_files() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let texts = |texts: &[&str]| -> ArrayRef { Arc::new(StringArray::from(texts.to_vec())) };
    let numbers = |numbers: &[f64]| -> ArrayRef { Arc::new(Float64Array::from(numbers.to_vec())) };
    let make = |name: &str, files: &[(&str, &[(&str, ArrayRef)])]| {
        std::fs::create_dir(dir.path().join(name)).expect("the directory is ours");
        for (file, columns) in files {
            write_parquet(&dir.path().join(name).join(file), columns);
        }
        json!(dir.path().join(name))
    };
    let sound: &[(&str, ArrayRef)] = &[("text", texts(&["a", "b"])), ("n", numbers(&[1.0, 2.0]))];
    let turned: &[(&str, ArrayRef)] = &[("n", numbers(&[3.0])), ("text", texts(&["c"]))];
    let other: &[(&str, ArrayRef)] = &[("text", texts(&["d"])), ("n", texts(&["e"]))];
    let less: &[(&str, ArrayRef)] = &[("text", texts(&["d"]))];
    let ordered = make("ordered", &[("1.parquet", turned), ("0.parquet", sound)]);
    std::fs::write(dir.path().join("ordered/README.md"), "not a table").expect("it is ours");
    let at = |name: &str| json!(dir.path().join("ordered").join(name));
    let cases = [
        ("by name", ordered),
        ("a list, in its own order", json!([at("1.parquet"), at("0.parquet")])),
        ("another type", make("typed", &[("0.parquet", sound), ("1.parquet", other)])),
        ("a column less", make("less", &[("0.parquet", sound), ("1.parquet", less)])),
        ("a column more", make("more", &[("0.parquet", less), ("1.parquet", sound)])),
        ("nothing", make("nothing", &[])),
        ("a list with a file that is gone", json!([at("0.parquet"), at("2.parquet")])),
    ];
    let mut all = String::new();
    for (name, from) in cases {
        let outcome = outcome(dir.path(), json!({"from": from}));
        write!(all, "######## {name}\n{outcome}\n\n").expect("a string takes everything");
    }
    insta::assert_snapshot!(all);
}

fn rows() -> RecordBatch {
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("text", Arc::new(StringArray::from(vec!["=1+1", "b", "c"]))),
        ("score", Arc::new(Float64Array::from(vec![Some(4.5), Some(f64::NAN), None]))),
    ];
    RecordBatch::try_from_iter(columns).expect("the columns have one length")
}

#[test]
fn a_missing_score_never_passes_a_threshold() {
    for keep in ["score >= 4", "not score < 4", "score != 0"] {
        let outputs = Harness::new(json!({"keep": keep}))
            .rows("rows", rows())
            .map::<Threshold>()
            .expect("it works");
        assert_eq!(outputs[0][0].num_rows(), 1, "{keep}");
        assert_eq!(outputs[1][0].num_rows(), 2, "{keep}");
        let harness = Harness::new(json!({"keep": keep})).rows("rows", rows());
        harness.conforms::<Threshold>().expect("it conforms");
    }
}

#[test]
fn what_export_writes_load_reads() {
    for format in ["csv", "tsv", "jsonl", "parquet"] {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let config = json!({"format": format, "name": "rows", "ids": false});
        Harness::new(config)
            .rows("rows", rows())
            .output_dir(dir.path())
            .run::<Export>()
            .expect("it works");
        let path = dir.path().join(format!("rows.{format}"));
        let config = json!({"from": path, "types": {"score": "text"}, "header": true});
        let config = if format == "parquet" { json!({"from": path}) } else { config };
        let outputs = Harness::new(config).run::<Load>().expect("it works");
        let texts = paraloom_sdk::column::text(&outputs[0][0], "text").expect("there is a column");
        assert_eq!(texts, StringArray::from(vec!["=1+1", "b", "c"]), "{format}");
    }
}

#[test]
fn evaluate_needs_something_to_do() {
    let error =
        Harness::new(json!({})).rows("rows", rows()).run::<Evaluate>().expect_err("nothing to do");
    assert_eq!(error.to_string(), "`evaluate` needs `predicted` and `gold`, or `mean`");
}
