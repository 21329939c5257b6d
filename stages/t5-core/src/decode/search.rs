//! Greedy search and sampling: every candidate is a lane of its own, which leaves the batch when it is finished.

use paraloom_t5_kernels::peaks::Peaks;
use rayon::prelude::*;

use super::{Candidate, End, Options, Row, Strategy, choose, choose::Context, not_numbers};
use crate::{
    Error, Result,
    model::{InferenceModel, Lane, Sequences, Session},
};

/// A candidate in progress.
struct Hypothesis {
    row: usize,
    candidate: usize,
    seed: u64,
    /// The start token and the tokens so far.
    tokens: Vec<u32>,
    /// The remaining tokens of a span, the last first.
    pending: Vec<u32>,
    token_scores: Vec<f32>,
}

pub(super) fn search(
    model: &InferenceModel,
    rows: &[&Row],
    options: &Options,
    cancelled: &dyn Fn() -> bool,
) -> Result<Vec<Vec<Candidate>>> {
    let start = model.config().decoder_start_token_id;
    let eos = model.config().eos_token_id;
    let sources = Sequences::new(rows.iter().map(|row| row.ids.as_slice()));
    let mut session = Session::new(model, sources, options.positions(rows.len()));
    let begin = |(row, candidate): (usize, usize)| Hypothesis {
        row,
        candidate,
        seed: rows[row].seed,
        tokens: vec![start],
        pending: Vec::new(),
        token_scores: Vec::new(),
    };
    let pairs = (0..rows.len())
        .flat_map(|row| (0..options.candidates).map(move |candidate| (row, candidate)));
    let mut hypotheses: Vec<Hypothesis> = pairs.map(begin).collect();
    let mut lanes: Vec<Lane> =
        hypotheses.iter().map(|hypothesis| Lane::new(hypothesis.row, start)).collect();
    let mut done: Vec<Vec<(usize, Candidate)>> = vec![Vec::new(); rows.len()];
    while !lanes.is_empty() {
        if cancelled() {
            return Err(Error::Cancelled);
        }
        let decoded = session.step(&mut lanes);
        session.network().with_logits(decoded, |logits, rescorer| {
            hypotheses
                .par_iter_mut()
                .zip(logits.par_chunks_exact_mut(model.config().vocab_size))
                .enumerate()
                .for_each(|(lane, (hypothesis, logits))| {
                    let context = Context { row: rows[hypothesis.row], eos };
                    let peaks = rescorer.peaks(lane, logits);
                    hypothesis.extend(logits, peaks, options, context);
                });
        })?;
        let is_broken = |hypothesis: &&Hypothesis| {
            hypothesis.token_scores.last().is_some_and(|x| !x.is_finite())
        };
        if let Some(broken) = hypotheses.iter().find(is_broken) {
            return Err(not_numbers(broken.row));
        }
        let mut unfinished = Vec::with_capacity(hypotheses.len());
        let mut open = Vec::with_capacity(lanes.len());
        for (hypothesis, mut lane) in hypotheses.into_iter().zip(lanes) {
            lane.token = hypothesis.last();
            let is_full = hypothesis.tokens.len() > options.max_new_tokens;
            if is_full || lane.token == eos || options.are_stopped(&hypothesis.tokens[1..]) {
                done[hypothesis.row].push((hypothesis.candidate, hypothesis.finish(eos, options)));
            } else {
                unfinished.push(hypothesis);
                open.push(lane);
            }
        }
        (hypotheses, lanes) = (unfinished, open);
    }
    let in_order = |mut candidates: Vec<(usize, Candidate)>| {
        candidates.sort_by_key(|(number, _)| *number);
        candidates.into_iter().map(|(_, candidate)| candidate).collect()
    };
    Ok(done.into_iter().map(in_order).collect())
}

impl Hypothesis {
    /// Chooses the next token by the logits.
    fn extend(
        &mut self,
        logits: &mut [f32],
        mut peaks: Peaks,
        options: &Options,
        context: Context<'_>,
    ) {
        let log_total = peaks.log_sum_exp(logits) as f32;
        if log_total.is_nan() {
            self.token_scores.push(log_total);
            self.tokens.push(context.eos);
            return;
        }
        let untouched = |token: usize, scores: &[f32]| scores[token] - log_total;
        let kept = &context.row.kept;
        let changes =
            options.repetition_penalty != 1.0 || !options.begin.is_empty() || !kept.is_empty();
        let original = changes.then(|| logits.to_vec());
        if options.changes_scores() || !kept.is_empty() {
            choose::penalise(logits, &self.tokens, options, context);
            peaks = Peaks::of(logits);
        }
        let choose = || match options.strategy {
            Strategy::Sample(how) => {
                let random = choose::draw(self.seed, self.candidate, self.tokens.len());
                choose::sample(logits, &peaks, &how, random)
            }
            _ => peaks.position(logits),
        };
        let token = match self.pending.pop() {
            Some(token) => token,
            None if kept.is_empty() => choose() as u32,
            None => self.constrain(choose() as u32, options, context),
        };
        self.token_scores.push(untouched(token as usize, original.as_deref().unwrap_or(logits)));
        self.tokens.push(token);
    }

    /// The chosen token; or the next one of a required span, if the text would otherwise end without it or leave no room for it.
    fn constrain(
        &mut self,
        chosen: u32,
        options: &Options,
        Context { row, eos }: Context<'_>,
    ) -> u32 {
        let written = &self.tokens[1..];
        let missing = row.kept.missing(written, &options.words);
        let longer: Vec<u32> = written.iter().copied().chain([chosen]).collect();
        if chosen == eos && missing.is_empty() || chosen != eos && options.leave_room(row, &longer)
        {
            return chosen;
        }
        match missing.next() {
            [first, rest @ ..] => {
                self.pending = rest.iter().rev().copied().collect();
                *first
            }
            [] => eos,
        }
    }

    fn last(&self) -> u32 {
        self.tokens.last().copied().unwrap_or_default()
    }

    fn finish(mut self, eos: u32, options: &Options) -> Candidate {
        self.tokens.remove(0);
        let end = End::of(&self.tokens, eos, options);
        if end == End::Eos {
            self.tokens.pop();
        }
        let score = self.token_scores.iter().sum();
        Candidate { ids: self.tokens, end, score, token_scores: self.token_scores }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Draw;
    use super::*;

    #[test]
    fn nan_and_infinite_logits_give_nan_scores() {
        let strategies = [Strategy::Greedy, Strategy::Sample(Draw { top_k: 3, ..Draw::default() })];
        for (strategy, logit) in
            strategies.into_iter().flat_map(|one| [(one, f32::NAN), (one, f32::INFINITY)])
        {
            let mut hypothesis = Hypothesis {
                row: 0,
                candidate: 0,
                seed: 1,
                tokens: vec![0],
                pending: Vec::new(),
                token_scores: Vec::new(),
            };
            let options = Options { strategy, ..Options::default() };
            let row = Row { ids: vec![1], ..Row::default() };
            let (mut logits, context) = ([logit; 70], Context { row: &row, eos: 1 });
            let peaks = Peaks::of(&logits);
            hypothesis.extend(&mut logits, peaks, &options, context);
            assert!(hypothesis.token_scores[0].is_nan(), "{strategy:?}, {logit}");
        }
    }
}
