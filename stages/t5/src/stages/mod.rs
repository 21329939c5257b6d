//! The stages: thin wrappers that bring the T5 library and the engine together.

mod adapter;
mod asked;
mod card;
mod examples;
mod finetune;
mod generate;
mod kept;
mod labels;
mod model;
mod names;
mod score;
mod searches;
mod shared;
mod tally;

pub use finetune::Finetune;
pub use generate::Generate;
pub use labels::ScoreLabels;
pub use model::ModelStage;
pub use score::{ScoreCola, ScoreLoss, ScoreStsb};
