//! The stages of T5: thin wrappers that bring the T5 library (`stages/t5-core`) and the engine together.

mod adapter;
mod asked;
mod card;
mod examples;
mod finetune;
mod generate;
mod kept;
mod labels;
mod memory;
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

// The loops read whole registers, and tiles, from wherever a block of memory begins.
use paraloom_sdk::CacheLines;

#[global_allocator]
static ALLOCATOR: paraloom_sdk::OrExit<CacheLines> =
    paraloom_sdk::OrExit(CacheLines(std::alloc::System));

paraloom_sdk::export_stages! {
    allocator: own,
    whole: [ModelStage, Finetune],
    map: [Generate, ScoreStsb, ScoreCola, ScoreLabels, ScoreLoss],
}
