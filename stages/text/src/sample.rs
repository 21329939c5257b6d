//! `sample` draws a number of rows, or a share, at random; of all, or of each group.

use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;

use arrow::array::{Array, BooleanArray, RecordBatch};
use arrow::compute::{filter_record_batch, not};
use paraloom_sdk::identity::{ids, row_seed};
use paraloom_sdk::{About, Error, PlanInputs, Planned, Port, Result, Run, Stage};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::key::{as_text, check_key, digest};
use crate::spool::Spool;

/// Settings of `sample`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// How many rows are drawn; all, where there are no more.
    #[serde(default)]
    #[schemars(range(min = 1))]
    rows: Option<usize>,
    /// Which share of the rows is drawn, in place of a number: exactly, to the nearest row. (`split` draws each row for itself, so
    /// that rows which are appended move no other.)
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 1.0))]
    share: Option<f64>,
    /// Rows that are equal in this column are a group of their own, such as those of one label: so many rows, or that share, are
    /// drawn of each.
    #[serde(default)]
    per: Option<String>,
}

impl Config {
    /// How many of a group of rows are drawn.
    fn count(&self, rows: usize) -> usize {
        match self.share {
            Some(share) => (share * rows as f64).round() as usize,
            None => self.rows.unwrap_or(0).min(rows),
        }
    }

    /// How many rows of a group need be known: no more than are drawn, if that is known beforehand.
    fn most(&self) -> usize {
        self.rows.unwrap_or(usize::MAX)
    }
}

/// The stage.
pub struct Sample(Config);

/// A row's place in the draw: by its random number, and where those are equal by its place in the table. Small ones are drawn.
type Ticket = (u64, usize);

/// The rows so far that may be drawn, and how many there were, by group.
#[derive(Default)]
struct Group {
    drawn: BinaryHeap<Ticket>,
    rows: usize,
}

impl Group {
    fn push(&mut self, ticket: Ticket, most: usize) {
        self.rows += 1;
        if self.drawn.len() < most {
            self.drawn.push(ticket);
        } else if let Some(mut last) = self.drawn.peek_mut().filter(|last| ticket < **last) {
            *last = ticket;
        }
    }

    /// The last ticket of those that are drawn; none if nothing is.
    fn last(self, config: &Config) -> Option<Ticket> {
        let count = config.count(self.rows);
        self.drawn.into_sorted_vec().get(count.checked_sub(1)?).copied()
    }
}

/// The ticket of each row, and the group that it is in.
fn tickets(
    rows: &RecordBatch,
    config: &Config,
    seed: u64,
    before: usize,
) -> Result<Vec<(u128, Ticket)>> {
    let own = ids(rows)?;
    let per = config.per.as_ref().map(|per| as_text(rows, per)).transpose()?;
    let group = |row| match &per {
        Some(per) if per.is_valid(row) => digest(per.value(row)),
        _ => 0,
    };
    let ticket = |row| (row_seed(seed, own.value(row)), before + row);
    Ok((0..rows.num_rows()).map(|row| (group(row), ticket(row))).collect())
}

impl Stage for Sample {
    type Config = Config;

    fn about() -> About {
        About::new(
            "sample",
            "1.0.0",
            "Draws a number of rows, or a share, at random; they stay in order.",
        )
        .input(Port::table("rows", "The rows to draw from."))
        .output(Port::table("kept", "The rows that were drawn."))
        .output(Port::table("rest", "The other rows."))
        .uses_seed()
        .divides_rows()
    }

    fn plan(config: Config, inputs: &PlanInputs) -> Result<Planned<Self>> {
        let rows = inputs.table("rows")?;
        match (config.rows, config.share) {
            (Some(0), None) => return Err(Error::config("this must be at least 1").at("/rows")),
            (Some(_), None) => {}
            (None, Some(share)) if (0.0..=1.0).contains(&share) => {}
            (None, Some(_)) => {
                return Err(Error::config("a share is between 0 and 1").at("/share"));
            }
            _ => {
                let error = Error::config("`sample` takes either `rows` or `share`");
                return Err(error.hint("`rows: 100` draws a hundred, `share: 0.1` a tenth"));
            }
        }
        if let Some(per) = &config.per {
            check_key(&rows, per, "/per")?;
        }
        let schema = rows.schema().clone();
        Ok(Planned::new(Self(config), [Some(Arc::clone(&schema)), Some(schema)]))
    }

    fn run(&self, run: &mut Run) -> Result<()> {
        let (seed, reader) = (run.seed(), run.table("rows")?);
        let mut spool = Spool::create(run, reader.schema())?;
        let (mut groups, mut before) = (HashMap::<u128, Group>::new(), 0);
        for rows in reader {
            run.services().check_cancelled()?;
            let rows = rows?;
            for (group, ticket) in tickets(&rows, &self.0, seed, before)? {
                groups.entry(group).or_default().push(ticket, self.0.most());
            }
            before += rows.num_rows();
            spool.write(&rows)?;
        }
        let last = groups.into_iter().map(|(name, group)| (name, group.last(&self.0)));
        let last: HashMap<_, _> = last.collect();
        before = 0;
        for rows in spool.read()? {
            run.services().check_cancelled()?;
            let rows = rows?;
            let drawn = tickets(&rows, &self.0, seed, before)?;
            let is_drawn = |(group, ticket): (u128, Ticket)| {
                Some(last.get(&group).copied().flatten().is_some_and(|last| ticket <= last))
            };
            let kept: BooleanArray = drawn.into_iter().map(is_drawn).collect();
            before += rows.num_rows();
            run.push("kept", &filter_record_batch(&rows, &kept)?)?;
            run.push("rest", &filter_record_batch(&rows, &not(&kept)?)?)?;
        }
        Ok(())
    }
}
