//! Beam search, step for step as `transformers` (from 4.50 on) does it, one sentence at a time.

use rayon::prelude::*;

use super::{Candidate, EarlyStopping, Options, Row, choose};
use crate::{
    Error, Result, kernels,
    model::{Lane, Model, Packed, Session},
};

/// The score of a place that nobody took yet; the reference counts with this number instead of infinity.
const NOBODY: f32 = -1.0e9;

/// The rules of one search.
pub(super) struct Rules<'a> {
    pub(super) beams: usize,
    pub(super) length_penalty: f64,
    pub(super) early_stopping: EarlyStopping,
    pub(super) options: &'a Options,
}

/// An open beam.
#[derive(Clone)]
struct Beam {
    /// Start token and what was written so far.
    tokens: Vec<u32>,
    /// Sum of log probabilities.
    score: f32,
    lane: Lane,
}

/// A sequence that ended.
#[derive(Clone)]
struct Ended {
    tokens: Vec<u32>,
    score: f32,
}

/// The search for one row.
struct Sentence {
    open: Vec<Beam>,
    /// At most as many as beams, best first.
    ended: Vec<Ended>,
    done: bool,
}

/// A way to go on: the beam, the token and the score of both.
struct Continuation {
    beam: usize,
    token: u32,
    score: f32,
}

pub(super) fn search(
    model: &Model,
    rows: &[&Row],
    rules: &Rules<'_>,
    cancelled: &dyn Fn() -> bool,
) -> Result<Vec<Vec<Candidate>>> {
    let (start, eos) = (model.config().decoder_start_token_id, model.config().eos_token_id);
    let sources = Packed::new(rows.iter().map(|row| row.ids.as_slice()));
    let mut session = Session::new(model, sources, rules.options.positions(rows.len()));
    let begin = |row| Beam { tokens: vec![start], score: 0.0, lane: Lane::new(row, start) };
    let mut sentences: Vec<Sentence> = (0..rows.len())
        .map(|row| Sentence { open: vec![begin(row)], ended: Vec::new(), done: false })
        .collect();
    while sentences.iter().any(|sentence| !sentence.done) {
        if cancelled() {
            return Err(Error::Cancelled);
        }
        let mut lanes: Vec<Lane> = beams(&sentences).map(|beam| beam.lane.clone()).collect();
        let decoded = session.step(&mut lanes);
        let open: Vec<&Beam> = beams(&sentences).collect();
        let tops = kernels::with_values(session.network().logits(decoded), |logits| {
            open.into_par_iter()
                .zip(logits.par_chunks_exact_mut(model.config().vocab_size))
                .map(|(beam, logits)| rules.best_tokens(beam, logits))
                .collect::<Vec<Vec<(f32, usize)>>>()
        })?;
        let (mut lanes, mut tops) = (lanes.into_iter(), tops.into_iter());
        for sentence in sentences.iter_mut().filter(|sentence| !sentence.done) {
            for (beam, lane) in sentence.open.iter_mut().zip(&mut lanes) {
                beam.lane = lane;
            }
            let count = sentence.open.len();
            let tops: Vec<_> = tops.by_ref().take(count).collect();
            sentence.go_on(&tops, rules, eos);
        }
    }
    Ok(sentences
        .into_iter()
        .map(|sentence| sentence.candidates(rules.options.candidates, eos))
        .collect())
}

/// The open beams of the sentences that still need them.
fn beams(sentences: &[Sentence]) -> impl Iterator<Item = &Beam> {
    sentences.iter().filter(|sentence| !sentence.done).flat_map(|sentence| &sentence.open)
}

impl Rules<'_> {
    /// The best tokens after a beam, with the scores of beam and token together.
    fn best_tokens(&self, beam: &Beam, logits: &mut [f32]) -> Vec<(f32, usize)> {
        let log_total = kernels::log_sum_exp(logits) as f32;
        for score in logits.iter_mut() {
            *score -= log_total;
        }
        choose::penalise(logits, &beam.tokens, self.options);
        for score in logits.iter_mut() {
            *score += beam.score;
        }
        choose::top(logits, 2 * self.beams)
    }

    /// A score by length, as candidates are compared.
    fn by_length(&self, score: f32, length: usize) -> f32 {
        score / (length as f64).powf(self.length_penalty) as f32
    }
}

impl Sentence {
    /// One step: twice as many continuations as beams, so that enough are left when some end.
    fn go_on(&mut self, tops: &[Vec<(f32, usize)>], rules: &Rules<'_>, eos: u32) {
        let mut best: Vec<Continuation> = tops
            .iter()
            .enumerate()
            .flat_map(|(beam, top)| {
                top.iter().map(move |&(score, token)| Continuation {
                    beam,
                    token: token as u32,
                    score,
                })
            })
            .collect();
        best.sort_by(|a, b| b.score.total_cmp(&a.score));
        best.truncate(2 * rules.beams);
        let written = self.open[0].tokens.len();
        let full = written >= rules.options.max_new_tokens;
        let ends = |way: &Continuation| full || way.token == eos;
        for way in best.iter().take(rules.beams).filter(|way| ends(way)) {
            self.end(way, rules.by_length(way.score, written));
        }
        self.ended.sort_by(|a, b| b.score.total_cmp(&a.score));
        self.ended.truncate(rules.beams);
        let next = best
            .iter()
            .filter(|way| !ends(way))
            .take(rules.beams)
            .map(|way| self.follow(way))
            .collect();
        self.open = next;
        self.done = full || self.hopeless(rules, written);
    }

    fn end(&mut self, way: &Continuation, score: f32) {
        let tokens = self.open[way.beam].tokens.iter().copied().chain([way.token]).collect();
        self.ended.push(Ended { tokens, score });
    }

    fn follow(&self, way: &Continuation) -> Beam {
        let mut beam = self.open[way.beam].clone();
        beam.tokens.push(way.token);
        beam.lane.token = way.token;
        beam.score = way.score;
        beam
    }

    /// Whether no open beam is worth following, now that `written` tokens are.
    fn hopeless(&self, rules: &Rules<'_>, written: usize) -> bool {
        let Some(open) = self.open.first() else { return true };
        if self.ended.len() < rules.beams {
            return false;
        }
        let length = match rules.early_stopping {
            EarlyStopping::Yes => return true,
            EarlyStopping::Never if rules.length_penalty > 0.0 => rules.options.max_new_tokens,
            EarlyStopping::No | EarlyStopping::Never => written,
        };
        let worst = self.ended.last().map_or(NOBODY, |ended| ended.score);
        rules.by_length(open.score, length) <= worst
    }

    fn candidates(self, count: usize, eos: u32) -> Vec<Candidate> {
        let candidate = |Ended { mut tokens, score }: Ended| {
            let ended = tokens.last() == Some(&eos);
            tokens.remove(0);
            if ended {
                tokens.pop();
            }
            Candidate { ids: tokens, ended, score }
        };
        self.ended.into_iter().take(count).map(candidate).collect()
    }
}
