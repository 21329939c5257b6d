//! `evaluate`, beside what sacreBLEU, rouge-score and scikit-learn say.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Float64Array, RecordBatch, StringArray};
use arrow::datatypes::Float64Type;
use paraloom_sdk::testing::Harness;
use paraloom_stages_text::Evaluate;
use serde_json::{Value, json};

fn rows(columns: &[(&str, &Value)]) -> RecordBatch {
    let column = |(name, values): &(&str, &Value)| {
        let values = values.as_array().expect("a list").iter().map(Value::as_str);
        ((*name).to_owned(), Arc::new(values.collect::<StringArray>()) as ArrayRef)
    };
    RecordBatch::try_from_iter_with_nullable(
        columns.iter().map(column).map(|(name, column)| (name, column, true)),
    )
    .expect("columns of one length")
}

fn metrics(config: &Value, rows: RecordBatch) -> RecordBatch {
    let outputs = Harness::new(config.clone()).rows("rows", rows).run::<Evaluate>();
    outputs.expect("it runs").remove(0).remove(0)
}

/// By group, where there are some, and metric.
fn column(metrics: &RecordBatch, name: &str) -> BTreeMap<String, Option<f64>> {
    let texts = |name: &str| -> Vec<String> {
        let column = metrics.column_by_name(name);
        column.map_or_else(
            || vec![String::new(); metrics.num_rows()],
            |column| {
                column
                    .as_string::<i32>()
                    .iter()
                    .map(|text| text.unwrap_or("-").to_owned())
                    .collect()
            },
        )
    };
    let keys = texts("group").into_iter().zip(texts("metric"));
    let values = metrics[name].as_primitive::<Float64Type>().iter();
    keys.map(|(group, metric)| format!("{group} {metric}").trim().to_owned()).zip(values).collect()
}

#[test]
fn figures_are_those_of_the_libraries_that_people_cite() {
    let fixture = include_str!("fixtures/metrics.json");
    let fixture: Value = serde_json::from_str(fixture).expect("JSON");
    let mut compared = 0;
    for (set, config) in [
        (
            "texts",
            json!({ "predicted": "predicted", "gold": "gold", "texts": ["bleu", "chrf", "rouge", "self-bleu"] }),
        ),
        ("labels", json!({ "predicted": "predicted", "gold": "gold" })),
    ] {
        for case in fixture[set].as_array().expect("a list") {
            let rows = rows(&[("predicted", &case["predicted"]), ("gold", &case["gold"])]);
            let found = column(&metrics(&config, rows), "value");
            for (name, expected) in case["metrics"].as_object().expect("metrics") {
                let (found, expected) = (found[name], expected.as_f64());
                let is_close = match (found, expected) {
                    (Some(found), Some(expected)) => (found - expected).abs() < 1e-9,
                    (found, expected) => found == expected,
                };
                assert!(is_close, "{name}: {found:?}, not {expected:?}, of {case}");
                compared += 1;
            }
        }
    }
    assert!(compared > 200, "{compared}");
}

#[test]
fn how_different_texts_are_and_how_much_they_copy() {
    let rows = rows(&[
        ("source", &json!(["a b c d", "a b c d", "e f", "e f", "g"])),
        ("text", &json!(["A b  c d", "a b c x", "e f", null, "h"])),
    ]);
    let config = json!({ "predicted": "text", "source": "source", "texts": ["distinct", "copy", "self-bleu"] });
    let found = column(&metrics(&config, rows), "value");
    assert_eq!(found["distinct-1"], Some(9.0 / 11.0));
    assert_eq!(found["distinct-2"], Some(6.0 / 7.0));
    assert_eq!(found["copied"], Some(0.5), "neither case nor spacing counts");
    assert_eq!(found["copied words"], Some((0.75 + 0.75 + 1.0 + 0.0) / 4.0));
    // Only the first source has two texts: `b c` is all that they share.
    assert!(found["self-bleu"].is_some_and(|bleu| bleu > 20.0 && bleu < 50.0), "{found:?}");
}

#[test]
fn groups_and_intervals() {
    let mut rows = rows(&[
        ("kind", &json!(["b", "a", "a", null, "b"])),
        ("text", &json!(["yes", "yes", "no", "no", "yes"])),
        ("truth", &json!(["yes", "no", "no", "no", "no"])),
    ]);
    let scores: ArrayRef =
        Arc::new(Float64Array::from(vec![Some(1.0), Some(2.0), Some(4.0), None, Some(1.0)]));
    rows = paraloom_sdk::column::replace(&rows, "score", scores).expect("of one length");
    let config = json!({ "predicted": "text", "gold": "truth", "mean": ["score"], "by": "kind", "confidence": 0.9 });
    let metrics = metrics(&config, rows);
    let names: Vec<_> =
        metrics.schema().fields().iter().map(|field| field.name().clone()).collect();
    assert_eq!(names, ["group", "metric", "value", "low", "high", "rows"]);
    let [values, lows, highs] = ["value", "low", "high"].map(|name| column(&metrics, name));
    assert_eq!(
        (values["a accuracy"], values["b accuracy"], values["- accuracy"]),
        (Some(0.5), Some(0.5), Some(1.0))
    );
    assert_eq!(
        (values["a mean score"], values["b mean score"], values["- mean score"]),
        (Some(3.0), Some(1.0), None)
    );
    assert_eq!((lows["a mean score"], highs["a mean score"]), (Some(2.0), Some(4.0)));
    assert_eq!((lows["b mean score"], lows["- accuracy"]), (Some(1.0), None));
}

#[test]
fn what_cannot_be_measured_is_said() {
    let texts = json!(["a"]);
    let cases = [
        (json!({}), "needs `predicted` and `gold`, or `texts`, or `mean`"),
        (json!({ "texts": ["bleu"], "predicted": "a" }), "these `texts` need `gold`"),
        (json!({ "texts": ["copy"], "predicted": "a" }), "these `texts` need `source`"),
        (json!({ "texts": ["distinct"] }), "these `texts` need `predicted`"),
        (
            json!({ "texts": ["distinct"], "predicted": "a", "gold": "a" }),
            "`gold` is not read here",
        ),
        (json!({ "predicted": "a", "gold": "a", "source": "a" }), "`source` is not read here"),
        (json!({ "texts": ["meteor"], "predicted": "a" }), "meteor"),
        (json!({ "mean": ["b"], "by": "b" }), "b"),
        (json!({ "predicted": "a", "gold": "a", "confidence": 95 }), "between 0.5 and 0.999"),
    ];
    for (config, message) in cases {
        let outcome =
            Harness::new(config.clone()).rows("rows", rows(&[("a", &texts)])).run::<Evaluate>();
        let error = outcome.expect_err(message).to_string();
        assert!(error.contains(message), "{config}: {error}");
    }
}
