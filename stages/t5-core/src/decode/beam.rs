//! Beam search, step for step as `transformers` (from 4.50 on) does it, one sentence at a time; with groups of beams, as
//! it did until 4.56 (diverse beam search, Vijayakumar et al. 2016).

use std::{cmp::Reverse, collections::BTreeMap};

use paraloom_t5_kernels::peaks::{Again, Peaks, add_to_all};
use rayon::prelude::*;

use super::{Candidate, EarlyStopping, End, Options, Row, choose, choose::Context, not_numbers};
use crate::{
    Error, Result,
    config::Config,
    model::{InferenceModel, Lane, Packed, Session},
};

/// The score of a place that nobody took yet; the reference counts with this number instead of infinity.
const NOBODY: f32 = -1.0e9;

/// The rules of one search.
pub(super) struct Rules<'a> {
    /// Of one group.
    pub(super) beams: usize,
    pub(super) groups: usize,
    /// What a token costs for each beam of the groups before that goes on with it at the same place.
    pub(super) diversity_penalty: f64,
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
    token_scores: Vec<f32>,
    lane: Lane,
}

/// A sequence that ended.
#[derive(Clone)]
struct Ended {
    tokens: Vec<u32>,
    score: f32,
    token_scores: Vec<f32>,
}

/// The search for one row: groups of beams, each of which keeps away from what those before it write.
struct Sentence(Vec<Group>);

/// Beams that compete with each other.
#[derive(Clone)]
struct Group {
    open: Vec<Beam>,
    /// At most as many as beams, best first.
    ended: Vec<Ended>,
    done: bool,
}

/// The logits of some beams, which are the lanes of a batch from one on.
struct Lanes<'a> {
    logits: &'a mut [f32],
    first: usize,
    again: Again<'a>,
}

/// A way to go on: the beam, the token and the score of both.
struct Continuation {
    beam: usize,
    token: u32,
    score: f32,
    /// Tokens of spans that the text must have which it then has.
    progress: usize,
}

pub(super) fn search(
    model: &InferenceModel,
    rows: &[&Row],
    rules: &Rules<'_>,
    cancelled: &dyn Fn() -> bool,
) -> Result<Vec<Vec<Candidate>>> {
    let (config, start) = (model.config(), model.config().decoder_start_token_id);
    let sources = Packed::new(rows.iter().map(|row| row.ids.as_slice()));
    let mut session = Session::new(model, sources, rules.options.positions(rows.len()));
    let begin = |row| {
        let lane = Lane::new(row, start);
        let beam = Beam { tokens: vec![start], score: 0.0, token_scores: Vec::new(), lane };
        Sentence(vec![Group { open: vec![beam], ended: Vec::new(), done: false }; rules.groups])
    };
    let mut sentences: Vec<Sentence> = (0..rows.len()).map(begin).collect();
    while sentences.iter().any(|sentence| !sentence.is_done()) {
        if cancelled() {
            return Err(Error::Cancelled);
        }
        let mut lanes: Vec<Lane> =
            sentences.iter().flat_map(Sentence::beams).map(|beam| beam.lane.clone()).collect();
        let decoded = session.step(&mut lanes);
        let open = sentences.iter_mut().flat_map(Sentence::beams_mut);
        open.zip(lanes).for_each(|(beam, lane)| beam.lane = lane);
        session.network().with_logits(decoded, |mut logits, again| {
            let (mut steps, mut first) = (Vec::new(), 0);
            for (sentence, row) in sentences.iter_mut().zip(rows) {
                let beams = sentence.beams().count();
                let own = logits.split_off_mut(..beams * config.vocab_size).unwrap_or_default();
                let context = Context { row, eos: config.eos_token_id };
                steps.push((sentence, Lanes { logits: own, first, again }, context));
                first += beams;
            }
            steps.into_par_iter().for_each(|(sentence, lanes, context)| {
                sentence.go_on(lanes, rules, config, context);
            });
        })?;
        if let Some(broken) = sentences.iter().position(Sentence::has_nan) {
            return Err(not_numbers(broken));
        }
    }
    let candidates = |sentence: Sentence| sentence.candidates(rules, config.eos_token_id);
    Ok(sentences.into_iter().map(candidates).collect())
}

impl Beam {
    /// Its tokens and one more.
    fn followed_by(&self, token: u32) -> impl Iterator<Item = u32> {
        self.tokens.iter().copied().chain([token])
    }

