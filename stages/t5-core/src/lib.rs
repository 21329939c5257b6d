//! T5, from files to numbers and back: reading and writing models in the Hugging Face layout, tokenizing, generating,
//! scoring and fine-tuning.
//!
//! Stages and pipelines are unknown here; `stages/t5` makes stages of it.
//!
//! * [`config`], [`folder`] and [`tokenizer`]: what is on disk.
//! * [`model`]: the weights and the forward pass, one definition for training and inference.
//! * [`decode`]: greedy search, beam search and sampling.
//! * [`score`]: exact probabilities of a closed set of labels.
//! * [`train`]: fine-tuning with byte-exact resume.
//! * [`operations`]: what a T5 computes with, fused operations that this library adds to burn.

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
pub mod memory;
pub mod model;
pub mod numeric;
pub mod operations;
pub mod random;
pub mod score;
pub mod tokenizer;
pub mod train;

pub use error::{Error, Result};
