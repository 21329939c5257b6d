//! Greedy search and sampling: every candidate is a lane of its own and leaves when it ends.

use rayon::prelude::*;

use super::{Candidate, Options, Row, Strategy, choose, choose::Context, not_numbers};
use crate::{
    Error, Result,
    kernels::Peaks,
    model::{Lane, Model, Packed, Session},
};

/// A candidate that is being written.
struct Writing {
    row: usize,
    candidate: usize,
    seed: u64,
    /// Start token and what was written so far.
    tokens: Vec<u32>,
    score: f32,
}

pub(super) fn search(
    model: &Model,
    rows: &[&Row],
    options: &Options,
    cancelled: &dyn Fn() -> bool,
) -> Result<Vec<Vec<Candidate>>> {
    let start = model.config().decoder_start_token_id;
    let eos = model.config().eos_token_id;
    let sources = Packed::new(rows.iter().map(|row| row.ids.as_slice()));
    let mut session = Session::new(model, sources, options.positions(rows.len()));
    let begin = |(row, candidate): (usize, usize)| Writing {
        row,
        candidate,
        seed: rows[row].seed,
        tokens: vec![start],
        score: 0.0,
    };
    let pairs = (0..rows.len())
        .flat_map(|row| (0..options.candidates).map(move |candidate| (row, candidate)));
    let mut writings: Vec<Writing> = pairs.map(begin).collect();
    let mut lanes: Vec<Lane> =
        writings.iter().map(|writing| Lane::new(writing.row, start)).collect();
    let mut done: Vec<Vec<(usize, Candidate)>> = vec![Vec::new(); rows.len()];
    while !lanes.is_empty() {
        if cancelled() {
            return Err(Error::Cancelled);
        }
        let decoded = session.step(&mut lanes);
        session.network().with_logits(decoded, |logits, again| {
            writings
                .par_iter_mut()
                .zip(logits.par_chunks_exact_mut(model.config().vocab_size))
                .enumerate()
                .for_each(|(lane, (writing, logits))| {
                    let source = rows[writing.row].ids.as_slice();
                    let peaks = again.peaks(lane, logits);
                    writing.go_on(logits, peaks, options, Context { source, eos });
                });
        })?;
        if let Some(broken) = writings.iter().find(|writing| !writing.score.is_finite()) {
            return Err(not_numbers(broken.row));
        }
        let mut still = Vec::with_capacity(writings.len());
        let mut open = Vec::with_capacity(lanes.len());
        for (writing, mut lane) in writings.into_iter().zip(lanes) {
            lane.token = writing.last();
            if lane.token == eos || writing.tokens.len() > options.max_new_tokens {
                done[writing.row].push((writing.candidate, writing.finish(eos)));
            } else {
                still.push(writing);
                open.push(lane);
            }
        }
        (writings, lanes) = (still, open);
    }
    let in_order = |mut candidates: Vec<(usize, Candidate)>| {
        candidates.sort_by_key(|(number, _)| *number);
        candidates.into_iter().map(|(_, candidate)| candidate).collect()
    };
    Ok(done.into_iter().map(in_order).collect())
}

impl Writing {
    /// Chooses the next token by its logits.
    fn go_on(
        &mut self,
        logits: &mut [f32],
        mut peaks: Peaks,
        options: &Options,
        context: Context<'_>,
    ) {
        let log_total = peaks.log_sum_exp(logits) as f32;
        if log_total.is_nan() {
            self.score = log_total;
            self.tokens.push(context.eos);
            return;
        }
        let untouched = |token: usize, scores: &[f32]| scores[token] - log_total;
        let changes = options.repetition_penalty != 1.0 || !options.begin.is_empty();
        let original = changes.then(|| logits.to_vec());
        if options.changes_scores() {
            choose::penalise(logits, &self.tokens, options, context);
            peaks = Peaks::of(logits);
        }
        let token = match options.strategy {
            Strategy::Sample(how) => {
                let random = choose::draw(self.seed, self.candidate, self.tokens.len());
                choose::sample(logits, &peaks, &how, random)
            }
            _ => peaks.position(logits),
        };
        self.score += untouched(token, original.as_deref().unwrap_or(logits));
        self.tokens.push(token as u32);
    }

    fn last(&self) -> u32 {
        self.tokens.last().copied().unwrap_or_default()
    }

    fn finish(mut self, eos: u32) -> Candidate {
        let ended = self.last() == eos;
        self.tokens.remove(0);
        if ended {
            self.tokens.pop();
        }
        Candidate { ids: self.tokens, ended, score: self.score }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Draw;
    use super::*;

    #[test]
    fn what_is_no_number_is_no_score() {
        let strategies = [Strategy::Greedy, Strategy::Sample(Draw { top_k: 3, ..Draw::default() })];
        for (strategy, logit) in
            strategies.into_iter().flat_map(|one| [(one, f32::NAN), (one, f32::INFINITY)])
        {
            let mut writing =
                Writing { row: 0, candidate: 0, seed: 1, tokens: vec![0], score: 0.0 };
            let options = Options { strategy, ..Options::default() };
            let (mut logits, context) = ([logit; 70], Context { source: &[1], eos: 1 });
            let peaks = Peaks::of(&logits);
            writing.go_on(&mut logits, peaks, &options, context);
            assert!(writing.score.is_nan(), "{strategy:?}, {logit}");
        }
    }
}
