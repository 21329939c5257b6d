//! Stages that sort rows out: what goes where, and what is refused.

use std::fmt::Write;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::compute::concat_batches;
use arrow::util::display::array_value_to_string;
use paraloom_sdk::testing::{Harness, Outputs};
use paraloom_sdk::{MapStage, Result, Stage, column};
use paraloom_stages_text::{Dedup, Derive, Rank, Sample, Split, Threshold};
use proptest::prelude::*;
use serde_json::{Value, json};

fn rows() -> RecordBatch {
    let text = |texts: &[Option<&str>]| -> ArrayRef { Arc::new(StringArray::from(texts.to_vec())) };
    let some = |texts: &[&'static str]| -> Vec<_> { texts.iter().copied().map(Some).collect() };
    RecordBatch::try_from_iter_with_nullable([
        ("_id", text(&some(&["a", "b", "c", "d", "e", "f", "g"])), false),
        ("source", text(&some(&["one", "one", "two", "two", "two", "one", "three"])), true),
        (
            "text",
            text(&[
                Some("We raised $3.5 million."),
                Some("we  raised $3.5 Million."),
                Some("We have raised $3.5 million."),
                None,
                Some("Profits fell."),
                None,
                Some("profits fell"),
            ]),
            true,
        ),
        (
            "score",
            Arc::new(Float64Array::from(vec![
                Some(4.0),
                Some(4.5),
                Some(f64::NAN),
                Some(-1.0),
                None,
                Some(4.5),
                Some(0.0),
            ])),
            true,
        ),
        ("n", Arc::new(Int64Array::from(vec![1, 1, 2, 2, 3, 3, 3])), false),
    ])
    .expect("the columns have one length")
}

/// Of each output its rows, by the columns that matter; or the error with its place.
fn told(outputs: Result<Outputs>) -> String {
    let outputs = match outputs {
        Ok(outputs) => outputs,
        Err(error) => {
            let at = error.detail("pointer").unwrap_or_default();
            return format!("{:?} {at}: {error}\n", error.status());
        }
    };
    let mut out = String::new();
    for (number, batches) in outputs.iter().enumerate() {
        writeln!(out, "{number}:").expect("a string takes everything");
        for rows in batches {
            let schema = rows.schema();
            for row in 0..rows.num_rows() {
                let shown =
                    schema.fields().iter().zip(rows.columns()).filter_map(|(field, column)| {
                        let skip =
                            ["source", "text", "score", "n"].contains(&field.name().as_str());
                        let value = array_value_to_string(column, row).expect("it prints");
                        (!skip).then_some(if column.is_null(row) { "null".into() } else { value })
                    });
                let line = shown.collect::<Vec<_>>().join(" | ");
                writeln!(out, "  {line}").expect("a string takes everything");
            }
        }
    }
    out
}

fn whole<S: Stage>(config: &Value, rows: RecordBatch) -> Result<Outputs> {
    let dir = tempfile::tempdir().expect("a temporary directory");
    Harness::new(config.clone()).rows("rows", rows).scratch_dir(dir.path()).run::<S>()
}

fn map<S: MapStage>(config: &Value, rows: RecordBatch) -> Result<Outputs> {
    Harness::new(config.clone()).rows("rows", rows).map::<S>()
}

fn cases(configs: &[Value], run: impl Fn(&Value) -> Result<Outputs>) -> String {
    let case = |config| format!("######## {config}\n{}", told(run(config)));
    configs.iter().map(case).collect::<Vec<_>>().concat()
}

#[test]
fn dedup() {
    let configs = [
        json!({"by": ["text"]}),
        json!({"by": ["text"], "exact": true}),
        json!({"by": ["text"], "near": 0.7}),
        json!({"by": ["text"], "near": 0.5, "ngram": 2}),
        json!({"by": ["source", "text"]}),
        json!({"by": ["n"]}),
        json!({"by": []}),
        json!({"by": ["txt"]}),
        json!({"by": ["text"], "near": 0.2}),
        json!({"by": ["text"], "ngram": 0}),
    ];
    insta::assert_snapshot!(cases(&configs, |config| whole::<Dedup>(config, rows())));
}

#[test]
fn dedup_against_other_rows() {
    let with = |seen: RecordBatch| {
        Harness::new(json!({"by": ["text"]}))
            .rows("rows", rows())
            .labelled("against", "test", paraloom_sdk::testing::TestInput::Rows(seen))
            .run::<Dedup>()
    };
    insta::assert_snapshot!(told(with(rows().slice(4, 2))));
    let error = with(rows().project(&[0, 1]).expect("it has them")).expect_err("no `text` there");
    insta::assert_snapshot!(error.to_string());
}

#[test]
fn rank() {
    let configs = [
        json!({"by": "score"}),
        json!({"by": "score", "per": "source"}),
        json!({"by": "-score", "per": "n", "keep": 2}),
        json!({"by": "score + n * 10", "keep": 100}),
        json!({"by": "text"}),
        json!({"by": "scor"}),
        json!({"by": "score", "per": "sourc"}),
    ];
    insta::assert_snapshot!(cases(&configs, |config| whole::<Rank>(config, rows())));
}

#[test]
fn derive() {
    let configs = [
        json!({"columns": {"m": "n * 2", "loud": "upper(text)", "is_good": "score >= 4"}}),
        json!({"columns": {"changed": "edit_distance(source, coalesce(text, ''))"}}),
        json!({"columns": {"m": "n *"}}),
        json!({"columns": {"m": "nn"}}),
        json!({"columns": {"a/b": "null"}}),
        json!({"columns": {"_id": "source"}}),
    ];
    insta::assert_snapshot!(cases(&configs, |config| map::<Derive>(config, rows())));
    let all = json!({"columns": {"m": "n * 2", "loud": "upper(text)", "is_good": "score >= 4"}});
    Harness::new(all).rows("rows", rows()).conforms::<Derive>().expect("it conforms");
    // A name that is taken is replaced, and the other expressions see it as it came.
    let config = json!({"columns": {"n": "n + 1", "score": "n"}});
    let outputs = map::<Derive>(&config, rows()).expect("it works");
    let numbers = |name| column::numbers(&outputs[0][0], name).expect("it is there");
    assert_eq!(numbers("n").values()[..3], [2.0, 2.0, 3.0]);
    assert_eq!(numbers("score").values()[..3], [1.0, 1.0, 2.0]);
    assert_eq!(outputs[0][0].num_columns(), rows().num_columns());
}

#[test]
fn split_and_sample_refuse() {
    let configs = [
        json!({"share": 1.5}),
        json!({"share": 0.5, "by": "sorce"}),
        json!({}),
        json!({"share": 0.5, "shares": {"train": 1.0}}),
        json!({"shares": {"train": 0.5, "valid": 0.2, "test": 0.2}}),
        json!({"shares": {"train": 0.8, "valid": 0.3}}),
        json!({"shares": {"train": 1.5, "valid": -0.5}}),
    ];
    insta::assert_snapshot!(cases(&configs, |config| map::<Split>(config, rows())));
    for (config, told) in [
        (json!({}), "`sample` takes either `rows` or `share`"),
        (json!({"rows": 1, "share": 0.5}), "`sample` takes either `rows` or `share`"),
        (json!({"rows": 0}), "this must be at least 1"),
        (json!({"share": 1.5}), "a share is between 0 and 1"),
        (
            json!({"share": 0.5, "per": "sorce"}),
            "`rows` has no column `sorce`; did you mean `source`?",
        ),
    ] {
        let error = Harness::new(config).rows("rows", rows()).run::<Sample>().expect_err("refused");
        assert!(error.to_string().starts_with(told), "{error}");
    }
    let error = Harness::new(json!({"rows": 1})).rows("rows", rows()).run::<Sample>();
    assert_eq!(error.expect_err("no place").to_string(), "the test names no scratch directory");
}

/// `count` rows with ids of their own.
fn many(count: usize) -> RecordBatch {
    let ids: StringArray = (0..count).map(|row| Some(format!("{row:024x}"))).collect();
    let groups: Int64Array = (0..count).map(|row| Some(row as i64 / 3)).collect();
    let columns: [(&str, ArrayRef); 2] = [("_id", Arc::new(ids)), ("group", Arc::new(groups))];
    RecordBatch::try_from_iter(columns).expect("one length")
}

fn ids_of(batches: &[RecordBatch]) -> Vec<String> {
    let texts = batches.iter().map(|rows| column::text(rows, "_id").expect("it is there"));
    texts.flat_map(|texts| texts.iter().flatten().map(str::to_owned).collect::<Vec<_>>()).collect()
}

#[test]
fn a_share_is_about_what_it_says_and_groups_stay_together() {
    let held = |config: Value, seed: u64, rows: RecordBatch| {
        let outputs = Harness::new(config).rows("rows", rows).seed(seed).map::<Split>();
        outputs.expect("it works")
    };
    let plain = held(json!({"share": 0.2}), 1, many(3000));
    let count = plain[1][0].num_rows();
    // Five standard deviations of a binomial distribution are 110.
    assert!((490..=710).contains(&count), "{count}");
    assert_eq!(plain[0][0].num_rows() + count, 3000);
    assert_ne!(ids_of(&plain[1]), ids_of(&held(json!({"share": 0.2}), 2, many(3000))[1]));
    // A row keeps its side when others come.
    let fewer = held(json!({"share": 0.2}), 1, many(1000));
    assert!(ids_of(&plain[1]).starts_with(&ids_of(&fewer[1])));

    let grouped = held(json!({"share": 0.2, "by": "group"}), 1, many(3000));
    let groups = |rows: &RecordBatch| column::numbers(rows, "group").expect("it is there");
    let held_out: Vec<_> = groups(&grouped[1][0]).iter().flatten().collect();
    assert!(!held_out.is_empty() && held_out.len().is_multiple_of(3));
    assert!(groups(&grouped[0][0]).iter().flatten().all(|group| !held_out.contains(&group)));
    for config in [json!({"share": 0.2}), json!({"share": 0.2, "by": "group"})] {
        let harness = Harness::new(config).rows("rows", many(100)).seed(1);
        harness.conforms::<Split>().expect("it conforms");
    }
    for (share, kept) in [(0.0, 3000), (1.0, 0)] {
        assert_eq!(held(json!({"share": share}), 1, many(3000))[0][0].num_rows(), kept);
    }
}

#[test]
fn three_sets_have_their_shares_and_every_row_is_in_one() {
    let divided = |config: Value, rows: RecordBatch| {
        let outputs =
            Harness::new(config).rows("rows", rows).seed(3).map::<Split>().expect("it works");
        outputs.iter().map(|batches| ids_of(batches)).collect::<Vec<_>>()
    };
    let sets = divided(json!({"shares": {"train": 0.7, "valid": 0.2, "test": 0.1}}), many(3000));
    let [kept, held_out, train, valid, test] = &sets[..] else { panic!("five ports") };
    // Five standard deviations of a binomial distribution.
    for (set, expected) in [(train, 2100_usize), (valid, 600), (test, 300)] {
        assert!(set.len().abs_diff(expected) < 130, "{} of {expected}", set.len());
    }
    let all = |sets: &[&Vec<String>]| {
        let mut all: Vec<_> = sets.iter().flat_map(|set| set.iter().cloned()).collect();
        all.sort();
        all
    };
    assert_eq!(all(&[train, valid, test]), ids_of(&[many(3000)]));
    assert_eq!(all(&[valid, test]), *held_out);
    assert_eq!(train, kept);
    // What is left out has the rest.
    assert_eq!(divided(json!({"shares": {"valid": 0.2, "test": 0.1}}), many(3000)), sets);
    assert_eq!(divided(json!({"shares": {"train": 0.7, "test": 0.1}}), many(3000)), sets);
    // With `share` nothing is written twice.
    assert!(divided(json!({"share": 0.2}), many(100))[2..].iter().all(Vec::is_empty));
    let harness = Harness::new(json!({"shares": {"train": 0.5, "valid": 0.5}}))
        .rows("rows", many(100))
        .seed(1);
    harness.conforms::<Split>().expect("it conforms");
}

#[test]
fn groups_that_look_the_same_stay_together() {
    let texts: StringArray = (0..300)
        .map(|row| {
            Some(
                ["Café {}", "cafe\u{301}  {}", "CAFÉ\u{a0}{}"][row % 3]
                    .replace("{}", &(row / 3).to_string()),
            )
        })
        .collect();
    let rows = many(300);
    let columns: [(&str, ArrayRef); 2] =
        [("_id", Arc::clone(rows.column(0))), ("source", Arc::new(texts))];
    let rows = RecordBatch::try_from_iter(columns).expect("one length");
    let outputs =
        map::<Split>(&json!({"share": 0.5, "by": "source"}), rows.clone()).expect("it works");
    let held_out = outputs[1][0].num_rows();
    assert!(held_out > 0 && held_out.is_multiple_of(3), "{held_out}");
    assert_eq!(
        whole::<Dedup>(&json!({"by": ["source"]}), rows).expect("it works")[0][0].num_rows(),
        100
    );
}

#[test]
fn a_column_of_the_user_is_not_overwritten() {
    let text: ArrayRef = Arc::new(StringArray::from(vec!["a"]));
    let one: ArrayRef = Arc::new(Int64Array::from(vec![1]));
    let rows = |nullable| {
        RecordBatch::try_from_iter_with_nullable([
            ("_id", Arc::clone(&text), false),
            ("reason", Arc::clone(&text), nullable),
            ("rank", Arc::clone(&one), nullable),
        ])
        .expect("one length")
    };
    let refused = |outcome: Result<Outputs>| {
        let error = outcome.expect_err("it would be lost");
        format!("{error} ({})", error.detail("hint").unwrap_or_default())
    };
    let told = [
        refused(map::<Threshold>(&json!({"keep": "rank > 5"}), rows(true))),
        refused(whole::<Dedup>(&json!({"by": ["rank"]}), rows(true))),
        refused(whole::<Rank>(&json!({"by": "rank"}), rows(true))),
        refused(whole::<Rank>(&json!({"by": "rank", "rank": "place"}), rows(true))),
    ];
    insta::assert_snapshot!(told.join("\n"));
    let outputs = map::<Threshold>(&json!({"keep": "rank > 5", "reason": "why"}), rows(true))
        .expect("it works");
    assert_eq!(outputs[1][0].num_columns(), 4);
    // What another stage wrote is replaced.
    let outputs = map::<Threshold>(&json!({"keep": "rank > 5"}), rows(false)).expect("it works");
    assert_eq!(outputs[1][0].num_columns(), 3);
}

#[test]
fn derived_columns_keep_their_types_and_their_order() {
    use arrow::array::ListArray;
    use arrow::datatypes::Int32Type;
    let list: ArrayRef =
        Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(vec![Some(vec![Some(1)])]));
    let id: ArrayRef = Arc::new(Int64Array::from(vec![9_007_199_254_740_993]));
    let text: ArrayRef = Arc::new(StringArray::from(vec!["abc"]));
    let rows = RecordBatch::try_from_iter([
        ("_id", Arc::clone(&text)),
        ("id", id),
        ("text", text),
        ("tags", list),
    ])
    .expect("one length");
    let config = json!({"columns": {"zeta": "id", "alpha": "length(text)", "tags2": "tags", "half": "id / 2", "more": "id + 1"}});
    let outputs = map::<Derive>(&config, rows.clone()).expect("it works");
    let schema = outputs[0][0].schema();
    let told: Vec<_> = schema
        .fields()
        .iter()
        .map(|field| format!("{}: {}", field.name(), field.data_type()))
        .collect();
    assert_eq!(
        told[4..].join(", "),
        "zeta: Int64, alpha: Int64, tags2: List(Int32), half: Float64, more: Int64"
    );
    let shown =
        |column: usize| array_value_to_string(outputs[0][0].column(column), 0).expect("it prints");
    assert_eq!([4, 5, 8].map(shown), ["9007199254740993", "3", "9007199254740994"]);
    Harness::new(config).rows("rows", rows).conforms::<Derive>().expect("it conforms");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_sample_has_as_many_rows_as_it_says_and_each_row_the_same_chance(
        count in 0_usize..40, wanted in 1_usize..50, seed: u64,
    ) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let config = json!({"rows": wanted});
        let harness = Harness::new(config).rows("rows", many(count)).seed(seed);
        let outputs = harness.scratch_dir(dir.path()).run::<Sample>().expect("it works");
        let (kept, rest) = (ids_of(&outputs[0]), ids_of(&outputs[1]));
        prop_assert_eq!(kept.len(), wanted.min(count));
        let mut all = [kept.clone(), rest].concat();
        prop_assert!(kept.is_sorted());
        all.sort();
        prop_assert_eq!(all, ids_of(&[many(count)]));
    }

    #[test]
    fn a_sample_of_groups_has_its_share_of_each(
        labels in prop::collection::vec(prop::option::of(0_i64..4), 0..60),
        share in prop::option::of(0.0_f64..=1.0), number in 1_usize..9, seed: u64,
    ) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let ids: StringArray = (0..labels.len()).map(|row| Some(format!("{row}"))).collect();
        let columns: [(&str, ArrayRef, bool); 2] = [
            ("_id", Arc::new(ids), false),
            ("label", Arc::new(Int64Array::from(labels.clone())), true),
        ];
        let rows = RecordBatch::try_from_iter_with_nullable(columns).expect("one length");
        let config = match share {
            Some(share) => json!({"share": share, "per": "label"}),
            None => json!({"rows": number, "per": "label"}),
        };
        let harness = Harness::new(config).rows("rows", rows).seed(seed).scratch_dir(dir.path());
        let outputs = harness.run::<Sample>().expect("it works");
        for label in [None, Some(0), Some(1), Some(2), Some(3)] {
            let of = |batches: &[RecordBatch]| -> usize {
                let column = |rows: &RecordBatch| column::numbers(rows, "label").expect("numbers");
                let is = |value: Option<f64>| value.map(|value| value as i64) == label;
                batches.iter().map(|rows| column(rows).iter().filter(|value| is(*value)).count()).sum()
            };
            let all = labels.iter().filter(|found| **found == label).count();
            let wanted = share.map_or(number.min(all), |share| (share * all as f64).round() as usize);
            prop_assert_eq!((of(&outputs[0]), of(&outputs[1])), (wanted, all - wanted));
        }
    }

    /// Against the definition: a row goes if and only if it is similar enough to one that stays before it. The few that MinHash may
    /// miss are not among texts this alike.
    #[test]
    fn near_duplicates_are_what_the_definition_says(
        texts in prop::collection::vec("(red|green|blue) (cats|dogs) (sat|ran|slept) (here|there) [xyz]{0,2}", 1..30),
        near in prop::sample::select(vec![0.5, 0.6, 0.8, 0.95]),
    ) {
        let ids: StringArray = (0..texts.len()).map(|row| Some(format!("{row}"))).collect();
        let columns: [(&str, ArrayRef); 2] =
            [("_id", Arc::new(ids)), ("text", Arc::new(StringArray::from(texts.clone())))];
        let rows = RecordBatch::try_from_iter(columns).expect("one length");
        let config = json!({"by": ["text"], "near": near, "ngram": 3});
        let outputs = whole::<Dedup>(&config, rows).expect("it works");
        let mut kept: Vec<&String> = Vec::new();
        let kept_ids = ids_of(&outputs[0]);
        for (row, text) in texts.iter().enumerate() {
            let stays = kept_ids.contains(&row.to_string());
            let most = kept.iter().map(|other| similarity(text, other)).fold(0.0, f64::max);
            // Never a row that is too different; hardly ever one too few.
            prop_assert!(stays || most >= near, "{text}: {most}");
            prop_assert!(!stays || most < near + 0.1, "{text}: {most}");
            if stays {
                kept.push(text);
            }
        }
        let together = concat_batches(&outputs[0][0].schema(), &outputs[0]).expect("one schema");
        prop_assert_eq!(together.num_rows(), kept.len());
    }
}

/// Shared runs of three characters over all.
fn similarity(a: &str, b: &str) -> f64 {
    let runs = |text: &str| {
        let normal: String = text.split_whitespace().map(|word| word.to_owned() + " ").collect();
        let chars: Vec<_> = normal.chars().chain(['\u{1f}']).collect();
        chars.windows(3).map(<[char]>::to_vec).collect::<std::collections::HashSet<_>>()
    };
    let (a, b) = (runs(a), runs(b));
    a.intersection(&b).count() as f64 / a.union(&b).count() as f64
}
