//! Writing: from source tokens to the tokens of one or more targets.
//!
//! Results do not depend on who else is in the call: rows are sorted and batched inside, a row's randomness comes from
//! its own seed, and finished sequences leave the batch without a trace.

#![expect(clippy::float_cmp, reason = "a penalty of exactly 1 is none, and equal scores are equal")]

mod beam;
mod choose;
mod keep;
mod search;

use std::sync::Arc;

pub use self::keep::{Kept, Span, Words, numbers};
use crate::{Error, Result, batch::in_batches, model::InferenceModel};

/// A source and the seed of its randomness.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Row {
    /// The source's tokens, ended by `</s>`.
    pub ids: Vec<u32>,
    /// Decides, with the number of the candidate, every draw for this row.
    pub seed: u64,
    /// What candidates must have, as long as there is room for it.
    pub kept: Kept,
}

/// When beam search stops looking for better candidates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EarlyStopping {
    /// As soon as there are as many candidates as beams.
    Yes,
    /// When the best open beam would no longer make it, were it to end now.
    No,
    /// When no open beam can make it at any length.
    Never,
}

/// What a token is drawn from: filters that come one after the other, in this order.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Draw {
    /// Logits are divided by it; above 0.
    pub temperature: f64,
    /// Only the most probable so many; 0 for all.
    pub top_k: usize,
    /// Only the most probable that together have at least this probability; 1 for all.
    pub top_p: f64,
    /// Only those that have at least this share of the probability of the most probable one; 0 for all.
    pub min_p: f64,
    /// Only those whose surprise is closest to the expected one, of together this probability (locally typical sampling,
    /// Meister et al. 2022); 1 for all.
    pub typical_p: f64,
    /// Only those of at least this probability; 0 for all.
    pub epsilon_cutoff: f64,
    /// The same, of less where the distribution is flat (eta sampling, Hewitt et al. 2022); 0 for all.
    pub eta_cutoff: f64,
}

impl Draw {
    /// Whether a filter looks at the probabilities of all tokens.
    fn asks_for_all(&self) -> bool {
        self.typical_p < 1.0 || self.epsilon_cutoff > 0.0 || self.eta_cutoff > 0.0
    }
}

impl Default for Draw {
    /// From the whole distribution.
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            typical_p: 1.0,
            epsilon_cutoff: 0.0,
            eta_cutoff: 0.0,
        }
    }
}

/// How the next token is chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Strategy {
    /// The most probable one.
    Greedy,
    /// Drawn at random.
    Sample(Draw),
    /// The best of several sequences that are followed side by side.
    Beam {
        /// How many; above 1.
        beams: usize,
        /// Groups that they are dealt out to; each keeps away from what those before it write. 1 for none.
        groups: usize,
        /// What a token costs in a group for each beam before it that has the same at the same place; above 0.
        diversity_penalty: f64,
        /// A candidate's score is divided by its length to this power.
        length_penalty: f64,
        /// When to stop.
        early_stopping: EarlyStopping,
    },
}

/// The options of [`generate`].
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// How tokens are chosen.
    pub strategy: Strategy,
    /// Candidates per row; one for greedy search, at most the beams for beam search.
    pub candidates: usize,
    /// Most tokens per candidate, its end included.
    pub max_new_tokens: usize,
    /// Divides the scores of tokens that occurred already; 1 for none.
    pub repetition_penalty: f64,
    /// No run of so many tokens occurs twice; 0 to allow it.
    pub no_repeat_ngram_size: usize,
    /// No run of so many tokens of the source occurs; 0 to allow it.
    pub encoder_no_repeat_ngram_size: usize,
    /// Runs of tokens that do not occur.
    pub bad_words: Arc<[Vec<u32>]>,
    /// Tokens that a candidate has before its end, at least.
    pub min_new_tokens: usize,
    /// What every candidate begins with.
    pub begin: Arc<[u32]>,
    /// Texts that end a candidate which has one of them.
    pub stop: Arc<[String]>,
    /// What tokens add to a text; needed where there is a stop, or a row's candidates must have something.
    pub words: Arc<Words>,
    /// Sequences that are computed side by side, fewer of long sources.
    pub batch_size: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            strategy: Strategy::Greedy,
            candidates: 1,
            max_new_tokens: 128,
            repetition_penalty: 1.0,
            no_repeat_ngram_size: 0,
            encoder_no_repeat_ngram_size: 0,
            bad_words: Arc::default(),
            min_new_tokens: 0,
            begin: Arc::default(),
            stop: Arc::default(),
            words: Arc::default(),
            batch_size: 192,
        }
    }
}

/// Tokens of a sentence, more or less.
const SENTENCE: usize = 32;

impl Options {
    /// Sequences of one source that are computed side by side.
    fn lanes(&self) -> usize {
        match self.strategy {
            Strategy::Beam { beams, .. } => beams,
            _ => self.candidates,
        }
    }

    /// Whether any option changes what the model computes for a token.
    fn changes_scores(&self) -> bool {
        self.repetition_penalty != 1.0
            || self.no_repeat_ngram_size > 0
            || self.encoder_no_repeat_ngram_size > 0
            || self.min_new_tokens > 0
            || !self.bad_words.is_empty()
            || !self.begin.is_empty()
    }

    /// Whether a sequence, without its start token, has a text that ends it.
    fn are_stopped(&self, tokens: &[u32]) -> bool {
        !self.stop.is_empty() && self.words.are_stopped(tokens, &self.stop)
    }

