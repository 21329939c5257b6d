//! The table stages that ship with paraloom: `load`, `threshold`, `evaluate`, `export`.

mod evaluate;
mod export;
mod load;
mod output;
mod threshold;

pub use evaluate::Evaluate;
pub use export::Export;
pub use load::Load;
pub use threshold::Threshold;

paraloom_sdk::export_stages! {
    whole: [Load, Evaluate, Export],
    map: [Threshold],
}
