//! Odd files as data: what `load` makes of them, or what it says.

mod common;

use std::fmt::Write;

use common::load;
use serde_json::{Value, json};

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
        ("utf-32", "a.csv", b"\xff\xfe\0\0a\0\0\0".to_vec(), json!({})),
        (
            "byte order marks of files that were joined",
            "a.jsonl",
            "{\"a\":1}\n\u{feff}{\"a\":2}\n".into(),
            json!({}),
        ),
        ("a member without a name", "a.jsonl", b"{\"\":1,\"a\":2}\n".to_vec(), json!({})),
        ("it gets one", "a.jsonl", b"{\"\":1,\"a\":2}\n".to_vec(), json!({"columns": {"": "b"}})),
        ("a NUL in a name", "a.csv", b"a\0b,c\n1,2\n".to_vec(), json!({})),
        ("it gets another", "a.csv", b"a\0b,c\n1,2\n".to_vec(), json!({"columns": {"a\0b": "d"}})),
        ("a comment at the start", "a.csv", b"# of today\na,b\n1,2\n".to_vec(), json!({})),
        ("a sheet", "a.xlsx", b"PK\x03\x04....".to_vec(), json!({})),
        ("packed by a program that is not read", "a.csv.lz4", b"....".to_vec(), json!({})),
        ("text that is called Parquet", "a.parquet", b"text,n\na,1\n".to_vec(), json!({})),
        (
            "a Parquet file without its end",
            "a.parquet",
            b"PAR1 and then the line went dead".to_vec(),
            json!({}),
        ),
        ("an empty Parquet file", "a.parquet", b"".to_vec(), json!({})),
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

/// Titles above a table, notes below it, and comments in it.
#[test]
fn what_is_no_part_of_a_table() {
    let report = b"Unemployment, by region\n\"Ministry of Labour\"\nAs of 1 May\n\nregion,rate\nnorth,5.1\nsouth,7.3\n\nSource: Labour Force Survey\nn/a: not available\n";
    let tabs = b"\n## made by hand\n#\n\"name\"\t\"n\"\n\"a \"\"b\"\"\"\t1\n# c\n\"#d\"\t2\n";
    check(
        "what_is_no_part_of_a_table",
        vec![
            ("titles, unsaid", "a.csv", &report[..], json!({})),
            ("one title, unsaid", "a.csv", b"Report\na,b\n1,2\n", json!({})),
            ("notes, unsaid", "a.csv", b"a,b\n1,2\n\nSource: x\nNote: y\n", json!({})),
            ("notes in quotes, unsaid", "a.csv", b"a,b\n\"1,5\",2\n\"Source: x, y\"\n", json!({})),
            (
                "a cell short, far from the end",
                "a.csv",
                format!("a,b\n1\n{}", "1,2\n".repeat(100)).leak().as_bytes(),
                json!({}),
            ),
            ("titles and notes", "a.csv", report, json!({"skip_lines": 4, "skip_footer": 3})),
            ("a blank line uncounted", "a.csv", report, json!({"skip_lines": 3, "skip_footer": 2})),
            (
                "rows of it too",
                "a.csv",
                report,
                json!({"skip_lines": 3, "skip_footer": 3, "skip": 1}),
            ),
            (
                "without a header",
                "a.csv",
                b"t\n1,2\n3,4\nend",
                json!({"skip_lines": 1, "skip_footer": 1, "header": false, "skip": 1}),
            ),
            ("one too few", "a.csv", report, json!({"skip_lines": 2, "skip_footer": 3})),
            ("one too few below", "a.csv", report, json!({"skip_lines": 4, "skip_footer": 1})),
            ("more than there are", "a.csv", b"a\n1\n", json!({"skip_lines": 3})),
            ("more than there are below", "a.csv", b"a\n1\n", json!({"skip_footer": 3})),
            ("all rows", "a.csv", b"a,b\n1,2\n", json!({"skip_footer": 1})),
            ("a quote in a title", "a.csv", b"\"open\na,b\n1,2\n", json!({"skip_lines": 1})),
            (
                "returns alone",
                "a.csv",
                b"title\ra,b\r1,2\rend\r",
                json!({"skip_lines": 1, "skip_footer": 1}),
            ),
            (
                "DOS's end",
                "a.csv",
                b"title\r\na,b\r\n1,2\r\nend\r\n\x1a",
                json!({"skip_lines": 1, "skip_footer": 1}),
            ),
            ("a note in another encoding", "a.csv", b"a\n1\ncaf\xe9\n", json!({"skip_footer": 1})),
            ("another separator", "a.csv", b"title\n\na;b\n1;2\n", json!({"skip_lines": 1})),
            (
                "another separator, and decimal commas",
                "a.csv",
                b"title\nregion;rate\nnorth;5,1\n",
                json!({}),
            ),
            ("Excel's line", "a.csv", b"title\nsep=;\na;b\n1;2\n", json!({"skip_lines": 1})),
            (
                "Excel's line behind a comment",
                "a.csv",
                b"# c\n\nsep=;\na;b\n1;2\n",
                json!({"comment": "#"}),
            ),
            (
                "comments",
                "a.csv",
                b"# one\n# two, three\na,b\n# \"four\n1,2\n3,#4\n\"#5\",6\n#",
                json!({"comment": "#"}),
            ),
            ("names behind one", "a.tsv", b"##x\n#a\tb\n1\t2\n", json!({"comment": "##"})),
            ("names in quotes behind comments", "a.tsv", tabs, json!({"comment": "#"})),
            ("one within a cell", "a.csv", b"a,b\n\"x\n# y\",2\n", json!({"comment": "#"})),
            ("nothing else", "a.csv", b"# c\n", json!({"comment": "#"})),
            (
                "lines",
                "a.txt",
                b"title\n\none\ntwo\nend\n",
                json!({"skip_lines": 2, "skip_footer": 1}),
            ),
            (
                "JSON lines",
                "a.jsonl",
                b"title\n{\"a\": 1}\nend",
                json!({"skip_lines": 1, "skip_footer": 1}),
            ),
            ("JSON", "a.json", b"[]", json!({"skip_lines": 1})),
            ("comments of lines", "a.txt", b"one\n", json!({"comment": "#"})),
            ("Parquet", "a.parquet", b"PAR1", json!({"skip_footer": 1})),
        ],
    );
}
