//! The engine in the process of the tests: many small pipelines at random, and failures of single file operations.

#[path = "../common/mod.rs"]
mod common;

mod changing;
mod edits;
mod faults;
mod rerun;
mod storable;
