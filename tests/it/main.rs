//! What users meet: the real binary, on directories of its own.
//!
//! One test binary, since each has to be linked; `cargo test --release --test it resume::` runs one module.

#[path = "../common/mod.rs"]
mod common;

mod abi;
mod backends;
mod cli;
mod diff;
mod expect;
mod hub;
mod incremental;
mod init;
mod isolated;
mod keys;
mod limits;
mod memory;
mod numbers;
mod report;
mod results;
mod resume;
mod serve;
mod signals;
mod tables;
mod together;
mod workers;
