//! T5, from files to numbers and back: reading and writing models in the Hugging Face layout, tokenizing, generating,
//! scoring and fine-tuning.
//!
//! The modules here know nothing of the engine; the stages are thin wrappers around them.
//!
//! * [`config`], [`folder`] and [`tokenizer`]: what is on disk.
//! * [`model`]: the weights and the forward pass, one definition for training and inference.
//! * [`decode`]: greedy search, beam search and sampling.
//! * [`score`]: exact probabilities of a closed set of labels.
//! * [`train`]: fine-tuning with byte-exact resume.
//! * [`kernels`]: the fused operations that this library adds to burn.

#![cfg_attr(
    feature = "torch",
    expect(
        deprecated,
        reason = "burn-tch is on its way out; it is in this library alone, which can go with it"
    )
)]

mod batch;
pub mod config;
pub mod decode;
pub mod device;
pub mod error;
pub mod folder;
pub mod kernels;
mod memory;
pub mod model;
pub mod random;
pub mod score;
mod stages;
pub mod tokenizer;
pub mod train;

pub use error::{Error, Result};
pub use stages::{Finetune, Generate, ModelStage, ScoreCola, ScoreLabels, ScoreLoss, ScoreStsb};

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
