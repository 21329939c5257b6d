//! How `generate` chooses tokens: the settings of its searches.

use paraloom_sdk::{Error, Result};
use paraloom_t5_core::decode::{Draw, EarlyStopping, Strategy};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

/// How tokens are drawn: by filters that come one after the other, in this order.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Sample {
    /// Below 1 makes probable tokens more probable.
    #[serde(default = "one_point")]
    #[schemars(range(min = 0.01, max = 100.0))]
    temperature: f64,
    /// Only the most probable tokens, this many; 0 takes all.
    #[serde(default)]
    top_k: usize,
    /// Only the most probable tokens that together have this probability.
    #[serde(default = "one_point")]
    #[schemars(range(min = 0.0, max = 1.0))]
    top_p: f64,
    /// Only tokens that are at least this share as probable as the most probable one; 0 takes all.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 1.0))]
    min_p: f64,
    /// Only tokens whose surprise is closest to the expected one, of together this probability.
    #[serde(default = "one_point")]
    #[schemars(range(min = 0.0, max = 1.0))]
    typical_p: f64,
    /// Only tokens of at least this probability; 0 takes all.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 1.0))]
    epsilon_cutoff: f64,
    /// The same, of less where many tokens are about as probable; 0 takes all.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 1.0))]
    eta_cutoff: f64,
}

/// How beams are kept.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Beam {
    /// How many; 1 is greedy search.
    #[schemars(range(min = 1, max = 256))]
    #[schemars(extend("x-paraloom-request" = json!({"maximum": 32, "multiplies": true})))]
    beams: usize,
    /// Deals the beams out to so many groups, each of which keeps away from what those before it write: texts that differ.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 256))]
    groups: usize,
    /// What a token costs in a group for each beam before it that has the same at the same place, in logarithms of
    /// probability.
    #[serde(default = "one_point")]
    #[schemars(range(min = 0.001, max = 1000.0))]
    diversity_penalty: f64,
    /// Above 0 favours longer texts.
    #[serde(default = "one_point")]
    length_penalty: f64,
    /// When to stop looking.
    #[serde(default)]
    early_stopping: Stopping,
}

/// When a beam search ends.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Stopping {
    /// As soon as there are as many texts as beams.
    Yes,
    /// When a better text is improbable.
    #[default]
    No,
    /// When there can be no better text.
    Never,
}

fn one() -> usize {
    1
}
fn one_point() -> f64 {
    1.0
}

/// The search for so many texts per row.
pub(super) fn strategy(
    sample: Option<Sample>,
    beam: Option<Beam>,
    candidates: usize,
) -> Result<Strategy> {
    Ok(match (sample, beam) {
        (Some(_), Some(_)) => {
            return Err(Error::config("say either `sample` or `beam`").at("/beam"));
        }
        (Some(sample), None) => Strategy::Sample(Draw {
            temperature: sample.temperature,
            top_k: sample.top_k,
            top_p: sample.top_p,
            min_p: sample.min_p,
            typical_p: sample.typical_p,
            epsilon_cutoff: sample.epsilon_cutoff,
            eta_cutoff: sample.eta_cutoff,
        }),
        // As the reference does.
        (None, Some(beam)) if beam.beams == 1 && candidates == 1 => Strategy::Greedy,
        (None, Some(beam)) if candidates > beam.beams => {
            let message = format!("{candidates} candidates need as many beams");
            return Err(Error::config(message).at("/beam/beams"));
        }
        (None, Some(beam)) if beam.beams % beam.groups != 0 => {
            let message =
                format!("{} beams cannot be dealt out to {} groups", beam.beams, beam.groups);
            return Err(Error::config(message).at("/beam/groups").hint("take a divisor"));
        }
        (None, Some(beam)) => Strategy::Beam {
            beams: beam.beams,
            groups: beam.groups,
            diversity_penalty: beam.diversity_penalty,
            length_penalty: beam.length_penalty,
            early_stopping: match beam.early_stopping {
                Stopping::Yes => EarlyStopping::Yes,
                Stopping::No => EarlyStopping::No,
                Stopping::Never => EarlyStopping::Never,
            },
        },
        (None, None) if candidates > 1 => {
            return Err(
                Error::config("several candidates need `sample` or `beam`").at("/candidates")
            );
        }
        (None, None) => Strategy::Greedy,
    })
}
