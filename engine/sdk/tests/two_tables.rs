//! A map stage with two table inputs: it maps the rows of its first table port, in whatever order the edges come.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use paraloom_sdk::testing::Harness;
use paraloom_sdk::{About, Emit, MapStage, PlanInputs, Planned, Port, Result, Run, column};
use serde_json::json;

#[derive(serde::Deserialize, schemars::JsonSchema)]
struct Config {}

/// Replaces the text of `rows` by the number that `lookup` has for it.
struct Look {
    output: arrow::datatypes::SchemaRef,
}

impl MapStage for Look {
    type Config = Config;
    type Worker = (HashMap<String, i64>, arrow::datatypes::SchemaRef);

    fn about() -> About {
        About::new("look", "1.0.0", "Looks texts up.")
            .input(Port::table("rows", "The texts."))
            .input(Port::table("lookup", "Numbers of texts."))
            .output(Port::table("found", "The numbers."))
            .batch_invariant()
    }

    fn plan(_: Config, inputs: &PlanInputs) -> Result<Planned<Self>> {
        inputs.table("rows")?.text("text", "")?;
        inputs.table("lookup")?.number("number", "")?;
        let output = Arc::new(Schema::new(vec![Field::new("number", DataType::Int64, true)]));
        Ok(Planned::new(Self { output: Arc::clone(&output) }, [Some(output)]))
    }

    fn open(&self, _: &Run) -> Result<Self::Worker> {
        // `Run` is shared here, so the table cannot be read; what it holds does not matter for this test.
        Ok((HashMap::from([("b".to_owned(), 2)]), Arc::clone(&self.output)))
    }

    fn map((known, output): &mut Self::Worker, rows: RecordBatch, emit: &mut Emit) -> Result<()> {
        let texts = column::get(&rows, "text")?.as_string::<i32>();
        let numbers: Int64Array =
            texts.iter().map(|text| known.get(text.unwrap_or_default()).copied()).collect();
        emit.push("found", &RecordBatch::try_new(Arc::clone(output), vec![Arc::new(numbers)])?)
    }
}

fn table(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter(columns).expect("columns of one length")
}

#[test]
fn the_first_table_port_is_mapped_whatever_the_order_of_the_edges() {
    let rows = table(vec![("text", Arc::new(StringArray::from(vec!["a", "b"])))]);
    let lookup = table(vec![("number", Arc::new(Int64Array::from(vec![1, 2, 3])))]);
    let in_order =
        Harness::new(json!({})).rows("rows", rows.clone()).rows("lookup", lookup.clone());
    let turned = Harness::new(json!({})).rows("lookup", lookup).rows("rows", rows);
    for harness in [in_order, turned] {
        let outputs = harness.map::<Look>().expect("it maps");
        let numbers = outputs[0][0].column(0).as_primitive::<Int64Type>();
        assert_eq!(numbers.iter().collect::<Vec<_>>(), [None, Some(2)]);
        harness.conforms::<Look>().expect("it conforms");
    }
}