    /// Whether a sequence, without its start token, leaves room for what the texts of a row must have.
    fn leave_room(&self, row: &Row, tokens: &[u32]) -> bool {
        row.kept.missing(tokens, &self.words).tokens() + tokens.len() <= self.max_new_tokens
    }

    /// Positions that are likely to be decoded for so many sources.
    fn positions(&self, sources: usize) -> usize {
        sources * self.lanes() * self.max_new_tokens.min(SENTENCE)
    }
}

/// One generated sequence.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// Its tokens, without start and end.
    pub ids: Vec<u32>,
    /// Why it ends there.
    pub end: End,
    /// Log probability of the tokens as the model has it (greedy, sampling), or the beam score.
    pub score: f32,
    /// Log probabilities of the tokens and of the end, if there is one, after the penalties where beams were searched.
    pub token_scores: Vec<f32>,
}

/// Why a sequence ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The model ended it.
    Eos,
    /// It has a text that ends it.
    Stop,
    /// There was no room for more.
    Length,
}

impl End {
    /// That of a sequence without its start token.
    fn of(tokens: &[u32], eos: u32, options: &Options) -> Self {
        match tokens.last() {
            Some(last) if *last == eos => Self::Eos,
            _ if options.are_stopped(tokens) => Self::Stop,
            _ => Self::Length,
        }
    }
}

/// Generates candidates for every row, in the order of `rows`; beam candidates come best first.
///
/// # Errors
/// When an option makes no sense, a row does not fit the model, the model computes NaN for it, or `cancelled` says so
/// between two tokens.
pub fn generate(
    model: &InferenceModel,
    rows: &[Row],
    options: &Options,
    cancelled: &(dyn Fn() -> bool + Sync),
) -> Result<Vec<Vec<Candidate>>> {
    check(model, options)?;
    rows.iter().try_for_each(|row| model.config().check_ids(&row.ids))?;
    let lengths: Vec<usize> = rows.iter().map(|row| row.ids.len()).collect();
    in_batches(&model.device(), &lengths, options.batch_size / options.lanes(), |batch| {
        let rows: Vec<&Row> = batch.iter().map(|&index| &rows[index]).collect();
        let written = match options.strategy {
            Strategy::Beam { beams, groups, diversity_penalty, length_penalty, early_stopping } => {
                let beams = beams / groups;
                let rules = beam::Rules {
                    beams,
                    groups,
                    diversity_penalty,
                    length_penalty,
                    early_stopping,
                    options,
                };
                beam::search(model, &rows, &rules, cancelled)
            }
            _ => search::search(model, &rows, options, cancelled),
        };
        written.map_err(|error| match error {
            Error::NotNumbers { row, what } => Error::NotNumbers { row: batch[row], what },
            error => error,
        })
    })
}

/// What a search says of the source with a number in its batch.
fn not_numbers(row: usize) -> Error {
    Error::NotNumbers { row, what: "scores" }
}

fn check(model: &InferenceModel, options: &Options) -> Result<()> {
    let refuse = |message: String| Err(Error::Invalid(message));
    if options.candidates == 0 || options.max_new_tokens == 0 {
        return refuse("candidates and max_new_tokens have to be at least 1".into());
    }
    if options.repetition_penalty.is_nan() || options.repetition_penalty <= 0.0 {
        return refuse("repetition_penalty has to be above 0".into());
    }
    if options.min_new_tokens > options.max_new_tokens {
        return refuse("min_new_tokens has to be at most max_new_tokens".into());
    }
    if options.stop.iter().any(String::is_empty) {
        return refuse("an empty text ends nothing".into());
    }
    options.bad_words.iter().try_for_each(|word| model.config().check_ids(word))?;
    if !options.begin.is_empty() {
        model.config().check_ids(&options.begin)?;
    }
    match options.strategy {
        Strategy::Greedy if options.candidates > 1 => {
            refuse("greedy search gives one candidate; use sampling or beams for more".into())
        }
        Strategy::Sample(draw) if draw.temperature.is_nan() || draw.temperature <= 0.0 => refuse(
            "temperature has to be above 0; use greedy search for the most probable tokens".into(),
        ),
        Strategy::Sample(Draw { top_p, min_p, typical_p, epsilon_cutoff, eta_cutoff, .. })
            if [top_p, min_p, typical_p, epsilon_cutoff, eta_cutoff]
                .iter()
                .any(|share| !(0.0..=1.0).contains(share)) =>
        {
            refuse("top_p, min_p, typical_p and the cutoffs have to be in [0, 1]".into())
        }
        Strategy::Beam { beams, .. } if beams < 2 || options.candidates > beams => {
            refuse("beam search needs at least 2 beams, and at least as many as candidates".into())
        }
        Strategy::Beam { beams, groups, .. } if groups == 0 || beams % groups != 0 => {
            refuse("beams have to be a multiple of groups".into())
        }
        Strategy::Beam { groups, diversity_penalty, .. }
            if groups > 1 && (diversity_penalty.is_nan() || diversity_penalty <= 0.0) =>
        {
            refuse("diversity_penalty has to be above 0".into())
        }
        Strategy::Beam { beams, .. } if 2 * beams > model.config().vocab_size => {
            refuse("there are more beams than the vocabulary has continuations for".into())
        }
        _ => Ok(()),
    }
}
