//! What a library says of itself.

use paraloom_pipeline::StageInfo;
use serde::{Deserialize, Serialize};

/// What a library says of itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Description {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) built_with: String,
    pub(crate) stages: Vec<StageInfo>,
}
