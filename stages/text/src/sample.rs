//! `sample` draws a number of rows at random.

use std::collections::BinaryHeap;
use std::sync::Arc;

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::{filter_record_batch, not};
use paraloom_sdk::identity::{ids, row_seed};
use paraloom_sdk::{About, PlanInputs, Planned, Port, Result, Run, Stage};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::spool::Spool;

/// Settings of `sample`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// How many rows are drawn; all, where there are no more. (For a share of them there is `split`.)
    #[schemars(range(min = 1))]
    rows: usize,
}

/// The stage.
pub struct Sample(Config);

/// A row's place in the draw: by its random number, and where those are equal by its place in the table. Small ones are drawn.
type Ticket = (u64, usize);

fn tickets(rows: &RecordBatch, seed: u64, before: usize) -> Result<impl Iterator<Item = Ticket>> {
    let ids = ids(rows)?;
    Ok((0..rows.num_rows()).map(move |row| (row_seed(seed, ids.value(row)), before + row)))
}

impl Stage for Sample {
    type Config = Config;

    fn about() -> About {
        About::new("sample", "1.0.0", "Draws a number of rows at random; they stay in order.")
            .input(Port::table("rows", "The rows to draw from."))
            .output(Port::table("kept", "The rows that were drawn."))
            .output(Port::table("rest", "The other rows."))
            .uses_seed()
            .divides_rows()
    }

    fn plan(config: Config, inputs: &PlanInputs) -> Result<Planned<Self>> {
        let schema = inputs.table("rows")?.schema().clone();
        Ok(Planned::new(Self(config), [Some(Arc::clone(&schema)), Some(schema)]))
    }

    fn run(&self, run: &mut Run) -> Result<()> {
        let (seed, reader) = (run.seed(), run.table("rows")?);
        let mut spool = Spool::create(run, reader.schema())?;
        let (mut drawn, mut before) = (BinaryHeap::<Ticket>::new(), 0);
        for rows in reader {
            run.services().check_cancelled()?;
            let rows = rows?;
            for ticket in tickets(&rows, seed, before)? {
                if drawn.len() < self.0.rows {
                    drawn.push(ticket);
                } else if let Some(mut last) = drawn.peek_mut().filter(|last| ticket < **last) {
                    *last = ticket;
                }
            }
            before += rows.num_rows();
            spool.write(&rows)?;
        }
        let (last, mut before) = (drawn.peek().copied(), 0);
        for rows in spool.read()? {
            run.services().check_cancelled()?;
            let rows = rows?;
            let kept: BooleanArray =
                tickets(&rows, seed, before)?.map(|ticket| Some(Some(ticket) <= last)).collect();
            before += rows.num_rows();
            run.push("kept", &filter_record_batch(&rows, &kept)?)?;
            run.push("rest", &filter_record_batch(&rows, &not(&kept)?)?)?;
        }
        Ok(())
    }
}
