//! Settings of low-rank adapters.

use paraloom_t5_core::train::Lora;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How low-rank adapters are learnt.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct LoraConfig {
    /// Width of the adapters.
    #[serde(default = "eight")]
    #[schemars(range(min = 1, max = 4096))]
    rank: usize,
    /// The adapter counts `alpha / rank` times.
    #[serde(default = "eight_point")]
    #[schemars(range(min = 0.0, max = 100_000.0))]
    alpha: f64,
    /// Dropout before the adapters.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 0.9))]
    dropout: f64,
    /// Linear layers that get an adapter: q, k, v and o of attention, wi (or wi_0 and wi_1) and wo of the feed-forward layers.
    #[serde(default = "q_and_v")]
    #[schemars(length(min = 1))]
    targets: Vec<String>,
}

fn eight_point() -> f64 {
    8.0
}
fn q_and_v() -> Vec<String> {
    ["q", "v"].map(str::to_owned).into()
}

fn eight() -> usize {
    8
}

impl LoraConfig {
    /// The same as training is told.
    pub(super) fn options(&self) -> Lora {
        Lora {
            rank: self.rank,
            alpha: self.alpha,
            dropout: self.dropout,
            targets: self.targets.clone(),
        }
    }
}