    /// Its scores and that of one more token.
    fn scores_with(&self, way: &Continuation) -> Vec<f32> {
        self.token_scores.iter().copied().chain([way.score - self.score]).collect()
    }

    /// Whether it ends with one more token because of what its text is then.
    fn is_stopped(&self, token: u32, options: &Options) -> bool {
        !options.stop.is_empty()
            && options.are_stopped(&self.followed_by(token).skip(1).collect::<Vec<_>>())
    }
}

impl Sentence {
    fn is_done(&self) -> bool {
        self.0.iter().all(|group| group.done)
    }

    /// Whether a score is NaN. A beam of forbidden tokens only may have one of minus infinity.
    fn has_nan(&self) -> bool {
        let scores = self.0.iter().flat_map(|group| {
            let open = group.open.iter().map(|beam| beam.score);
            open.chain(group.ended.iter().map(|ended| ended.score))
        });
        scores.into_iter().any(f32::is_nan)
    }

    /// The open beams of the groups that still need them.
    fn beams(&self) -> impl Iterator<Item = &Beam> {
        self.0.iter().filter(|group| !group.done).flat_map(|group| &group.open)
    }

    fn beams_mut(&mut self) -> impl Iterator<Item = &mut Beam> {
        self.0.iter_mut().filter(|group| !group.done).flat_map(|group| &mut group.open)
    }

    /// One step of all groups; `lanes` are those of [`Sentence::beams`].
    fn go_on(
        &mut self,
        lanes: Lanes<'_>,
        rules: &Rules<'_>,
        config: &Config,
        context: Context<'_>,
    ) {
        let Lanes { mut logits, mut first, again } = lanes;
        // With what the groups before go on at this place.
        let mut taken = Vec::new();
        for group in &mut self.0 {
            if group.done {
                // As the reference does, which fills up a group that is done.
                taken.extend(std::iter::repeat_n(config.pad_token_id, rules.beams));
                continue;
            }
            let own = group.open.len() * config.vocab_size;
            let own = logits.split_off_mut(..own).unwrap_or_default();
            let tops: Vec<_> = (group.open.par_iter())
                .zip(own.par_chunks_exact_mut(config.vocab_size))
                .enumerate()
                .map(|(lane, (beam, logits))| {
                    let peaks = again.peaks(first + lane, logits);
                    rules.best_tokens(beam, logits, &peaks, &taken, context)
                })
                .collect();
            first += group.open.len();
            taken.extend(group.go_on(&tops, rules, context));
        }
    }

    /// The best of all groups.
    fn candidates(self, rules: &Rules<'_>, eos: u32) -> Vec<Candidate> {
        let mut ended: Vec<Ended> = self.0.into_iter().flat_map(|group| group.ended).collect();
        ended.sort_by(|a, b| b.score.total_cmp(&a.score));
        let candidate = |Ended { mut tokens, score, token_scores }: Ended| {
            tokens.remove(0);
            let end = End::of(&tokens, eos, rules.options);
            if end == End::Eos {
                tokens.pop();
            }
            Candidate { ids: tokens, end, score, token_scores }
        };
        ended.into_iter().take(rules.options.candidates).map(candidate).collect()
    }
}

impl Rules<'_> {
    /// The best tokens after a beam, with the scores of beam and token together; other groups have `taken` theirs.
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

    /// The same where something has to be in the text: no end without it, nothing that leaves no room for it, and the ways to
    /// go on with it whatever their scores.
    fn best_kept(
        &self,
        beam: &Beam,
        logits: &mut [f32],
        context: Context<'_>,
    ) -> Vec<(f32, usize)> {
        let Context { row, eos } = context;
        let missing = row.kept.missing(&beam.tokens[1..], &self.options.words);
        // Where nothing else is left, the next that is missing comes even if an option forbids it.
        let last = missing.next().first().map_or(eos, |next| *next) as usize;
        let last = (logits[last] + beam.score, last);
        choose::penalise(logits, &beam.tokens, self.options, context);
        add_to_all(logits, beam.score);
        if !missing.is_empty() {
            logits[eos as usize] = f32::NEG_INFINITY;
        }
        let mut best = Peaks::of(logits).top(logits, 2 * self.beams);
        best.truncate(2 * self.beams);
        let ways = missing.ways().map(|token| (logits[token as usize], token as usize));
        let ways: Vec<_> = ways.filter(|way| !best.contains(way)).collect();
        best.extend(ways);
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

    /// Ways to go on, the best first. Where some have more of what the text must have than others, those are in turns, the
    /// furthest first.
    fn in_order(&self, mut ways: Vec<Continuation>) -> Vec<Continuation> {
        ways.sort_by(|a, b| b.score.total_cmp(&a.score));
        let mut ranks = BTreeMap::new();
        let mut ranked: Vec<_> = ways
            .into_iter()
            .map(|way| {
                let rank = ranks.entry(way.progress).or_insert(0_usize);
                *rank += 1;
                (*rank, way)
            })
            .collect();
        if ranks.len() > 1 {
            ranked.sort_by_key(|(rank, way)| (*rank, Reverse(way.progress)));
        }
        ranked.into_iter().map(|(_, way)| way).take(2 * self.beams).collect()
    }

    /// A score by length, as candidates are compared.
    fn by_length(&self, score: f32, length: usize) -> f32 {
        score / (length as f64).powf(self.length_penalty) as f32
    }
}

