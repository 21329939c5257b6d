//! Expressions as data: text in, rows that pass or the error out.

use std::fmt::Write;
use std::sync::Arc;

use arrow::array::{Array, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::util::display::array_value_to_string;
use paraloom_expr::Expr;

fn rows() -> RecordBatch {
    let schema = Schema::new(vec![
        Field::new("stsb", DataType::Float64, true),
        Field::new("cola", DataType::Utf8, true),
        Field::new("n", DataType::Int64, false),
        Field::new("ok", DataType::Boolean, true),
        Field::new("odd name", DataType::Utf8, true),
    ]);
    RecordBatch::try_new(
        Arc::new(schema),
        vec![
            Arc::new(Float64Array::from(vec![Some(4.6), Some(4.0), Some(f64::NAN), None])),
            Arc::new(StringArray::from(vec![Some("yes"), Some("no"), Some("yes"), None])),
            Arc::new(Int64Array::from(vec![1, 2, 3, 4])),
            Arc::new(BooleanArray::from(vec![Some(true), Some(false), None, Some(true)])),
            Arc::new(StringArray::from(vec!["it's", "A cat sat", "", "x"])),
        ],
    )
    .expect("the columns have one length")
}

/// `1` passes, `0` fails, `?` is unknown; or the error with its place.
fn show(text: &str) -> String {
    let result = Expr::parse(text).and_then(|expr| expr.evaluate(&rows()));
    match result {
        Ok(truth) => (0..truth.len())
            .map(|row| match (truth.is_null(row), !truth.is_null(row) && truth.value(row)) {
                (true, _) => '?',
                (_, true) => '1',
                (_, false) => '0',
            })
            .collect(),
        Err(error) => {
            let (start, end) = error.span;
            let mut out = format!("{} at {start}..{end}", error.message);
            if let Some(hint) = error.hint {
                write!(out, " ({hint})").expect("a string takes everything");
            }
            out
        }
    }
}

#[test]
fn what_passes() {
    let cases = [
        "stsb >= 4.0",
        "not stsb >= 4.0",
        "stsb != 4.0",
        "stsb >= 4.0 and cola = 'yes'",
        "stsb >= 4.0 or cola = 'yes'",
        "cola = 'no' or ok",
        "stsb is null",
        "stsb is not nan",
        "n in (1, 3)",
        "cola in ('yes', null)",
        "cola not in ('yes')",
        "n % 2 = 0 and -n < -1",
        "(n + 1) * 2 / 2 - 1 = n",
        "`odd name` = 'it''s'",
        "length(`odd name`) = 4",
        "words(`odd name`) = 3",
        "contains(lower(`odd name`), 'cat')",
        "edit_distance(cola, 'yes') > 0.5",
        "coalesce(cola, 'none') = 'none'",
        "word_overlap(`odd name`, 'cat a: SAT!') = 1",
        "word_overlap(`odd name`, 'the cat') = 0.25",
        "word_overlap(`odd name`, '') = 1",
        "same_numbers('Up 3.5% to $1,200 (2024).', '2024: 1200, up 3.5 %')",
        "same_numbers('no number', 'none')",
        "same_numbers('1 and 1', '1')",
        "same_numbers('3.5', '35')",
        "same_numbers(n, '1')",
        "word_overlap(cola)",
        "NOT (n = 1 OR n = 2)",
        "null",
        "true",
        "number(`odd name`) is null",
        "number(' 1.5 ') = 1.5",
        "number(cola = 'yes') = 1",
        "text(n) in ('1', '3')",
        "text(n * 1.0) = '2'",
        "coalesce(n, stsb) = n",
        "word_overlap('Café', 'CAFE\u{301}') = 1",
        "same_numbers('3.50', '3.5') and not same_numbers('-5', '5')",
    ];
    let mut out = String::new();
    for case in cases {
        writeln!(out, "{case:45} {}", show(case)).expect("a string takes everything");
    }
    insta::assert_snapshot!(out);
}

#[test]
fn what_is_refused() {
    let cases = [
        "",
        "stsb",
        "stsb >=",
        "stsb >= 'high'",
        "scola = 'yes'",
        "cola = \"yes\"",
        "cola = 'yes",
        "1 < n < 3",
        "n = 1 n = 2",
        "lenght(cola) = 1",
        "length(cola, cola) = 1",
        "(n = 1",
        "n = 1)",
        "cola + 1 = 2",
        "§",
        "not n",
        "and",
        "is null",
        "n is 3",
        "nothing_like_it = 1",
        "stsb between 1 and 2",
        "cola like '%yes%'",
        "stsb => 4",
        "stsb >= 4,0",
        "cola = “yes”",
        "ok && n > 1",
        "ok and",
        "coalesce(n, 'z') = 1",
        "nothing(1) = 1",
        "abs() = 1",
    ];
    let mut out = String::new();
    for case in cases {
        writeln!(out, "{case:25} {}", show(case)).expect("a string takes everything");
    }
    insta::assert_snapshot!(out);
}

#[test]
fn hostile_nesting_is_refused() {
    for text in
        ["(".repeat(100_000), "not ".repeat(100_000), "-".repeat(100_000), "1 + ".repeat(100_000)]
    {
        assert!(Expr::parse(&text).is_err());
    }
}

#[test]
fn reasons_name_the_values() {
    let expr = Expr::parse("stsb >= 4.5 and cola = 'yes'").expect("a good expression");
    insta::assert_debug_snapshot!(expr.reasons(&rows()).expect("the columns are there"));
}

proptest::proptest! {
    #[test]
    fn never_panics(text in "[ a-z0-9'`()<>=!+*/%.,-]{0,60}") {
        if let Ok(expr) = Expr::parse(&text) {
            let _ = expr.evaluate(&rows());
        }
    }
}

#[test]
fn values_have_the_type_that_the_check_says() {
    let values = |text: &str| {
        let expr = Expr::parse(text).expect("it parses");
        let kind = expr.check(&rows().schema()).expect("it fits");
        let values = expr.values(&rows()).expect("it fits");
        let shown = (0..values.len()).map(|row| {
            let value = array_value_to_string(&values, row).expect("it prints");
            if values.is_null(row) { "null".to_owned() } else { value }
        });
        format!("{text}: {kind}, {}: {}", values.data_type(), shown.collect::<Vec<_>>().join(" | "))
    };
    let cases = ["stsb * 2", "1 / (n - 1)", "upper(cola)", "`odd name`", "n > 2 and ok", "null"];
    insta::assert_snapshot!(cases.map(values).join("\n"));
}

/// Columns of the types that data has.
fn typed() -> RecordBatch {
    use arrow::array::{
        ArrayRef, BinaryArray, Date32Array, Int32Array, ListArray, TimestampSecondArray,
        UInt64Array,
    };
    use arrow::datatypes::Int32Type;
    let list = ListArray::from_iter_primitive::<Int32Type, _, _>(vec![
        Some(vec![Some(1)]),
        None,
        Some(vec![]),
    ]);
    let columns: [(&str, ArrayRef); 7] = [
        (
            "id",
            Arc::new(Int64Array::from(vec![
                Some(9_007_199_254_740_993),
                Some(9_007_199_254_740_992),
                None,
            ])),
        ),
        ("big", Arc::new(UInt64Array::from(vec![u64::MAX, 1, 2]))),
        ("small", Arc::new(Int32Array::from(vec![7, -7, 0]))),
        ("day", Arc::new(Date32Array::from(vec![Some(19_723), None, Some(19_724)]))),
        (
            "at",
            Arc::new(
                TimestampSecondArray::from(vec![1_704_067_200, 1_704_067_201, 0])
                    .with_timezone("UTC"),
            ),
        ),
        ("tags", Arc::new(list)),
        ("raw", Arc::new(BinaryArray::from(vec![Some(b"x".as_slice()), None, Some(b"")]))),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true)))
        .expect("one length")
}

