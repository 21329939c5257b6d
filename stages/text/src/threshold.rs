//! `threshold` keeps the rows for which an expression is true, and says of every other
//! row why it was not kept.

use std::sync::Arc;

use arrow::array::RecordBatch;
use paraloom_expr::{Expr, ExprError};
use paraloom_sdk::{About, Emit, Error, MapStage, PlanInputs, Planned, Port, Result, Run};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::expression::expression_error;
use crate::partition::{partition, reason_field};

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
        let rejected = rows.with_fields([reason_field()]);
        Ok(Planned::new(Self { keep }, [Some(Arc::clone(rows.schema())), Some(rejected)]))
    }

    fn open(&self, _: &Run) -> Result<Expr> {
        Ok(self.keep.clone())
    }

    fn map(keep: &mut Expr, rows: RecordBatch, emit: &mut Emit) -> Result<()> {
        let reasons = keep.reasons(&rows).map_err(|error| Error::data(error.to_string()))?;
        let rows = partition(&rows, reasons)?;
        emit.push("kept", &rows.kept)?;
        emit.push("rejected", &rows.rejected)
    }
}
