//! Odd files as data: what `load` makes of them, or what it says.

use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray,
};
use arrow::util::display::array_value_to_string;
use paraloom_sdk::testing::Harness;
use paraloom_stages_text::{Evaluate, Export, Load, Threshold};
use parquet::arrow::ArrowWriter;
use proptest::prelude::*;
use serde_json::{Value, json};

fn load(dir: &Path, name: &str, bytes: &[u8], mut config: Value) -> String {
    let path = dir.join(name);
    std::fs::write(&path, bytes).expect("the directory is ours");
    config["from"] = json!(path);
    outcome(dir, config)
}

/// What `load` makes of a file, or what it says.
fn outcome(dir: &Path, config: Value) -> String {
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
        ("zip", "a.csv", b"PK\x03\x04....".to_vec(), json!({})),
        (
            "a Git LFS pointer",
            "a.csv",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n".to_vec(),
            json!({}),
        ),
        (
            "a Git LFS pointer of Parquet",
            "a.parquet",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n".to_vec(),
            json!({}),
        ),
        ("a page", "a.csv", b"\n<!DOCTYPE html><html>\n<p>a, b, c\n".to_vec(), json!({})),
        ("long line", "a.txt", long.clone().into_bytes(), json!({"max_line": 1 << 20})),
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

/// Each a kind of file that people have, and what the rows are.
fn check(name: &str, cases: Vec<(&str, &str, &[u8], Value)>) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut all = String::new();
    for (what, file, bytes, config) in cases {
        let outcome = load(dir.path(), file, bytes, config.clone());
        write!(all, "######## {what} {config}\n{outcome}\n\n").expect("a string takes everything");
    }
    insta::assert_snapshot!(name, all);
}

#[test]
fn names_of_columns() {
    check(
        "names_of_columns",
        vec![
            ("the engine's names", "a.csv", b"_id,_parent,id,t\n1,2,3,x\n", json!({})),
            ("and conditions over them", "a.csv", b"_id,t\n1,x\n2,y\n", json!({"keep": "_id = 2"})),
            ("named by the user", "a.csv", b"_id,t\n1,x\n", json!({"columns": {"_id": "doc_id"}})),
            (
                "a new name that is the engine's",
                "a.csv",
                b"a,t\n1,x\n",
                json!({"columns": {"a": "_id", "t": "t"}}),
            ),
            ("and the other", "a.jsonl", b"{\"a/b\": 1}\n", json!({"columns": {"a/b": "_parent"}})),
            ("a blank new name", "a.csv", b"a,t\n1,x\n", json!({"columns": {"a": " "}})),
            (
                "two of one new name",
                "a.csv",
                b"a,t\n1,x\n",
                json!({"columns": {"a": "x", "t": "x"}}),
            ),
            (
                "a comment tree",
                "a.jsonl",
                b"{\"_id\": \"c1\", \"_parent\": null}\n{\"_id\": \"c2\", \"_parent\": \"c1\"}\n",
                json!({}),
            ),
            ("an index of pandas", "a.csv", b",text,label\n0,x,1\n1,y,0\n", json!({})),
            (
                "and without it",
                "a.csv",
                b",text,label\n0,x,1\n",
                json!({"columns": {"text": "source"}}),
            ),
            ("separators at the end", "a.csv", b"text,n,,\nx,1,,\ny,2,,\n", json!({})),
            ("a name too few", "a.csv", b"text,n,,\nx,1,,z\ny,2,,\n", json!({})),
            ("two of one name", "a.csv", b"a,a\n1,2\n", json!({})),
            (
                "and the way out",
                "a.csv",
                b"a,a\n1,2\n",
                json!({"header": false, "skip": 1, "columns": {"column1": "x", "column2": "y"}}),
            ),
            (
                "two members of one name",
                "a.jsonl",
                b"{\"a\": 1}\n{\"a\": 2, \"b\": 1, \"a\": 3}\n",
                json!({}),
            ),
        ],
    );
}

