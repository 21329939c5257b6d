//! Packed files, several files, Parquet, and files that `export` has written.

mod common;

use std::fmt::Write;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray,
};
use common::{load, outcome, write_parquet};
use paraloom_sdk::testing::{Harness, Log};
use paraloom_stages_text::{Export, Load, Threshold};
use parquet::arrow::ArrowWriter;
use proptest::prelude::*;
use serde_json::{Value, json};

/// What packs a text, by the extension that says so.
fn packed(extension: &str, text: &[u8]) -> Vec<u8> {
    match extension {
        "gz" => {
            let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            std::io::Write::write_all(&mut writer, text).expect("memory takes it");
            writer.finish().expect("memory takes it")
        }
        "bz2" => {
            let mut writer = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
            std::io::Write::write_all(&mut writer, text).expect("memory takes it");
            writer.finish().expect("memory takes it")
        }
        _ => zstd::encode_all(text, 1).expect("memory takes it"),
    }
}

/// `text,n` / `a,1` and `b,2` as two streams of xz, which has no encoder here.
const XZ: &str = "fd377a585a000004e6d6b4460200210116000000742fe5a301000a746578742c6e0a612c310a00002c7fb1a8dab9b5ae0001\
    230bc21bfd091fb6f37d010000000004595afd377a585a000004e6d6b4460200210116000000742fe5a3010003622c320a00\
    9dd5d9198bd7559100011c046f2c9cc11fb6f37d010000000004595a";

#[test]
fn packed_text_is_as_if_it_were_not() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (first, second): (&[u8], &[u8]) = (b"text,n\na,1\n", b"b,2\n");
    let plain = load(dir.path(), "a.csv", &[first, second].concat(), json!({}));
    for extension in ["gz", "bz2", "zst"] {
        // Two members, as `cat a.gz b.gz` makes them.
        let bytes = [packed(extension, first), packed(extension, second)].concat();
        assert_eq!(
            load(dir.path(), &format!("a.csv.{extension}"), &bytes, json!({})),
            plain,
            "{extension}"
        );
        assert_eq!(load(dir.path(), "unnamed.csv", &bytes, json!({})), plain, "{extension}");
        let short =
            load(dir.path(), &format!("a.csv.{extension}"), &bytes[..bytes.len() - 6], json!({}));
        assert!(short.contains("ends early or is damaged"), "{extension}: {short}");
        let parquet = load(dir.path(), &format!("a.parquet.{extension}"), &bytes, json!({}));
        assert!(parquet.contains("unpack it first"), "{parquet}");
    }
    // Padding, as tapes have it; anything else behind the end is damage.
    for (behind, is_sound) in [(vec![0; 70_000], true), (b"\0\0junk".to_vec(), false)] {
        let bytes = [packed("gz", first), vec![0; 3], packed("gz", second), behind].concat();
        let said = load(dir.path(), "a.csv.gz", &bytes, json!({}));
        assert_eq!(said == plain, is_sound, "{said}");
    }
    let digits: Vec<_> = XZ.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| {
        u8::from_str_radix(std::str::from_utf8(pair).expect("ASCII"), 16).expect("hexadecimal")
    };
    let bytes: Vec<u8> = digits.chunks(2).map(byte).collect();
    assert_eq!(load(dir.path(), "a.csv.xz", &bytes, json!({})), plain);
    let short = load(dir.path(), "a.csv.xz", &bytes[..bytes.len() - 40], json!({}));
    assert!(short.contains("ends early or is damaged"), "{short}");
}

/// Files in a directory below are not read; that they are there is told, unless they are of another kind or hidden.
#[test]
fn what_lies_deeper_is_told() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for name in ["a.csv", "old/b.csv", "notes/b.txt", ".git/c.csv", "label=1/d.csv"] {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().expect("below")).expect("writable");
        let text = if name == "a.csv" { "text,label\na,0\n" } else { "text\nb\n" };
        std::fs::write(path, text).expect("writable");
    }
    let told = |from: &str| {
        let log = Log::default();
        let harness =
            Harness::new(json!({"from": dir.path().join(from), "columns": {"text": "text"}}));
        harness.log(&log).run::<Load>().expect("it is sound");
        let lines = log.lock().expect("no panic");
        lines.join("\n").replace(&dir.path().display().to_string(), "DIR")
    };
    assert_eq!(
        told("."),
        "the csv files in DIR/./old are not read; a pattern such as `DIRECTORY/**/*.csv` reads them too"
    );
    assert_eq!(told("old"), "");
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

