//! `threshold` keeps the rows for which an expression is true, and says of every other
//! row why it was not kept.

use std::sync::Arc;

use arrow::array::{Array, BooleanArray, RecordBatch, StringArray};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Field};
use paraloom_expr::{Expr, ExprError};
use paraloom_sdk::{About, Emit, Error, MapStage, PlanInputs, Planned, Port, Result, Run, column};
use schemars::JsonSchema;
use serde::Deserialize;

const REASON: &str = "reason";

/// Settings of `threshold`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The condition that a row must meet, such as `stsb >= 4.0 and cola = 'acceptable'`.
    /// A missing value and NaN never meet a comparison.
    keep: String,
}

/// The stage.
pub struct Threshold {
    keep: Expr,
}

/// Says what is wrong with an expression, and shows the part that it is about.
pub(crate) fn expression_error(text: &str, error: &ExprError, pointer: &str) -> Error {
    let (start, end) = error.span;
    let part = text.get(start..end).unwrap_or_default();
    let message = if part.is_empty() || error.message.contains(part) {
        error.message.clone()
    } else {
        format!("{}: `{part}`", error.message)
    };
    let failure = Error::config(message).at(pointer);
    match &error.hint {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

impl MapStage for Threshold {
    type Config = Config;
    type Worker = Expr;

    fn about() -> About {
        About::new(
            "threshold",
            "1.0.0",
            "Keeps the rows that meet a condition, and says why the others do not.",
        )
        .input(Port::table("rows", "The rows to sort out."))
        .output(Port::table("kept", "The rows that meet the condition."))
        .output(Port::table("rejected", "The other rows, with the `reason` of each."))
        .batch_invariant()
    }

    fn plan(config: Config, inputs: &PlanInputs) -> Result<Planned<Self>> {
        let rows = inputs.table("rows")?;
        let refuse = |error: ExprError| expression_error(&config.keep, &error, "/keep");
        let keep = Expr::parse(&config.keep).map_err(refuse)?;
        keep.check_condition(rows.schema()).map_err(refuse)?;
        let rejected = rows.with_fields([Field::new(REASON, DataType::Utf8, false)]);
        Ok(Planned::new(Self { keep }, [Some(Arc::clone(rows.schema())), Some(rejected)]))
    }

    fn open(&self, _: &Run) -> Result<Expr> {
        Ok(self.keep.clone())
    }

    fn map(keep: &mut Expr, rows: RecordBatch, emit: &mut Emit) -> Result<()> {
        let reasons = keep.reasons(&rows).map_err(|error| Error::data(error.to_string()))?;
        let kept: BooleanArray = reasons.iter().map(|reason| Some(reason.is_none())).collect();
        let rejected: BooleanArray = kept.iter().map(|kept| kept.map(|kept| !kept)).collect();
        emit.push("kept", &filter_record_batch(&rows, &kept)?)?;
        let texts: StringArray = reasons.into_iter().flatten().map(Some).collect();
        let rows = filter_record_batch(&rows, &rejected)?;
        debug_assert_eq!(rows.num_rows(), texts.len());
        let field = Field::new(REASON, DataType::Utf8, false);
        emit.push("rejected", &column::with_field(&rows, field, Arc::new(texts))?)
    }
}