impl Group {
    /// One step: twice as many continuations as beams, so that enough are left when some end. Returns the tokens that beams
    /// go on with, or would if there were room.
    fn go_on(
        &mut self,
        tops: &[Vec<(f32, usize)>],
        rules: &Rules<'_>,
        Context { row, eos }: Context<'_>,
    ) -> Vec<u32> {
        let (kept, options) = (&row.kept, rules.options);
        let mut ways = Vec::new();
        for (beam, top) in tops.iter().enumerate() {
            for &(score, token) in top {
                let token = token as u32;
                let progress = if kept.is_empty() {
                    0
                } else {
                    let tokens: Vec<u32> = self.open[beam].followed_by(token).skip(1).collect();
                    kept.missing(&tokens, &options.words).progress
                };
                ways.push(Continuation { beam, token, score, progress });
            }
        }
        let best = rules.in_order(ways);
        let written = self.open[0].tokens.len();
        let full = written >= options.max_new_tokens;
        let ends: Vec<bool> = best
            .iter()
            .map(|way| {
                full || way.token == eos || self.open[way.beam].is_stopped(way.token, options)
            })
            .collect();
        for (way, _) in best.iter().zip(&ends).take(rules.beams).filter(|(_, ends)| **ends) {
            self.end(way, rules.by_length(way.score, written));
        }
        self.ended.sort_by(|a, b| b.score.total_cmp(&a.score));
        self.ended.truncate(rules.beams);
        // A text that is complete takes no place of those that go on; one for which there is no more room does.
        let goes_on = |ends: bool| full || !ends;
        let going_on = || {
            let ways =
                best.iter().zip(&ends).filter(|(way, ends)| way.token != eos && goes_on(**ends));
            ways.take(rules.beams)
        };
        self.open =
            going_on().filter(|(_, ends)| !**ends).map(|(way, _)| self.follow(way)).collect();
        let best_score = match best.first() {
            // The reference looks at what ends now as well where there are groups.
            Some(best) if rules.groups > 1 => best.score,
            _ => self.open.iter().map(|open| open.score).reduce(f32::max).unwrap_or(NOBODY),
        };
        self.done = full || self.hopeless(best_score, rules, written);
        going_on().map(|(way, _)| way.token).collect()
    }

    fn end(&mut self, way: &Continuation, score: f32) {
        let beam = &self.open[way.beam];
        let tokens = beam.followed_by(way.token).collect();
        self.ended.push(Ended { tokens, score, token_scores: beam.scores_with(way) });
    }

    fn follow(&self, way: &Continuation) -> Beam {
        let mut beam = self.open[way.beam].clone();
        beam.token_scores = beam.scores_with(way);
        beam.tokens.push(way.token);
        beam.lane.token = way.token;
        beam.score = way.score;
        beam
    }

    /// Whether no open beam is worth following, the best of which has this score, now that `written` tokens are.
    fn hopeless(&self, best: f32, rules: &Rules<'_>, written: usize) -> bool {
        if self.open.is_empty() {
            return true;
        }
        if self.ended.len() < rules.beams {
            return false;
        }
        let length = match rules.early_stopping {
            EarlyStopping::Yes => return true,
            EarlyStopping::Never if rules.length_penalty > 0.0 => rules.options.max_new_tokens,
            EarlyStopping::No | EarlyStopping::Never => written,
        };
        let worst = self.ended.last().map_or(NOBODY, |ended| ended.score);
        rules.by_length(best, length) <= worst
    }
}