/// What it is, the files, and the settings.
type Tree<'a> = (&'a str, Vec<(&'a str, &'a [u8])>, Value);

/// Writes files below a new directory, and says what `load` makes of it.
fn tree(files: &[(&str, &[u8])], config: Value) -> String {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for (name, bytes) in files {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().expect("it has one")).expect("the directory is ours");
        std::fs::write(path, bytes).expect("the directory is ours");
    }
    let mut config = config;
    config["from"] = match config["from"].as_array() {
        Some(names) => {
            names.iter().map(|name| json!(dir.path().join(name.as_str().expect("text")))).collect()
        }
        None => json!(dir.path()),
    };
    outcome(dir.path(), config)
}

#[test]
fn several_files_of_text() {
    let a: (&str, &[u8]) = ("a.csv", b"text,n\nx,1\n");
    let b: (&str, &[u8]) = ("b.csv", b"n,text\n1.5,y\n");
    let c: (&str, &[u8]) = ("c.csv", b"text\nz\n");
    let cases: Vec<Tree> = vec![
        ("a directory", vec![b, a, ("README.md", b"#")], json!({})),
        ("a list, packed or not", vec![a, b], json!({"from": ["b.csv", "a.csv"]})),
        ("a column less", vec![a, c], json!({})),
        ("that nobody asks for", vec![a, c], json!({"columns": {"text": "t"}})),
        ("two formats", vec![a, ("b.jsonl", b"{\"text\": \"j\"}\n")], json!({})),
        ("one of them", vec![a, ("b.jsonl", b"{\"text\": \"j\"}\n")], json!({"format": "jsonl"})),
        (
            "a list of two formats",
            vec![a, ("b.jsonl", b"{}\n")],
            json!({"from": ["a.csv", "b.jsonl"]}),
        ),
        (
            "JSON lines with other members",
            vec![("a.jsonl", b"{\"a\": 1}\n"), ("b.ndjson", b"{\"b\": true, \"a\": 2.5}\n")],
            json!({}),
        ),
        ("lines", vec![("a.txt", b"one\n"), ("b.txt", b"two\n")], json!({})),
        (
            "folders that name a column",
            vec![
                ("label=1/a.csv", b"text\nx\n"),
                ("label=0/part=a%20b/a.csv", b"text\ny\n"),
                ("_SUCCESS", b""),
                (".crc", b""),
            ],
            json!({"columns": {"text": "t", "label": "label"}}),
        ),
        (
            "folders, one without it",
            vec![
                ("label=1/a.csv", b"text\nx\n"),
                ("label=__HIVE_DEFAULT_PARTITION__/a.csv", b"text\ny\n"),
            ],
            json!({}),
        ),
        (
            "folders that a pattern stands for",
            vec![("in=side/x=1/de/y=a%20b/a.csv", b"text\nx\n"), ("x=2/y=c/b.csv", b"text\ny\n")],
            json!({"from": ["in=side/./x=1/de/y=a%20b/a.csv", "./x=2/y=c/b.csv"]}),
        ),
        ("a column of that name", vec![("text=1/a.csv", b"text\nx\n")], json!({})),
        ("upper case", vec![("A.CSV", b"text\nx\n")], json!({})),
        ("a bad row in the second", vec![a, ("b.csv", b"text,n\nx,1\ny\n")], json!({})),
    ];
    let mut all = String::new();
    for (what, files, config) in cases {
        write!(all, "######## {what} {config}\n{}\n\n", tree(&files, config.clone()))
            .expect("a string takes everything");
    }
    insta::assert_snapshot!(all);
}