#[test]
fn quotes_and_separators() {
    check(
        "quotes_and_separators",
        vec![
            ("one column, never closed", "a.csv", b"text\none\n\"open\ntwo\n\nthree\n", json!({})),
            (
                "last column, never closed",
                "a.csv",
                b"n,text\n1,one\n2,\"open\n3,three\n",
                json!({}),
            ),
            ("closed too early", "a.csv", b"text,n\n\"Foo\" he said,1\n", json!({})),
            ("backslashes", "a.csv", b"text,n\n\"she said \\\"hi\\\"\",1\n", json!({})),
            (
                "backslashes, said so",
                "a.csv",
                b"text,n\n\"she said \\\"hi\\\", \\\\ \\n\",1\n",
                json!({"escape": "\\"}),
            ),
            (
                "a backslash before the last quote",
                "a.csv",
                b"text,n\n\"ends in \\\"\",1\n",
                json!({}),
            ),
            ("line breaks", "a.csv", b"text,n\r\n\"a\r\nb\n\nc\",1\r\n", json!({})),
            ("old Macs", "a.csv", b"text,n\ra,1\rb,2\r", json!({})),
            ("empty and missing", "a.csv", b"text,n\n,1\n\"\",\n", json!({})),
            ("spaces", "a.csv", b" text , n\n a ,1\n", json!({})),
            ("sep=", "a.csv", b"sep=;\r\ntext;n\r\na,b;1\r\n", json!({})),
            ("semicolons", "a.csv", b"text;n\na;1\n", json!({})),
            (
                "semicolons and decimal commas",
                "a.csv",
                b"text;n\na;1,5\n",
                json!({"delimiter": ";", "decimal": ","}),
            ),
            ("one column of that name", "a.csv", b"text;n\na;1\n", json!({"delimiter": ","})),
            ("a tab", "a.csv", b"text\tn\na\t1\n", json!({"delimiter": "\\t"})),
            ("a comma at the end", "a.csv", b"text,n\na,1,\n", json!({})),
            ("names of rows, as of R", "a.csv", b"text,n\n1,a,1\n2,b,2\n", json!({})),
            ("a comma too many", "a.csv", b"text,n\nx,0\na, b,1\n", json!({})),
            ("Ctrl-Z", "a.csv", b"text,n\na,1\n\x1a", json!({})),
            (
                "quotes are text in TSV",
                "a.tsv",
                b"a\tb\n\"Foo\" he said\t\"I am happy.\"\n\"open\tclosed\"\n",
                json!({}),
            ),
            (
                "unless they were put there",
                "a.tsv",
                b"a\tb\n\"he said \"\"hi\"\"\"\tx\n",
                json!({}),
            ),
            (
                "or the names have them",
                "a.tsv",
                b"\"a\"\t\"b\"\n\"x\ty\"\t\"I am\nhappy.\"\n",
                json!({}),
            ),
            ("a tab in quotes", "a.tsv", b"a\tb\n\"x\ty\"\tz\n", json!({})),
            ("a tab in quotes, said so", "a.tsv", b"a\tb\n\"x\ty\"\tz\n", json!({"quote": "\""})),
            ("single quotes", "a.csv", b"a,b\n'x, y','it''s'\n", json!({"quote": "'"})),
        ],
    );
}

#[test]
fn types_and_missing_values() {
    check(
        "types_and_missing_values",
        vec![
            (
                "long whole numbers",
                "a.csv",
                b"a,b,c,d\n9007199254740993,11898508762506083287,9007199254740993,1\n1,1,0.5,2.5\n",
                json!({}),
            ),
            (
                "of JSON",
                "a.jsonl",
                b"{\"a\": 9007199254740993, \"b\": 11898508762506083287}\n{\"a\": 1, \"b\": 2}\n",
                json!({}),
            ),
            (
                "truth",
                "a.csv",
                b"a,b,c,d\nTrue,TRUE,true,yes\nFalse,FALSE,,no\n",
                json!({"types": {"d": "bool"}}),
            ),
            ("no truth", "a.csv", b"a\n2\n", json!({"types": {"a": "bool"}})),
            ("NA is text", "a.csv", b"n\n1\nNA\n", json!({})),
            ("NA in numbers", "a.csv", b"n\n1\nNA\n", json!({"types": {"n": "number"}})),
            ("NA, said so", "a.csv", b"n,t\n1,NA\nNA,\\N\n", json!({"missing": ["NA", "\\N"]})),
            (
                "of JSON strings",
                "a.jsonl",
                b"{\"t\": \"NA\"}\n{\"t\": \"x\"}\n",
                json!({"missing": ["NA"]}),
            ),
            ("decimal commas", "a.csv", b"n\n\"1,5\"\n\"-2\"\n", json!({"decimal": ","})),
            (
                "decimal commas in numbers",
                "a.csv",
                b"n\n\"1,5\"\n",
                json!({"types": {"n": "number"}}),
            ),
            ("a float among ints", "a.csv", b"n\n1.5\n", json!({"types": {"n": "int"}})),
            (
                "what Python writes",
                "a.jsonl",
                b"{\"x\": NaN}\n{\"x\": -Infinity}\n{\"x\": 1}\n",
                json!({}),
            ),
        ],
    );
}