#[test]
fn whole_numbers_are_exact_and_dates_compare() {
    let told = |text: &str| {
        let rows = typed();
        let expr = Expr::parse(text).expect("it parses");
        match expr.values(&rows) {
            Ok(values) => {
                let shown = (0..values.len()).map(|row| {
                    let value = array_value_to_string(&values, row).expect("it prints");
                    if values.is_null(row) { "null".to_owned() } else { value }
                });
                format!("{text}: {}: {}", values.data_type(), shown.collect::<Vec<_>>().join(" | "))
            }
            Err(error) => format!("{text}: {error} ({})", error.hint.clone().unwrap_or_default()),
        }
    };
    let cases = [
        "id = 9007199254740993",
        "id != 9007199254740993",
        "id in (9007199254740993, 1)",
        "id > 9007199254740992.0",
        "id + 1",
        "id - id + 1",
        "id * id",
        "id * id / id",
        "small % 2",
        "small % 0",
        "small / 2",
        "-small",
        "abs(small)",
        "big > 9223372036854775807",
        "big",
        "big * 0.5",
        "length(text(id))",
        "coalesce(id, 0.5)",
        "day >= '2024-01-02'",
        "day = date(at)",
        "at > '2024-01-01T00:00:00Z'",
        "at > day",
        "day in ('2024-01-01')",
        "date('2024-02-30') is null",
        "text(day)",
        "at is null",
        "tags is null",
        "raw is not null",
        "tags = 1",
        "day = 'soon'",
        "day > 5",
        "number(day)",
    ];
    insta::assert_snapshot!(cases.map(told).join("\n"));
}

#[test]
fn all_that_is_wrong_is_told() {
    let told = |text: &str| {
        let errors = Expr::parse(text)
            .expect("it parses")
            .check_condition_all(&rows().schema())
            .expect_err("it is wrong");
        let shown = errors
            .iter()
            .map(|error| format!("  {} at `{}`", error.message, &text[error.span.0..error.span.1]));
        format!("{text}\n{}", shown.collect::<Vec<_>>().join("\n"))
    };
    let cases = [
        "lable > 2 or nothing(1)",
        "lenght(cola) > 1 and upper(n) = 'x' and scola = 1",
        "n in ('a', 1, cola)",
        "word_overlap(n, missing) > stsb + ok",
        "not (n and lable)",
    ];
    insta::assert_snapshot!(cases.map(told).join("\n"));
    let errors = Expr::parse("lenght(a) > nothing(b)").expect("it parses").check_functions();
    assert_eq!(errors.len(), 2, "whatever the columns are");
}
