//! Beam search, step for step as `transformers` (from 4.50 on) does it, row by row; with groups of beams as it did
//! until 4.56 (diverse beam search, Vijayakumar et al. 2016).

use std::{cmp::Reverse, collections::BTreeMap};

use paraloom_t5_kernels::peaks::{Peaks, Rescorer, add_to_all};
use rayon::prelude::*;

use super::{Candidate, EarlyStopping, End, Options, Row, choose, choose::Context, not_numbers};
use crate::{
    Error, Result,
    config::Config,
    model::{InferenceModel, Lane, Sequences, Session},
};

/// The score of an empty slot; the reference has this value instead of minus infinity.
const EMPTY: f32 = -1.0e9;

/// The settings of a search.
pub(super) struct Rules<'a> {
    /// Beams of a group.
    pub(super) beams: usize,
    pub(super) groups: usize,
    /// Subtracted from the score of a token for each beam of an earlier group that has it at the same position.
    pub(super) diversity_penalty: f64,
    pub(super) length_penalty: f64,
    pub(super) early_stopping: EarlyStopping,
    pub(super) options: &'a Options,
}

/// A hypothesis that can be extended.
#[derive(Clone)]
struct Beam {
    /// The start token and the tokens so far.
    tokens: Vec<u32>,
    /// Sum of log probabilities.
    score: f32,
    token_scores: Vec<f32>,
    lane: Lane,
}

/// A finished hypothesis.
#[derive(Clone)]
struct Finished {
    tokens: Vec<u32>,
    score: f32,
    token_scores: Vec<f32>,
}

/// The search for one row: groups of beams, each of which is penalized for the tokens of earlier groups.
struct RowSearch(Vec<Group>);

/// Beams that compete.
#[derive(Clone)]
struct Group {
    open: Vec<Beam>,
    /// At most as many as beams, best first.
    finished: Vec<Finished>,
    done: bool,
}

/// The logits of the beams of a row.
struct BeamLogits<'a> {
    logits: &'a mut [f32],
    /// The first beam's lane in the batch.
    first: usize,
    rescorer: Rescorer<'a>,
}

/// A beam extended by a token, with the score of both.
struct Continuation {
    beam: usize,
    token: u32,
    score: f32,
    /// How many tokens of required spans it then has.
    progress: usize,
}

pub(super) fn search(
    model: &InferenceModel,
    rows: &[&Row],
    rules: &Rules<'_>,
    cancelled: &dyn Fn() -> bool,
) -> Result<Vec<Vec<Candidate>>> {
    let (config, start) = (model.config(), model.config().decoder_start_token_id);
    let sources = Sequences::new(rows.iter().map(|row| row.ids.as_slice()));
    let mut session = Session::new(model, sources, rules.options.positions(rows.len()));
    let begin = |row| {
        let lane = Lane::new(row, start);
        let beam = Beam { tokens: vec![start], score: 0.0, token_scores: Vec::new(), lane };
        RowSearch(vec![Group { open: vec![beam], finished: Vec::new(), done: false }; rules.groups])
    };
    let mut searches: Vec<RowSearch> = (0..rows.len()).map(begin).collect();
    while searches.iter().any(|search| !search.is_done()) {
        if cancelled() {
            return Err(Error::Cancelled);
        }
        let mut lanes: Vec<Lane> =
            searches.iter().flat_map(RowSearch::beams).map(|beam| beam.lane.clone()).collect();
        let decoded = session.step(&mut lanes);
        let open = searches.iter_mut().flat_map(RowSearch::beams_mut);
        open.zip(lanes).for_each(|(beam, lane)| beam.lane = lane);
        session.network().with_logits(decoded, |mut logits, rescorer| {
            let (mut steps, mut first) = (Vec::new(), 0);
            for (search, row) in searches.iter_mut().zip(rows) {
                let beams = search.beams().count();
                let own = logits.split_off_mut(..beams * config.vocab_size).unwrap_or_default();
                let context = Context { row, eos: config.eos_token_id };
                steps.push((search, BeamLogits { logits: own, first, rescorer }, context));
                first += beams;
            }
            steps.into_par_iter().for_each(|(search, lanes, context)| {
                search.step(lanes, rules, config, context);
            });
        })?;
        if let Some(broken) = searches.iter().position(RowSearch::has_nan) {
            return Err(not_numbers(broken));
        }
    }
    let candidates = |search: RowSearch| search.candidates(rules, config.eos_token_id);
    Ok(searches.into_iter().map(candidates).collect())
}

impl Beam {
    /// Its tokens and `token`.
    fn followed_by(&self, token: u32) -> impl Iterator<Item = u32> {
        self.tokens.iter().copied().chain([token])
    }

    /// Its token scores and that of the continuation.
    fn scores_with(&self, continuation: &Continuation) -> Vec<f32> {
        self.token_scores.iter().copied().chain([continuation.score - self.score]).collect()
    }