#[test]
fn parquet_files_whose_types_differ() {
    use arrow::array::{BinaryArray, Int32Array, ListArray, NullArray, StructArray};
    use arrow::datatypes::Int32Type;
    let dir = tempfile::tempdir().expect("a temporary directory");
    let make = |name: &str, files: &[&[(&str, ArrayRef)]]| {
        std::fs::create_dir(dir.path().join(name)).expect("the directory is ours");
        for (number, columns) in files.iter().enumerate() {
            write_parquet(&dir.path().join(name).join(format!("{number}.PARQUET")), columns);
        }
        json!(dir.path().join(name))
    };
    let text: ArrayRef = Arc::new(StringArray::from(vec!["a"]));
    let null: ArrayRef = Arc::new(NullArray::new(1));
    let small: ArrayRef = Arc::new(Int32Array::from(vec![1]));
    let large: ArrayRef = Arc::new(Int64Array::from(vec![(1 << 53) + 1]));
    let float: ArrayRef = Arc::new(Float64Array::from(vec![0.5]));
    let bytes: ArrayRef = Arc::new(BinaryArray::from(vec![b"caf\xc3\xa9".as_slice()]));
    let broken: ArrayRef = Arc::new(BinaryArray::from(vec![b"\xff".as_slice()]));
    let list: ArrayRef =
        Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(vec![Some(vec![
            Some(1),
            None,
        ])]));
    let inner: ArrayRef = Arc::clone(&text);
    let nested: ArrayRef = Arc::new(
        StructArray::try_from(vec![("s", inner), ("l", Arc::clone(&list))]).expect("one length"),
    );
    let stamps =
        arrow::array::TimestampMicrosecondArray::from(vec![0]).with_timezone("Europe/Berlin");
    let stamps: ArrayRef = Arc::new(stamps);
    let one = |column: &ArrayRef| -> [(&'static str, ArrayRef); 1] { [("x", Arc::clone(column))] };
    let pair = |a: &ArrayRef, b: &ArrayRef| [("x", Arc::clone(a)), ("t", Arc::clone(b))];
    let cases = [
        ("null and text", make("a", &[&one(&null), &one(&text)]), json!({})),
        ("int32 and int64", make("b", &[&one(&small), &one(&large)]), json!({})),
        ("int32 and float", make("c", &[&one(&small), &one(&float)]), json!({})),
        ("int64 and float", make("d", &[&one(&large), &one(&float)]), json!({})),
        ("text and float", make("e", &[&pair(&text, &text), &pair(&float, &text)]), json!({})),
        (
            "that nobody asks for",
            make("f", &[&pair(&text, &text), &pair(&float, &text)]),
            json!({"columns": {"t": "t"}}),
        ),
        ("bytes as text", make("g", &[&one(&bytes)]), json!({"types": {"x": "text"}})),
        ("no text", make("h", &[&one(&broken)]), json!({"types": {"x": "text"}})),
        ("numbers as text", make("i", &[&one(&large)]), json!({"types": {"x": "text"}})),
        ("nested as JSON", make("j", &[&pair(&nested, &list)]), json!({"nested": "json"})),
        ("nested as text", make("k", &[&one(&nested)]), json!({"types": {"x": "text"}})),
        ("a time zone", make("l", &[&one(&stamps)]), json!({})),
    ];
    let mut all = String::new();
    for (what, from, mut config) in cases {
        config["from"] = from;
        let outcome = outcome(dir.path(), config);
        write!(all, "######## {what}\n{outcome}\n\n").expect("a string takes everything");
    }
    insta::assert_snapshot!(all);
    // Two columns of one name.
    let fields = ["t", "t"]
        .map(|name| arrow::datatypes::Field::new(name, arrow::datatypes::DataType::Utf8, true));
    let schema = Arc::new(arrow::datatypes::Schema::new(fields.to_vec()));
    let rows =
        RecordBatch::try_new(Arc::clone(&schema), vec![Arc::clone(&text), text]).expect("it fits");
    let path = dir.path().join("twins.parquet");
    let mut writer =
        ArrowWriter::try_new(std::fs::File::create(&path).expect("it is ours"), schema, None)
            .expect("a writer");
    writer.write(&rows).expect("the directory is ours");
    writer.close().expect("the directory is ours");
    let told = outcome(dir.path(), json!({"from": path}));
    assert!(told.contains("two columns are called `t`"), "{told}");
}

#[test]
fn every_codec_of_parquet() {
    use parquet::basic::{BrotliLevel, Compression, GzipLevel, ZstdLevel};
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("a.parquet");
    for codec in [
        Compression::SNAPPY,
        Compression::ZSTD(ZstdLevel::default()),
        Compression::GZIP(GzipLevel::default()),
        Compression::LZ4,
        Compression::LZ4_RAW,
        Compression::BROTLI(BrotliLevel::default()),
    ] {
        let properties =
            parquet::file::properties::WriterProperties::builder().set_compression(codec).build();
        let file = std::fs::File::create(&path).expect("the directory is ours");
        let mut writer =
            ArrowWriter::try_new(file, rows().schema(), Some(properties)).expect("a writer");
        writer.write(&rows()).expect("the directory is ours");
        writer.close().expect("the directory is ours");
        let told = outcome(dir.path(), json!({"from": path}));
        assert!(told.contains("|=1+1|"), "{codec:?}: {told}");
    }
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

/// A text that formats have trouble with.
fn odd_text() -> impl Strategy<Value = Option<String>> {
    let piece = prop::sample::select(vec![
        "\"", "\"\"", "\t", "\n", "\r", "\r\n", ",", ";", "'", "\\", " ", "é", "日本", "😀",
        "\u{feff}", "\u{1a}", "\u{0}", "a", "NA", "1", "=", "sep=;", "{", "null",
    ]);
    prop::option::weighted(
        0.8,
        prop::collection::vec(piece, 0..5).prop_map(|pieces| pieces.concat()),
    )
}

/// A column of values of one type, with its type's name in `types`.
fn odd_column(rows: usize) -> impl Strategy<Value = (ArrayRef, &'static str)> {
    let texts = prop::collection::vec(odd_text(), rows);
    let whole = prop::option::weighted(0.8, prop_oneof![any::<i64>(), -9..9_i64]);
    let float = prop::option::weighted(
        0.8,
        prop_oneof![any::<f64>(), Just(0.1), Just(1e300)].prop_filter("finite", |x| x.is_finite()),
    );
    prop_oneof![
        3 => texts.prop_map(|texts| (Arc::new(StringArray::from(texts)) as ArrayRef, "text")),
        1 => prop::collection::vec(whole, rows).prop_map(|list| (Arc::new(Int64Array::from(list)) as ArrayRef, "int")),
        1 => prop::collection::vec(float, rows).prop_map(|list| (Arc::new(Float64Array::from(list)) as ArrayRef, "number")),
        1 => prop::collection::vec(any::<Option<bool>>(), rows)
            .prop_map(|list| (Arc::new(BooleanArray::from(list)) as ArrayRef, "bool")),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// To the cell. Only in CSV and TSV of one column a missing text comes back as an empty one: a blank line is no row.
    #[test]
    fn what_export_writes_load_reads(
        columns in (1_usize..6).prop_flat_map(|rows| prop::collection::vec(odd_column(rows), 1..4)),
        odd_name in "[a-z]{1,3}[,;\t\"\n é|]?[a-z]",
    ) {
        let name = |at: usize| if at == 0 { odd_name.clone() } else { format!("c{at}") };
        let fields = columns.iter().enumerate().map(|(at, (column, _))| (name(at), Arc::clone(column), true));
        let rows = RecordBatch::try_from_iter_with_nullable(fields).expect("one length");
        let types: serde_json::Map<_, _> =
            columns.iter().enumerate().map(|(at, (_, kind))| (name(at), json!(kind))).collect();
        for format in ["csv", "tsv", "jsonl", "parquet"] {
            let dir = tempfile::tempdir().expect("a temporary directory");
            let config = json!({"format": format, "name": "rows", "bom": format == "csv"});
            Harness::new(config).rows("rows", rows.clone()).output_dir(dir.path()).run::<Export>().expect("it works");
            let path = dir.path().join(format!("rows.{format}"));
            let outputs = Harness::new(json!({"from": path, "types": types})).run::<Load>().expect("it works");
            let back = arrow::compute::concat_batches(&outputs[0][0].schema(), &outputs[0]).expect("one schema");
            prop_assert_eq!(back.num_rows(), rows.num_rows());
            for (at, column) in rows.columns().iter().enumerate() {
                let is_alone = rows.num_columns() == 1 && ["csv", "tsv"].contains(&format);
                let written = match column.as_any().downcast_ref::<StringArray>() {
                    Some(texts) if is_alone => {
                        let texts: StringArray = texts.iter().map(|text| Some(text.unwrap_or_default())).collect();
                        Arc::new(texts) as ArrayRef
                    }
                    _ => Arc::clone(column),
                };
                let read = back.column_by_name(&name(at)).expect("it has its name");
                prop_assert_eq!(&written, read, "{} {}", format, std::fs::read_to_string(&path).unwrap_or_default());
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Whatever the bytes are: a table, or an error with its place. As many rows as lines, where no quote can join any.
    #[test]
    fn no_file_is_too_odd(
        pieces in prop::collection::vec(
            prop::sample::select(vec![
                "\"", "\"\"", "\t", "\n", "\r", ",", ";", "\\", " ", "a", "1", "-", "é", "{", "}", "[", "]", ":", "{\"a\": 1}", "null", "NaN",
                "\u{0}", "\u{1a}", "sep=;", "=", "1e999", "true", "\\u",
            ]),
            0..24,
        ),
        wild in prop::collection::vec(any::<u8>(), 0..6),
        at in 0_usize..24,
        file in prop::sample::select(vec!["a.csv", "a.tsv", "a.jsonl", "a.json", "a.txt", "a.parquet", "a.arrow", "a.csv.gz"]),
        settings in prop::sample::select(vec![
            json!({}), json!({"escape": "\\"}), json!({"header": false}), json!({"malformed": "replace", "missing": ["NA", "1"]}),
            json!({"encoding": "shift_jis"}), json!({"encoding": "utf-16"}), json!({"quote": ""}), json!({"decimal": ",", "delimiter": ";"}),
        ]),
    ) {
        let mut bytes: Vec<u8> = pieces.concat().into_bytes();
        let at = at.min(bytes.len());
        drop(bytes.splice(at..at, wild));
        let dir = tempfile::tempdir().expect("a temporary directory");
        let told = load(dir.path(), file, &bytes, settings.clone());
        prop_assert!(!told.contains("Panic") && !told.contains("Internal"), "{told}");
        if file == "a.txt" && settings == json!({}) && !told.starts_with("Data") {
            let text = String::from_utf8_lossy(&bytes);
            let lines = text.trim_start_matches('\u{feff}').split('\n').filter(|line| !line.trim().is_empty());
            let ends = usize::from(text.ends_with("\n\u{1a}") || text == "\u{1a}");
            prop_assert_eq!(told.lines().filter(|line| line.starts_with('|')).count(), lines.count() - ends, "{}", told);
        }
    }
}

#[test]
fn what_export_refuses() {
    use arrow::array::ListArray;
    use arrow::datatypes::Int32Type;
    let list: ArrayRef =
        Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(vec![Some(vec![Some(1)])]));
    let text: ArrayRef = Arc::new(StringArray::from(vec!["a"]));
    let mut map = arrow::array::MapBuilder::new(
        None,
        arrow::array::Int32Builder::new(),
        arrow::array::StringBuilder::new(),
    );
    map.append(true).expect("an empty map");
    let map: ArrayRef = Arc::new(map.finish());
    let rows = RecordBatch::try_from_iter([("text", text), ("tags", list), ("map", map)])
        .expect("one length");
    let refused = |config: Value| {
        let dir = tempfile::tempdir().expect("a temporary directory");
        match Harness::new(config.clone())
            .rows("rows", rows.clone())
            .output_dir(dir.path())
            .run::<Export>()
        {
            Ok(_) => format!("{config}: works"),
            Err(error) => {
                let detail = |name| error.detail(name).unwrap_or_default().to_owned();
                format!("{config}: {} {error} ({})", detail("pointer"), detail("hint"))
            }
        }
    };
    let told = [
        json!({"format": "csv"}),
        json!({"format": "csv", "columns": ["text"]}),
        json!({"format": "jsonl"}),
        json!({"format": "jsonl", "columns": ["text", "tags"]}),
        json!({"format": "parquet"}),
        json!({"columns": ["text", "text"]}),
        json!({"format": "parquet", "bom": true}),
        json!({"format": "jsonl", "columns": ["text"], "guard": true}),
    ]
    .map(refused);
    insta::assert_snapshot!(told.join("\n"));
}

/// By its schema a table stays what it was, so that nothing that was computed from it is computed again.
#[test]
fn only_columns_that_lack_a_value_may() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut late = "text,other\n".to_owned() + &"a,b\n".repeat(10_500);
    late.push_str("a,\n");
    for (file, text, expected) in [
        ("a.csv", "text,n,other\na,1,\n\"\",,b\n", [false, true, true].as_slice()),
        ("late.csv", late.as_str(), &[false, true]),
        ("a.jsonl", "{\"text\": \"a\"}\n", &[true]),
        ("a.txt", "one\n", &[false]),
        // By this it is told from what a stage writes.
        ("reason.csv", "reason,rank\na,1\n", &[true, true]),
    ] {
        let path = dir.path().join(file);
        std::fs::write(&path, text).expect("the directory is ours");
        let outputs = Harness::new(json!({"from": path})).run::<Load>().expect("it works");
        let schema = outputs[0][0].schema();
        let nullable: Vec<_> = schema.fields().iter().map(|field| field.is_nullable()).collect();
        assert_eq!(nullable, expected, "{file}");
    }
}

#[test]
fn csv_for_spreadsheets() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    Harness::new(json!({"bom": true, "guard": true}))
        .rows("rows", rows())
        .output_dir(dir.path())
        .run::<Export>()
        .expect("it works");
    let text = std::fs::read_to_string(dir.path().join("rows.csv")).expect("it is there");
    assert_eq!(text, "\u{feff}text,score\n'=1+1,4.5\nb,NaN\nc,\n");
}
