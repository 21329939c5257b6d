//! `threshold` keeps the rows for which an expression is true, and says of every other
//! row why it was not kept.

use std::sync::Arc;

use arrow::array::RecordBatch;
use paraloom_expr::{Expr, ExprError};
use paraloom_sdk::{About, Emit, Error, MapStage, PlanInputs, Planned, Port, Result, Run};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::expression::{expression_error, expression_errors};
use crate::partition::{check_free, partition, reason, reason_field};

/// Settings of `threshold`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The condition that a row must meet, such as `stsb >= 4.0 and cola = 'acceptable'`.
    /// A missing value and NaN never meet a comparison.
    #[schemars(extend("x-paraloom-expression" = true, "x-paraloom-request" = true))]
    keep: String,
    /// What the column of reasons is called. One that another stage has written is replaced.
    #[serde(default = "reason")]
    reason: String,
}

/// The stage.
pub struct Threshold {
    keep: Expr,
    reason: String,
}

impl MapStage for Threshold {
    type Config = Config;
    type Worker = (Expr, String);

    fn about() -> About {
        About::new(
            "threshold",
            "1.1.0",
            "Keeps the rows that meet a condition, and says why the others do not.",
        )
        .input(Port::table("rows", "The rows to sort out."))
        .output(Port::table("kept", "The rows that meet the condition."))
        .output(Port::table("rejected", "The other rows, with the `reason` of each."))
        .batch_invariant()
        .divides_rows()
    }

    fn plan(config: Config, inputs: &PlanInputs) -> Result<Planned<Self>> {
        let rows = inputs.table("rows")?;
        let refuse = |error: ExprError| expression_error(&config.keep, &error, "/keep");
        let keep = Expr::parse(&config.keep).map_err(refuse)?;
        let refuse = |errors: Vec<ExprError>| expression_errors(&config.keep, &errors, "/keep");
        keep.check_condition_all(rows.schema()).map_err(refuse)?;
        check_free(&rows, &reason_field(&config.reason), "reason")?;
        let rejected = rows.with_fields([reason_field(&config.reason)]);
        Ok(Planned::new(
            Self { keep, reason: config.reason },
            [Some(Arc::clone(rows.schema())), Some(rejected)],
        ))
    }

    fn open(&self, _: &Run) -> Result<Self::Worker> {
        Ok((self.keep.clone(), self.reason.clone()))
    }

    fn map((keep, reason): &mut Self::Worker, rows: RecordBatch, emit: &mut Emit) -> Result<()> {
        let reasons = keep.reasons(&rows).map_err(|error| Error::data(error.to_string()))?;
        let rows = partition(&rows, reasons, reason)?;
        emit.push("kept", &rows.kept)?;
        emit.push("rejected", &rows.rejected)
    }
}