    /// Whether `token` completes a stop sequence.
    fn is_stopped(&self, token: u32, options: &Options) -> bool {
        !options.stop.is_empty()
            && options.are_stopped(&self.followed_by(token).skip(1).collect::<Vec<_>>())
    }
}

impl RowSearch {
    fn is_done(&self) -> bool {
        self.0.iter().all(|group| group.done)
    }

    /// Whether a score is NaN. Minus infinity is allowed: all tokens of a beam may be forbidden.
    fn has_nan(&self) -> bool {
        let scores = self.0.iter().flat_map(|group| {
            let open = group.open.iter().map(|beam| beam.score);
            open.chain(group.finished.iter().map(|finished| finished.score))
        });
        scores.into_iter().any(f32::is_nan)
    }

    /// The open beams of unfinished groups.
    fn beams(&self) -> impl Iterator<Item = &Beam> {
        self.0.iter().filter(|group| !group.done).flat_map(|group| &group.open)
    }

    fn beams_mut(&mut self) -> impl Iterator<Item = &mut Beam> {
        self.0.iter_mut().filter(|group| !group.done).flat_map(|group| &mut group.open)
    }

    /// One step of all groups; `lanes` has the logits of [`RowSearch::beams`].
    fn step(
        &mut self,
        lanes: BeamLogits<'_>,
        rules: &Rules<'_>,
        config: &Config,
        context: Context<'_>,
    ) {
        let BeamLogits { mut logits, mut first, rescorer } = lanes;
        // The tokens that earlier groups have at this position.
        let mut taken = Vec::new();
        for group in &mut self.0 {
            if group.done {
                // The reference pads a finished group.
                taken.extend(std::iter::repeat_n(config.pad_token_id, rules.beams));
                continue;
            }
            let own = group.open.len() * config.vocab_size;
            let own = logits.split_off_mut(..own).unwrap_or_default();
            let tops: Vec<_> = (group.open.par_iter())
                .zip(own.par_chunks_exact_mut(config.vocab_size))
                .enumerate()
                .map(|(lane, (beam, logits))| {
                    let peaks = rescorer.peaks(first + lane, logits);
                    rules.best_tokens(beam, logits, &peaks, &taken, context)
                })
                .collect();
            first += group.open.len();
            taken.extend(group.step(&tops, rules, context));
        }
    }

    /// The best candidates of all groups.
    fn candidates(self, rules: &Rules<'_>, eos: u32) -> Vec<Candidate> {
        let mut finished: Vec<Finished> =
            self.0.into_iter().flat_map(|group| group.finished).collect();
        finished.sort_by(|a, b| b.score.total_cmp(&a.score));
        let candidate = |Finished { mut tokens, score, token_scores }: Finished| {
            tokens.remove(0);
            let end = End::of(&tokens, eos, rules.options);
            if end == End::Eos {
                tokens.pop();
            }
            Candidate { ids: tokens, end, score, token_scores }
        };
        finished.into_iter().take(rules.options.candidates).map(candidate).collect()
    }
}

impl Rules<'_> {
    /// The best tokens after a beam, with the scores of beam and token together; `taken` are those of earlier groups.
    fn best_tokens(
        &self,
        beam: &Beam,
        logits: &mut [f32],
        peaks: &Peaks,
        taken: &[u32],
        context: Context<'_>,
    ) -> Vec<(f32, usize)> {
        let log_total = peaks.log_sum_exp(logits) as f32;
        if log_total.is_nan() {
            return vec![(log_total, 0)];
        }
        add_to_all(logits, -log_total);
        for token in taken {
            logits[*token as usize] -= self.diversity_penalty as f32;
        }
        if !context.row.kept.is_empty() {
            return self.best_kept(beam, logits, context);
        }
        choose::penalise(logits, &beam.tokens, self.options, context);
        add_to_all(logits, beam.score);
        let mut best = Peaks::of(logits).top(logits, 2 * self.beams);
        best.truncate(2 * self.beams);
        best
    }

    /// The same with required spans: no end without them, no token that leaves no room for them, and the tokens that continue them
    /// whatever their scores.
    fn best_kept(
        &self,
        beam: &Beam,
        logits: &mut [f32],
        context: Context<'_>,
    ) -> Vec<(f32, usize)> {
        let Context { row, eos } = context;
        let missing = row.kept.missing(&beam.tokens[1..], &self.options.words);
        // The last resort: the next missing token, even if an option forbids it.
        let last = missing.next().first().map_or(eos, |next| *next) as usize;
        let last = (logits[last] + beam.score, last);
        choose::penalise(logits, &beam.tokens, self.options, context);
        add_to_all(logits, beam.score);
        if !missing.is_empty() {
            logits[eos as usize] = f32::NEG_INFINITY;
        }
        let mut best = Peaks::of(logits).top(logits, 2 * self.beams);
        best.truncate(2 * self.beams);
        let continuations =
            missing.continuations().map(|token| (logits[token as usize], token as usize));
        let continuations: Vec<_> =
            continuations.filter(|continuation| !best.contains(continuation)).collect();
        best.extend(continuations);
        best.retain(|(score, token)| {
            let tokens: Vec<u32> = beam.followed_by(*token as u32).skip(1).collect();
            let is_end = *token == eos as usize;
            *score > f32::NEG_INFINITY && (is_end || self.options.leave_room(row, &tokens))
        });
        if best.is_empty() {
            best.push(last);
        }
        best
    }

    /// The best continuations, the best first. Where they differ in progress they take turns, those of most progress first.
    fn in_order(&self, mut continuations: Vec<Continuation>) -> Vec<Continuation> {
        continuations.sort_by(|a, b| b.score.total_cmp(&a.score));
        let mut ranks = BTreeMap::new();
        let mut ranked: Vec<_> = continuations
            .into_iter()
            .map(|continuation| {
                let rank = ranks.entry(continuation.progress).or_insert(0_usize);
                *rank += 1;
                (*rank, continuation)
            })
            .collect();
        if ranks.len() > 1 {
            ranked.sort_by_key(|(rank, continuation)| (*rank, Reverse(continuation.progress)));
        }
        ranked.into_iter().map(|(_, continuation)| continuation).take(2 * self.beams).collect()
    }

    /// A score with the length penalty.
    fn by_length(&self, score: f32, length: usize) -> f32 {
        score / (length as f64).powf(self.length_penalty) as f32
    }
}

