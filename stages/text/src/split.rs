//! `split` holds out a share of the rows, by lot.

use std::sync::Arc;

use arrow::array::{Array, BooleanArray, RecordBatch};
use arrow::compute::{filter_record_batch, not};
use paraloom_sdk::identity::{ids, row_seed};
use paraloom_sdk::{About, Emit, Error, MapStage, PlanInputs, Planned, Port, Result, Run};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::key::{as_text, check_key};

/// Settings of `split`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// About this share of the rows is held out: between 0 and 1.
    #[schemars(range(min = 0.0, max = 1.0))]
    share: f64,
    /// Rows that are equal in this column stay together, such as all paraphrases of one `source`. Without it each row has a lot
    /// of its own.
    #[serde(default)]
    by: Option<String>,
}

/// The stage.
pub struct Split(Config);

/// The stage at work.
pub struct Worker {
    config: Config,
    seed: u64,
}

impl Worker {
    /// Depends on the seed and on the row alone, so that a row keeps its side when others come or go.
    fn is_held_out(&self, lot: &str) -> bool {
        // 53 bits, which a float holds exactly.
        let drawn = (row_seed(self.seed, lot) >> 11) as f64 / (1_u64 << 53) as f64;
        drawn < self.config.share
    }
}

impl MapStage for Split {
    type Config = Config;
    type Worker = Worker;

    fn about() -> About {
        About::new("split", "1.0.0", "Holds out a share of the rows, by lot; the rest is kept.")
            .input(Port::table("rows", "The rows to divide."))
            .output(Port::table("kept", "The rest, say to train on."))
            .output(Port::table("held_out", "The share, say to validate on."))
            .uses_seed()
            .batch_invariant()
    }

    fn plan(config: Config, inputs: &PlanInputs) -> Result<Planned<Self>> {
        let rows = inputs.table("rows")?;
        if !(0.0..=1.0).contains(&config.share) {
            return Err(Error::config("a share is between 0 and 1").at("/share"));
        }
        if let Some(by) = &config.by {
            check_key(&rows, by, "/by")?;
        }
        let schema = rows.schema();
        Ok(Planned::new(Self(config), [Some(Arc::clone(schema)), Some(Arc::clone(schema))]))
    }

    fn open(&self, run: &Run) -> Result<Worker> {
        Ok(Worker { config: self.0.clone(), seed: run.seed() })
    }

    fn map(worker: &mut Worker, rows: RecordBatch, emit: &mut Emit) -> Result<()> {
        let own = ids(&rows)?;
        let by = worker.config.by.as_ref().map(|by| as_text(&rows, by)).transpose()?;
        let held_out: BooleanArray = (0..rows.num_rows())
            .map(|row| {
                let group = by.as_ref().filter(|by| by.is_valid(row)).map(|by| by.value(row));
                Some(worker.is_held_out(group.unwrap_or_else(|| own.value(row))))
            })
            .collect();
        emit.push("kept", &filter_record_batch(&rows, &not(&held_out)?)?)?;
        emit.push("held_out", &filter_record_batch(&rows, &held_out)?)
    }
}
