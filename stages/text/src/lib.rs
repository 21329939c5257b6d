//! The table stages that ship with paraloom: `load`, `derive`, `threshold`, `dedup`, `rank`, `sample`, `split`, `evaluate`, `export`.

mod dedup;
mod derive;
mod evaluate;
mod export;
mod expression;
mod key;
mod load;
mod output;
mod partition;
mod rank;
mod sample;
mod split;
mod spool;
mod threshold;

pub use dedup::Dedup;
pub use derive::Derive;
pub use evaluate::Evaluate;
pub use export::Export;
pub use load::Load;
pub use rank::Rank;
pub use sample::Sample;
pub use split::Split;
pub use threshold::Threshold;

paraloom_sdk::export_stages! {
    whole: [Load, Dedup, Rank, Sample, Evaluate, Export],
    map: [Derive, Threshold, Split],
}
