//! Metrics of texts beside references: BLEU and chrF as sacreBLEU has them, ROUGE as rouge-score.
//!
//! [`bleu::Counts`] and [`chrf::Counts`] of texts add up to those of a corpus; [`rouge::scores`] are of one text, and a corpus has
//! their mean. `stages/text/tests/evaluate.rs` holds all of them to recordings of the two libraries.

pub mod bleu;
pub mod chrf;
pub mod rouge;
pub mod words;
