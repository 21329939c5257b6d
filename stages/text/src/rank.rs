//! `rank` keeps the best rows, of all or of each group.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, AsArray, Int64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Float64Type};
use paraloom_expr::{Expr, ExprError, Type};
use paraloom_sdk::{About, Error, PlanInputs, Planned, Port, Result, Run, Stage, column};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::expression::{expression_error, expression_errors};
use crate::key::{as_text, check_key, digest};
use crate::partition::{check_free, partition, reason, reason_field};
use crate::spool::Spool;

/// Settings of `rank`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("x-paraloom-per-request" = true))]
pub struct Config {
    /// A number for every row, such as `stsb_mean + cola_p`, or `-loss`. The highest is the best; rows without one come last, and
    /// of equals the earlier row is the better.
    #[schemars(extend("x-paraloom-expression" = true, "x-paraloom-request" = true))]
    by: String,
    /// Rows that are equal in this column compete, such as all paraphrases of one `source`. Without it all rows do.
    #[serde(default)]
    per: Option<String>,
    /// How many are kept, of each group.
    #[serde(default = "one")]
    #[schemars(range(min = 1), extend("x-paraloom-request" = true))]
    keep: usize,
    /// What the column of ranks is called. One that another `rank` has written is replaced.
    #[serde(default = "rank")]
    rank: String,
    /// What the column of reasons is called. One that another stage has written is replaced.
    #[serde(default = "reason")]
    reason: String,
}

fn rank() -> String {
    "rank".to_owned()
}

const fn one() -> usize {
    1
}

/// The stage.
pub struct Rank {
    by: Expr,
    per: Option<String>,
    keep: usize,
    /// Of the ranks.
    column: String,
    reason: String,
}

fn rank_field(name: &str) -> Field {
    Field::new(name, DataType::Int64, false)
}

impl Stage for Rank {
    type Config = Config;

    fn about() -> About {
        About::new("rank", "1.0.0", "Keeps the best rows, of all or of each group.")
            .input(Port::table("rows", "The rows to compare."))
            .output(Port::table(
                "kept",
                "The best rows, in their old order, with the `rank` of each.",
            ))
            .output(Port::table("rejected", "The other rows, with `rank` and `reason`."))
            .divides_rows()
    }

    fn plan(config: Config, inputs: &PlanInputs) -> Result<Planned<Self>> {
        let rows = inputs.table("rows")?;
        let refuse = |error: ExprError| expression_error(&config.by, &error, "/by");
        let by = Expr::parse(&config.by).map_err(refuse)?;
        let all = |errors: Vec<ExprError>| expression_errors(&config.by, &errors, "/by");
        let kind = by.check_all(rows.schema()).map_err(all)?;
        if !matches!(kind, Type::Number | Type::Whole) {
            return Err(
                Error::config(format!("rows are ranked by a number, and this is {kind}")).at("/by")
            );
        }
        if let Some(per) = &config.per {
            check_key(&rows, per, "/per")?;
        }
        check_free(&rows, &rank_field(&config.rank), "rank")?;
        check_free(&rows, &reason_field(&config.reason), "reason")?;
        if config.rank == config.reason {
            return Err(Error::config("`rank` and `reason` are two columns").at("/reason"));
        }
        let outputs = [
            Some(rows.with_fields([rank_field(&config.rank)])),
            Some(rows.with_fields([rank_field(&config.rank), reason_field(&config.reason)])),
        ];
        let Config { per, keep, rank: column, reason, .. } = config;
        Ok(Planned::new(Self { by, per, keep, column, reason }, outputs))
    }

    fn run(&self, run: &mut Run) -> Result<()> {
        let reader = run.table("rows")?;
        let mut spool = Spool::create(run, reader.schema())?;
        let mut entries = Vec::new();
        let mut groups = HashMap::new();
        for rows in reader {
            run.services().check_cancelled()?;
            let rows = rows?;
            let values = self.by.values(&rows).map_err(|error| Error::data(error.to_string()))?;
            let values = cast(&values, &DataType::Float64)?;
            let values = values.as_primitive::<Float64Type>();
            let per = self.per.as_ref().map(|per| as_text(&rows, per)).transpose()?;
            for row in 0..rows.num_rows() {
                let per = per.as_ref().filter(|per| per.is_valid(row)).map(|per| per.value(row));
                let name = per.map(digest);
                let next = groups.len();
                let value = values.is_valid(row).then(|| values.value(row));
                entries.push(Entry {
                    group: *groups.entry(name).or_insert(next),
                    value: value.filter(|value| !value.is_nan()),
                });
            }
            spool.write(&rows)?;
        }
        drop(groups);

        let reason = match self.keep {
            1 => "only the best is kept".to_owned(),
            keep => format!("only the best {keep} are kept"),
        };
        let mut ranks = ranks(&entries).into_iter();
        for rows in spool.read()? {
            run.services().check_cancelled()?;
            let rows = rows?;
            let own: Int64Array = ranks.by_ref().take(rows.num_rows()).map(Some).collect();
            let goes = own.values().iter().map(|rank| *rank as u64 > self.keep as u64);
            let reasons = goes.map(|goes| goes.then(|| reason.clone())).collect();
            let rows = column::with_field(&rows, rank_field(&self.column), Arc::new(own))?;
            let rows = partition(&rows, reasons, &self.reason)?;
            run.push("kept", &rows.kept)?;
            run.push("rejected", &rows.rejected)?;
        }
        Ok(())
    }
}

/// What is known of a row until all are seen.
struct Entry {
    group: usize,
    /// Neither null nor NaN.
    value: Option<f64>,
}

/// From 1, within each group.
fn ranks(entries: &[Entry]) -> Vec<i64> {
    let mut order: Vec<_> = (0..entries.len()).collect();
    order.sort_by(|a, b| {
        let (left, right) = (&entries[*a], &entries[*b]);
        let better = match (left.value, right.value) {
            (Some(a), Some(b)) => b.total_cmp(&a),
            (a, b) => b.is_some().cmp(&a.is_some()),
        };
        left.group.cmp(&right.group).then(better).then(a.cmp(b))
    });
    let mut ranks = vec![0; entries.len()];
    for (place, at) in order.iter().enumerate() {
        let before = place.checked_sub(1).map(|before| order[before]);
        let before = before.filter(|before| entries[*before].group == entries[*at].group);
        ranks[*at] = before.map_or(1, |before| ranks[before] + 1);
    }
    ranks
}