impl Group {
    /// One step: twice as many continuations as beams, so that enough are left when some finish. Returns the tokens that beams are
    /// extended by, or would be if there were room.
    fn step(
        &mut self,
        tops: &[Vec<(f32, usize)>],
        rules: &Rules<'_>,
        Context { row, eos }: Context<'_>,
    ) -> Vec<u32> {
        let (kept, options) = (&row.kept, rules.options);
        let mut continuations = Vec::new();
        for (beam, top) in tops.iter().enumerate() {
            for &(score, token) in top {
                let token = token as u32;
                let progress = if kept.is_empty() {
                    0
                } else {
                    let tokens: Vec<u32> = self.open[beam].followed_by(token).skip(1).collect();
                    kept.missing(&tokens, &options.words).progress
                };
                continuations.push(Continuation { beam, token, score, progress });
            }
        }
        let best = rules.in_order(continuations);
        let written = self.open[0].tokens.len();
        let full = written >= options.max_new_tokens;
        let finishes: Vec<bool> = best
            .iter()
            .map(|continuation| {
                full || continuation.token == eos
                    || self.open[continuation.beam].is_stopped(continuation.token, options)
            })
            .collect();
        for (continuation, _) in
            best.iter().zip(&finishes).take(rules.beams).filter(|(_, finishes)| **finishes)
        {
            self.end(continuation, rules.by_length(continuation.score, written));
        }
        self.finished.sort_by(|a, b| b.score.total_cmp(&a.score));
        self.finished.truncate(rules.beams);
        // A complete text does not take the slot of an open beam; one that ran out of room does.
        let goes_on = |finishes: bool| full || !finishes;
        let going_on = || {
            let continuations = best.iter().zip(&finishes).filter(|(continuation, finishes)| {
                continuation.token != eos && goes_on(**finishes)
            });
            continuations.take(rules.beams)
        };
        self.open = going_on()
            .filter(|(_, finishes)| !**finishes)
            .map(|(continuation, _)| self.follow(continuation))
            .collect();
        let best_score = match best.first() {
            // With groups, the reference includes what finishes now.
            Some(best) if rules.groups > 1 => best.score,
            _ => self.open.iter().map(|open| open.score).reduce(f32::max).unwrap_or(EMPTY),
        };
        self.done = full || self.cannot_improve(best_score, rules, written);
        going_on().map(|(continuation, _)| continuation.token).collect()
    }

    fn end(&mut self, continuation: &Continuation, score: f32) {
        let beam = &self.open[continuation.beam];
        let tokens = beam.followed_by(continuation.token).collect();
        self.finished.push(Finished {
            tokens,
            score,
            token_scores: beam.scores_with(continuation),
        });
    }

    fn follow(&self, continuation: &Continuation) -> Beam {
        let mut beam = self.open[continuation.beam].clone();
        beam.token_scores = beam.scores_with(continuation);
        beam.tokens.push(continuation.token);
        beam.lane.token = continuation.token;
        beam.score = continuation.score;
        beam
    }

    /// Whether no open beam can become a candidate: the best has this score after `written` tokens.
    fn cannot_improve(&self, best: f32, rules: &Rules<'_>, written: usize) -> bool {
        if self.open.is_empty() {
            return true;
        }
        if self.finished.len() < rules.beams {
            return false;
        }
        let length = match rules.early_stopping {
            EarlyStopping::Yes => return true,
            EarlyStopping::Never if rules.length_penalty > 0.0 => rules.options.max_new_tokens,
            EarlyStopping::No | EarlyStopping::Never => written,
        };
        let worst = self.finished.last().map_or(EMPTY, |finished| finished.score);
        rules.by_length(best, length) <= worst
    }
}
