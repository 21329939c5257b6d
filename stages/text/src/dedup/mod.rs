//! `dedup` keeps the first of rows that are the same, or nearly so.

mod near;

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, RecordBatch};
use paraloom_expr::normalise;
use paraloom_sdk::identity::ids;
use paraloom_sdk::{About, Error, PlanInputs, Planned, Port, Result, Run, Stage, Table};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::key::{as_text, check_key, digest};
use crate::partition::{check_free, partition, reason, reason_field};
use near::Neighbours;

/// Settings of `dedup`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("x-paraloom-per-request" = true))]
pub struct Config {
    /// The columns that rows are compared by. A value that is missing is the same as another one that is.
    #[schemars(length(min = 1))]
    by: Vec<String>,
    /// Compare to the letter. Otherwise neither case nor spacing counts, nor how a character is written: composed or not, in full width,
    /// with soft hyphens or other characters that nobody sees (Unicode's NFKC and case folding).
    #[serde(default)]
    exact: bool,
    /// Texts that are at least this similar count as the same: shared runs of characters over all (Jaccard), 0.5 to 1. Of pairs that
    /// are just as similar, one in a thousand may be missed; more similar ones hardly ever are. Left out, texts must be the same.
    /// Where nearly all rows are alike, as if made from one template, each is compared with each, and that takes its time.
    #[serde(default)]
    #[schemars(range(min = 0.5, max = 1.0), extend("x-paraloom-request" = true))]
    near: Option<f64>,
    /// How many characters long these runs are.
    #[serde(default = "five")]
    #[schemars(range(min = 1, max = 64))]
    ngram: usize,
    /// What the column of reasons is called. One that another stage has written is replaced.
    #[serde(default = "reason")]
    reason: String,
}

const fn five() -> usize {
    5
}

/// The stage.
pub struct Dedup(Config);

impl Stage for Dedup {
    type Config = Config;

    fn about() -> About {
        About::new("dedup", "1.1.0", "Keeps the first of rows that are the same, or nearly so.")
            .input(Port::table("rows", "The rows to sort out."))
            .input(
                Port::table("against", "Rows that count as seen, such as those to evaluate on.")
                    .optional()
                    .many(),
            )
            .output(Port::table("kept", "The first row of each kind."))
            .output(Port::table(
                "rejected",
                "The other rows; `reason` names the row that each is the same as.",
            ))
            .divides_rows()
    }

    fn plan(config: Config, inputs: &PlanInputs) -> Result<Planned<Self>> {
        let rows = inputs.table("rows")?;
        if config.by.is_empty() {
            return Err(Error::config("`by` names no column").at("/by"));
        }
        if config.near.is_some_and(|near| !(0.5..=1.0).contains(&near)) {
            return Err(Error::config("`near` is between 0.5 and 1").at("/near"));
        }
        if config.ngram == 0 {
            return Err(Error::config("`ngram` is at least 1").at("/ngram"));
        }
        let check = |table: &Table| {
            let mut columns = config.by.iter().enumerate();
            columns.try_for_each(|(at, name)| check_key(table, name, &format!("/by/{at}")))
        };
        check(&rows)?;
        check_free(&rows, &reason_field(&config.reason), "reason")?;
        inputs.tables("against").try_for_each(|(_, table)| check(&table))?;
        let outputs = [
            Some(Arc::clone(rows.schema())),
            Some(rows.with_fields([reason_field(&config.reason)])),
        ];
        Ok(Planned::new(Self(config), outputs))
    }

    fn run(&self, run: &mut Run) -> Result<()> {
        let services = run.services();
        let mut seen = Seen::new(&self.0);
        let mut done = 0;
        let mut look_up = |rows: &RecordBatch, name: &dyn Fn(&str) -> String| {
            let own = ids(rows)?;
            let mut reasons = Vec::with_capacity(rows.num_rows());
            for (row, text) in texts(&self.0, rows)?.into_iter().enumerate() {
                // A row that is nearly like all others takes its time.
                services.check_cancelled()?;
                reasons.push(seen.find_or_add(&text, || name(own.value(row))));
            }
            done += rows.num_rows() as u64;
            services.progress(done, 0, "rows");
            Ok::<_, Error>(reasons)
        };
        for (label, reader) in run.tables("against") {
            for rows in reader {
                look_up(&rows?, &|id| format!("{id} of `{label}`"))?;
            }
        }
        for rows in run.table("rows")? {
            let rows = rows?;
            let reasons = look_up(&rows, &str::to_owned)?;
            let rows = partition(&rows, reasons, &self.0.reason)?;
            run.push("kept", &rows.kept)?;
            run.push("rejected", &rows.rejected)?;
        }
        Ok(())
    }
}

/// What each row is compared by.
fn texts(config: &Config, rows: &RecordBatch) -> Result<Vec<String>> {
    let columns = config.by.iter().map(|name| as_text(rows, name)).collect::<Result<Vec<_>>>()?;
    let text = |row: usize| {
        let mut text = String::new();
        for column in &columns {
            let value = if column.is_valid(row) { column.value(row) } else { "\0" };
            if config.exact {
                text.push_str(value);
            } else {
                for word in normalise(value).split_whitespace() {
                    text.push_str(word);
                    text.push(' ');
                }
            }
            // Between columns, so that `ab`, `c` is not `a`, `bc`.
            text.push('\u{1f}');
        }
        text
    };
    Ok((0..rows.num_rows()).map(text).collect())
}

/// The rows so far, of which no two are the same.
struct Seen {
    names: Vec<Box<str>>,
    same: HashMap<u128, usize>,
    near: Option<Neighbours>,
}

impl Seen {
    fn new(config: &Config) -> Self {
        let near = config.near.map(|near| Neighbours::new(near, config.ngram));
        Self { names: Vec::new(), same: HashMap::new(), near }
    }

    /// Why `text` is not new; if it is, it is remembered under a name.
    fn find_or_add(&mut self, text: &str, name: impl FnOnce() -> String) -> Option<String> {
        let hash = digest(text);
        if let Some(at) = self.same.get(&hash) {
            return Some(format!("the same as {}", self.names[*at]));
        }
        if let Some(near) = &mut self.near
            && let Some((at, similarity)) = near.find_or_add(text)
        {
            // Rounded down, so that 0.999 is not told as 1.00.
            let similarity = (similarity * 100.0).floor() / 100.0;
            return Some(format!("{similarity:.2} similar to {}", self.names[at]));
        }
        self.same.insert(hash, self.names.len());
        self.names.push(name().into());
        None
    }
}