#[test]
fn json() {
    let mut late = String::new();
    for n in 0..10_000 {
        writeln!(late, "{{\"n\": {n}}}").expect("a string takes everything");
    }
    late.push_str("{\"n\": 1, \"note\": \"late\"}\n");
    let late = late.as_bytes();
    check(
        "json",
        vec![
            (
                "an array",
                "a.json",
                b"[\n {\"a\": 1,\n  \"b\": [1, 2]},\n {\"a\": 2, \"b\": \"}]\"}\n]\n",
                json!({}),
            ),
            (
                "one after the other",
                "a.json",
                b"{\"a\": 1} {\"a\": 2}\n{\"a\": {\"b\": {}}}",
                json!({}),
            ),
            ("an empty array", "a.json", b"[]", json!({})),
            ("cut short", "a.json", b"[{\"a\": 1},\n{\"a\": 2", json!({})),
            ("cut short between", "a.json", b"[{\"a\": 1},\n", json!({})),
            ("no objects", "a.json", b"[1, 2]", json!({})),
            ("a wrong one", "a.json", b"[{\"a\": 1},\n {\"a\": 2,\n  \"b\": x}]", json!({})),
            ("an array as lines", "a.jsonl", b"[{\"a\": 1},\n", json!({})),
            ("an object over lines", "a.jsonl", b"{\"a\": 1,\n\"b\": 2}\n", json!({})),
            ("half a character", "a.jsonl", b"{\"a\": \"\\ud83d\"}\n", json!({})),
            (
                "half a character, replaced",
                "a.jsonl",
                b"{\"a\": \"\\ud83d\"}\n",
                json!({"malformed": "replace"}),
            ),
            ("a late member", "late.jsonl", late, json!({})),
            (
                "that nobody asks for",
                "late.jsonl",
                late,
                json!({"columns": {"n": "n"}, "limit": 1, "skip": 10_000}),
            ),
            (
                "that is asked for",
                "late.jsonl",
                late,
                json!({"columns": {"note": "t"}, "skip": 9_999}),
            ),
            (
                "that is declared",
                "late.jsonl",
                late,
                json!({"types": {"note": "text"}, "skip": 9_999}),
            ),
        ],
    );
}

#[test]
fn encodings() {
    let utf16: Vec<u8> = "t\né\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let marked = [b"\xff\xfe".as_slice(), &utf16].concat();
    check(
        "encodings",
        vec![
            (
                "Windows",
                "a.csv",
                b"t\nIt\x92s \x93great\x94 \x96 \x805\n",
                json!({"encoding": "windows-1252"}),
            ),
            ("Windows as Latin-1", "a.csv", b"t\nIt\x92s\n", json!({"encoding": "latin-1"})),
            ("Windows, not said", "a.csv", b"t\nok\nIt\x92s\n", json!({})),
            ("Shift JIS", "a.csv", b"t\n\x93\xfa\x96{\n", json!({"encoding": "shift_jis"})),
            ("GB 18030, not said", "a.csv", b"t\n\xc4\xe3\xba\xc3\n", json!({})),
            ("Shift JIS, malformed", "a.csv", b"t\nx\n\x93\n", json!({"encoding": "shift_jis"})),
            ("malformed, replaced", "a.csv", b"t\nx\xff\n", json!({"malformed": "replace"})),
            ("UTF-16", "a.csv", &marked, json!({"encoding": "utf-16"})),
            ("UTF-16, not said", "a.csv", &marked, json!({})),
            ("UTF-16 without mark", "a.csv", &utf16, json!({"encoding": "utf-16le"})),
            ("UTF-16 without mark, not said", "a.csv", &utf16, json!({})),
            (
                "UTF-16 without mark, said to have one",
                "a.csv",
                &utf16,
                json!({"encoding": "utf-16"}),
            ),
            ("no such encoding", "a.csv", b"t\n", json!({"encoding": "windows-1253x"})),
        ],
    );
}

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
    let digits: Vec<_> = XZ.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| {
        u8::from_str_radix(std::str::from_utf8(pair).expect("ASCII"), 16).expect("hexadecimal")
    };
    let bytes: Vec<u8> = digits.chunks(2).map(byte).collect();
    assert_eq!(load(dir.path(), "a.csv.xz", &bytes, json!({})), plain);
    let short = load(dir.path(), "a.csv.xz", &bytes[..bytes.len() - 40], json!({}));
    assert!(short.contains("ends early or is damaged"), "{short}");
}

/// A Parquet file with the column `text`, or others.
fn write_parquet(path: &Path, columns: &[(&str, ArrayRef)]) {
    let columns = columns.iter().map(|(name, column)| (*name, Arc::clone(column), true));
    let rows = RecordBatch::try_from_iter_with_nullable(columns).expect("one length");
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

#[test]
fn evaluate_needs_something_to_do() {
    let error =
        Harness::new(json!({})).rows("rows", rows()).run::<Evaluate>().expect_err("nothing to do");
    assert_eq!(error.to_string(), "`evaluate` needs `predicted` and `gold`, or `mean`");
}
