//! `split` divides the rows at random: a share is held out, or there are a training, a validation and a test set.

use std::sync::Arc;

use arrow::array::{Array, BooleanArray, RecordBatch, StringArray};
use arrow::compute::filter_record_batch;
use paraloom_expr::normalise;
use paraloom_sdk::identity::{ids, row_seed};
use paraloom_sdk::{About, Emit, Error, MapStage, PlanInputs, Planned, Port, Result, Run};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::key::{as_text, check_key};

/// Settings of `split`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// About this share of the rows is held out: between 0 and 1. For exact numbers, or the same share of every label, there is
    /// `sample`.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 1.0))]
    share: Option<f64>,
    /// Instead of `share`: the shares of a training, a validation and a test set, such as
    /// `{ train: 0.8, valid: 0.1, test: 0.1 }`. They add up to 1; of one that is left out there is the rest.
    #[serde(default)]
    shares: Option<Shares>,
    /// Rows that are equal in this column stay together, such as all paraphrases of one `source`. Neither case nor spacing counts,
    /// nor how a character is written, as for `dedup`. Without it each row is drawn on its own.
    #[serde(default)]
    by: Option<String>,
    /// With `by`: compare to the letter.
    #[serde(default)]
    exact: bool,
}

/// Shares of a table.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Shares {
    /// Of the rows to train on.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 1.0))]
    train: Option<f64>,
    /// Of the rows to validate on.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 1.0))]
    valid: Option<f64>,
    /// Of the rows to test on.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 1.0))]
    test: Option<f64>,
}

/// The stage.
#[derive(Clone)]
pub struct Split {
    config: Config,
    /// Draws below the first are test rows, below the second validation rows; all others are to train on.
    bounds: (f64, f64),
}

/// The stage at work.
pub struct Worker {
    stage: Split,
    seed: u64,
}

/// Where a row goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Train,
    Valid,
    Test,
}

impl Worker {
    /// Depends on the seed and on the row alone, so that a row keeps its side when others come or go.
    fn side(&self, name: &str) -> Side {
        // 53 bits, which a float holds exactly.
        let drawn = (row_seed(self.seed, name) >> 11) as f64 / (1_u64 << 53) as f64;
        let (test, valid) = self.stage.bounds;
        if drawn < test {
            Side::Test
        } else if drawn < valid {
            Side::Valid
        } else {
            Side::Train
        }
    }

    /// What a row is drawn by: itself, or the group that it is in.
    fn name<'a>(
        &self,
        by: Option<&'a StringArray>,
        row: usize,
    ) -> Option<std::borrow::Cow<'a, str>> {
        let value = by.filter(|by| by.is_valid(row))?.value(row);
        if self.stage.config.exact {
            return Some(value.into());
        }
        // A value that is plain already names its group itself, as it always did.
        let plain = normalise(value);
        let words: Vec<_> = plain.split_whitespace().collect();
        Some(words.join(" ").into())
    }
}

impl Config {
    fn bounds(&self) -> Result<(f64, f64)> {
        let shares = match (self.share, self.shares) {
            (Some(share), None) => {
                return if (0.0..=1.0).contains(&share) {
                    Ok((0.0, share))
                } else {
                    Err(Error::config("a share is between 0 and 1").at("/share"))
                };
            }
            (None, Some(shares)) => shares,
            _ => {
                let error = Error::config("`split` takes either `share` or `shares`");
                return Err(error.hint("`share: 0.1` holds a tenth out; `shares: { train: 0.8, valid: 0.1, test: 0.1 }` divides in three"));
            }
        };
        let mut all = [shares.train, shares.valid, shares.test];
        let sum: f64 = all.iter().flatten().sum();
        let is_sound = all.iter().flatten().all(|share| (0.0..=1.0).contains(share));
        let is_whole = all.iter().all(Option::is_some);
        if !is_sound || sum > 1.0 + 1e-9 || (is_whole && sum < 1.0 - 1e-9) {
            let error =
                Error::config(format!("the shares add up to {sum:.3}, not to 1")).at("/shares");
            return Err(error.hint("leave one out to give it the rest"));
        }
        // The rest is to train on, unless `train` is said: then what is left out shares it.
        if !is_whole {
            match all.iter_mut().find(|share| share.is_none()) {
                Some(first) => *first = Some(1.0 - sum),
                None => return Err(Error::internal("a share is missing")),
            }
        }
        let [_, valid, test] = all.map(Option::unwrap_or_default);
        Ok((test, test + valid))
    }
}

impl MapStage for Split {
    type Config = Config;
    type Worker = Worker;

    fn about() -> About {
        About::new(
            "split",
            "1.1.0",
            "Divides the rows at random: holds a share out, or makes three sets.",
        )
        .input(Port::table("rows", "The rows to divide."))
        .output(Port::table("kept", "The rows to train on."))
        .output(Port::table("held_out", "All other rows: to validate on, and to test on."))
        .output(Port::table("train", "With `shares`: the rows to train on, as in `kept`."))
        .output(Port::table("valid", "With `shares`: of those held out, the rows to validate on."))
        .output(Port::table("test", "With `shares`: of those held out, the rows to test on."))
        .uses_seed()
        .batch_invariant()
        .covers_rows()
    }

    fn plan(config: Config, inputs: &PlanInputs) -> Result<Planned<Self>> {
        let rows = inputs.table("rows")?;
        let bounds = config.bounds()?;
        if let Some(by) = &config.by {
            check_key(&rows, by, "/by")?;
        }
        let schema = rows.schema();
        Ok(Planned::new(Self { config, bounds }, [(); 5].map(|()| Some(Arc::clone(schema)))))
    }

    fn open(&self, run: &Run) -> Result<Worker> {
        Ok(Worker { stage: self.clone(), seed: run.seed() })
    }

    fn map(worker: &mut Worker, rows: RecordBatch, emit: &mut Emit) -> Result<()> {
        let own = ids(&rows)?;
        let by = worker.stage.config.by.as_ref().map(|by| as_text(&rows, by)).transpose()?;
        let side = |row| match worker.name(by.as_ref(), row) {
            Some(name) => worker.side(&name),
            None => worker.side(own.value(row)),
        };
        let sides: Vec<_> = (0..rows.num_rows()).map(side).collect();
        let mut push = |port: &str, goes: &dyn Fn(Side) -> bool| -> Result<()> {
            let goes: BooleanArray = sides.iter().map(|side| Some(goes(*side))).collect();
            emit.push(port, &filter_record_batch(&rows, &goes)?)
        };
        push("kept", &|side| side == Side::Train)?;
        push("held_out", &|side| side != Side::Train)?;
        // With `share` nobody asks for three sets, and none of it is written twice.
        let is_three = worker.stage.config.shares.is_some();
        push("train", &|side| is_three && side == Side::Train)?;
        push("valid", &|side| is_three && side == Side::Valid)?;
        push("test", &|side| is_three && side == Side::Test)
    }
}
