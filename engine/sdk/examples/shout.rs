use std::sync::Arc;

use paraloom_sdk::arrow::array::{RecordBatch, StringArray};
use paraloom_sdk::{About, Emit, MapStage, PlanInputs, Planned, Port, Result, Run, column};

/// Settings of `shout`: these comments are what `paraloom stages shout` and editors show.
#[derive(serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The text column to change.
    #[serde(default = "text")]
    column: String,
}

fn text() -> String {
    "text".to_owned()
}

/// Writes a column in capital letters.
pub struct Shout(Config);

impl MapStage for Shout {
    type Config = Config;
    /// What is loaded once and then used for every part, such as a model.
    type Worker = String;

    fn about() -> About {
        // A new version of what it computes expires old results.
        About::new("shout", "1.0.0", "Writes a column in capital letters.")
            .input(Port::table("rows", "Any table."))
            .output(Port::table("rows", "The same rows."))
            .batch_invariant()
    }

    /// Checks the pipeline before anything runs, and says what will come out.
    fn plan(config: Config, inputs: &PlanInputs) -> Result<Planned<Self>> {
        let rows = inputs.table("rows")?;
        rows.text(&config.column, "/column")?;
        let schema = rows.with_fields([column::nullable_text(&config.column)]);
        Ok(Planned::new(Self(config), [Some(schema)]))
    }

    fn open(&self, _: &Run) -> Result<String> {
        Ok(self.0.column.clone())
    }

    fn map(name: &mut String, rows: RecordBatch, emit: &mut Emit) -> Result<()> {
        let texts = column::text(&rows, name)?;
        let loud: StringArray = texts.iter().map(|text| text.map(str::to_uppercase)).collect();
        let field = column::nullable_text(name);
        emit.push("rows", &column::with_field(&rows, field, Arc::new(loud))?)
    }
}

paraloom_sdk::export_stages! { map: [Shout] }

#[cfg(test)]
mod tests {
    use super::{Arc, RecordBatch, Shout, StringArray, column};
    use paraloom_sdk::arrow::array::ArrayRef;
    use paraloom_sdk::testing::Harness;
    use serde_json::json;

    fn rows() -> RecordBatch {
        let column =
            |texts: [Option<&str>; 3]| -> ArrayRef { Arc::new(StringArray::from(texts.to_vec())) };
        let ids = column([Some("a"), Some("b"), Some("c")]);
        let texts = column([Some("hello"), None, Some("straße")]);
        RecordBatch::try_from_iter([("_id", ids), ("text", texts)]).expect("one length")
    }

    #[test]
    fn it_writes_capitals() {
        let outputs = Harness::new(json!({"column": "text"})).rows("rows", rows()).map::<Shout>();
        let texts = column::text(&outputs.expect("it works")[0][0], "text").expect("it is there");
        assert_eq!(texts, StringArray::from(vec![Some("HELLO"), None, Some("STRASSE")]));
    }

    /// Twice the same, no rows, and one row at a time.
    #[test]
    fn it_is_what_the_engine_relies_on() {
        let harness = Harness::new(json!({"column": "text"})).rows("rows", rows());
        harness.conforms::<Shout>().expect("it conforms");
    }

    #[test]
    fn a_column_that_is_not_there_is_named() {
        let harness = Harness::new(json!({"column": "txt"})).rows("rows", rows());
        let error = harness.map::<Shout>().expect_err("there is none");
        assert_eq!(error.detail("pointer"), Some("/column"));
    }
}
