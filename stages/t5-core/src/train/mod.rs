//! Fine-tuning: pairs of token sequences in, better weights out.
//!
//! A [`Trainer`] is a value that moves one optimizer step at a time. Everything random is a function of the seed and
//! the step, so a trainer that was saved and loaded goes on exactly as if it had never stopped.

mod batches;
mod checkpoint;
pub mod lora;
mod mixing;
mod optimizer;
mod options;
mod recompute;

use std::time::Instant;

use burn::tensor::Tensor;
use rayon::prelude::*;

pub use self::lora::Lora;
use self::lora::{Part, Saved, Tracked, Trainable};
pub use self::mixing::{Mixing, Portion};
use self::optimizer::{State, Step};
pub use self::options::{Batch, Length, Optimizer, Options, Schedule, Warmup};
use crate::{
    Error, Result,
    config::Config,
    device::has_packed,
    memory,
    model::{Model, Network, Parameter, Sequences, Weights},
    operations::{
        self, LossScale,
        update::{add_rows, square_sum},
    },
    random::mix,
};

/// Validation examples that are scored at once.
const VALIDATION_BATCH: usize = 64;

/// Source and target tokens of a batch per part that is worked on by itself; fewer would spend more time on adding up
/// gradients than they save.
const SHARD_TOKENS: usize = 256;
/// Most parts of a batch.
const MOST_SHARDS: usize = 16;
/// Every part has gradients of its own, which large models have no memory for; nor do they need it, since their matrix
/// products are large enough to be shared out themselves.
const MOST_SHARDED_WEIGHTS: usize = 16_000_000;

/// One thing to learn: a source and the target it should give, both ended by `</s>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    /// What the encoder reads.
    pub source: Vec<u32>,
    /// What the decoder should write.
    pub target: Vec<u32>,
}

impl Example {
    /// Source and target tokens.
    fn tokens(&self) -> usize {
        self.source.len() + self.target.len()
    }
}

/// What happened in one optimizer step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepMetrics {
    /// The step, from 1.
    pub step: u64,
    /// Steps of the whole run.
    pub total_steps: u64,
    /// The epoch that the step belongs to, from 0.
    pub epoch: u64,
    /// Mean loss per target token.
    pub loss: f64,
    /// The learning rate.
    pub learning_rate: f64,
    /// Norm of all gradients together, before clipping.
    pub gradient_norm: f64,
    /// Examples of the step.
    pub examples: usize,
    /// Source and target tokens of the step.
    pub tokens: usize,
    /// Wall time of the step in seconds.
    pub seconds: f64,
}

/// A training run.
#[derive(Debug)]
pub struct Trainer {
    model: Model,
    trained: Trainable,
    /// What is trained, one by one, with the optimizer's state of each.
    parts: Vec<Part>,
    states: Vec<State>,
    examples: Vec<Example>,
    options: Options,
    total_steps: u64,
    /// Steps done.
    step: u64,
    /// The epoch of the next step and its micro-batches.
    epoch: u64,
    batches: Vec<Vec<usize>>,
    /// Micro-batches of the epoch that are done.
    position: usize,
    /// How many pieces each micro-batch is computed in, one after the other.
    pieces: usize,
    /// The best that [`Trainer::judge`] has seen.
    best: Option<Best>,
}

/// The model of the lowest cost.
#[derive(Debug)]
struct Best {
    cost: f64,
    model: Model,
    trained: Trainable,
    /// Judgements since, none of which was better.
    since: u64,
}

impl Trainer {
    /// Prepares a run.
    ///
    /// # Errors
    /// When there is nothing to learn, an option makes no sense or names what the model does not have, or an example does
    /// not fit the model.
    pub fn new(mut model: Model, examples: Vec<Example>, options: Options) -> Result<Self> {
        check(&model, &examples, &options)?;
        if let Some(dropout) = options.dropout {
            model.set_dropout(dropout);
        }
        let layout = Weights::layout(model.config());
        let trained =
            Trainable::new(&model, &layout, options.lora.as_ref(), &options.freeze, options.seed)?;
        let parts = trained.parts(&layout);
        let state = |part: &Part| {
            State::initial(options.optimizer, &part.spec, trained.tensor(&model, part))
        };
        let states = parts.iter().map(state).collect();
        let batches = batches::epoch(&examples, &options, 0);
        let total_steps = batches::total_steps(&examples, &options);
        Ok(Self {
            model,
            trained,
            parts,
            states,
            examples,
            options,
            total_steps,
            step: 0,
            epoch: 0,
            batches,
            position: 0,
            pieces: 1,
            best: None,
        })
    }

    /// The model as it is now, adapters merged into it.
    pub fn model(&self) -> Model {
        self.trained.merged(&self.model, self.options.lora.as_ref())
    }

    /// Ends the run.
    pub fn into_model(self) -> Model {
        self.trained.merged(&self.model, self.options.lora.as_ref())
    }

    /// Ends the run with the model that [`Trainer::judge`] kept, or the last one where that was never called;
    /// adapters are merged into it, and are there by themselves too.
    pub fn into_best_model(self) -> (Model, Option<Saved>) {
        let (model, trained) = match self.best {
            Some(best) => (best.model, best.trained),
            None => (self.model, self.trained),
        };
        let merged = trained.merged(&model, self.options.lora.as_ref());
        let saved = self.options.lora.map(|lora| {
            let tensor = |part: &Part| {
                let name = format!("base_model.model.{}", part.spec.name);
                (name, trained.tensor(&model, part).clone())
            };
            Saved { lora, tensors: self.parts.iter().map(tensor).collect() }
        });
        (merged, saved)
    }

    /// The mean loss per target token over other examples.
    ///
    /// # Errors
    /// As [`mean_loss`], and [`Error::Diverged`] when the loss is not a number.
    pub fn loss_of(&self, examples: &[Example], cancelled: &dyn Fn() -> bool) -> Result<f64> {
        let loss = mean_loss(&self.model().network(), examples, cancelled)?;
        finite(self.step, "validation loss", loss)?;
        Ok(loss)
    }

    /// Keeps the model as it is if it costs less than every one that was judged before; checkpoints hold what is kept.
    /// What the cost is, such as a loss, is up to the caller; it has to be a number.
    pub fn judge(&mut self, cost: f64) {
        match &mut self.best {
            Some(best) if cost >= best.cost => best.since += 1,
            best => {
                let (model, trained) = (self.model.clone(), self.trained.clone());
                *best = Some(Best { cost, model, trained, since: 0 });
            }
        }
    }

    /// Judges the model by its loss over other examples, and gives the loss.
    ///
    /// # Errors
    /// As [`Trainer::loss_of`].
    pub fn evaluate(&mut self, examples: &[Example], cancelled: &dyn Fn() -> bool) -> Result<f64> {
        let loss = self.loss_of(examples, cancelled)?;
        self.judge(loss);
        Ok(loss)
    }

    /// The cost of the model that is kept.
    pub fn lowest_cost(&self) -> Option<f64> {
        self.best.as_ref().map(|best| best.cost)
    }

    /// Judgements since the best one, for stopping early.
    pub fn judged_since_best(&self) -> u64 {
        self.best.as_ref().map_or(0, |best| best.since)
    }

    /// Refuses weights that stopped being numbers. A step only sees this in the loss of the next one, so it is asked
    /// before anything is kept: checkpoints and the result never hold such weights.
    ///
    /// # Errors
    /// [`Error::Diverged`].
    pub fn check_weights(&self) -> Result<()> {
        let tensors = self.parts.iter().map(|part| self.trained.tensor(&self.model, part));
        let sums = tensors.map(square_sum);
        finite(self.step, "sum of squared weights", sums.sum())
    }

    /// Steps done.
    pub fn steps_done(&self) -> u64 {
        self.step
    }

    /// Steps of the whole run.
    pub fn total_steps(&self) -> u64 {
        self.total_steps
    }

    /// Whether the last step was the last one of its epoch.
    pub fn is_epoch_done(&self) -> bool {
        self.position >= self.batches.len()
    }

    /// From now on computes every batch in two halves, for want of memory. Only roundings and dropout change.
    pub fn halve_batches(&mut self) {
        self.pieces = 2;
    }

    /// Does one optimizer step; none when the run is complete.
    ///
    /// # Errors
    /// [`Error::Diverged`] when the loss or the gradients stop being numbers, [`Error::Memory`] when there is no room for
    /// them. The weights are then as before the step.
    pub fn step(&mut self) -> Result<Option<StepMetrics>> {
        if self.step >= self.total_steps {
            return Ok(None);
        }
        let start = Instant::now();
        self.open_epoch();
        let end = self.batches.len().min(self.position + self.options.accumulate);
        let micro_batches: Vec<Vec<&Example>> = self.batches[self.position..end]
            .iter()
            .flat_map(|batch| batch.chunks(batch.len().div_ceil(self.pieces)))
            .map(|batch| batch.iter().map(|&index| &self.examples[index]).collect())
            .collect();
        let tokens_of = |count: fn(&Example) -> usize| {
            micro_batches.iter().flatten().map(|example| count(example)).sum()
        };
        let targets: usize = tokens_of(|example| example.target.len());
        let sources: usize = tokens_of(|example| example.source.len());
        let examples = micro_batches.iter().map(Vec::len).sum();
        let (loss, gradients) = memory::or_error(|| self.gradients(&micro_batches, targets))?;
        let norm = gradients.iter().map(square_sum).sum::<f64>().sqrt();
        self.finite("gradient norm", norm)?;
        let learning_rate = self.options.rate(self.step, self.total_steps);
        self.update(gradients, learning_rate, norm);
        self.step += 1;
        self.position = end;
        Ok(Some(StepMetrics {
            step: self.step,
            total_steps: self.total_steps,
            epoch: self.epoch,
            loss,
            learning_rate,
            gradient_norm: norm,
            examples,
            tokens: sources + targets,
            seconds: start.elapsed().as_secs_f64(),
        }))
    }

    /// Goes on to the next epoch where this one is done.
    fn open_epoch(&mut self) {
        if self.position >= self.batches.len() {
            self.epoch += 1;
            self.position = 0;
            self.batches = batches::epoch(&self.examples, &self.options, self.epoch);
        }
    }

    /// The loss of a step and the gradients of all that is trained.
    fn gradients(
        &self,
        micro_batches: &[Vec<&Example>],
        targets: usize,
    ) -> Result<(f64, Vec<Tensor<2>>)> {
        let scale = LossScale {
            factor: 1.0 / targets as f32,
            smoothing: self.options.label_smoothing as f32,
        };
        let mut total: Option<Vec<Tensor<2>>> = None;
        let mut loss = 0.0;
        for (index, batch) in micro_batches.iter().enumerate() {
            let key = mix(mix(mix(self.options.seed, 0x6472_6f70), self.step), index as u64);
            let shards: Vec<_> = batch
                .chunks(batch.len().div_ceil(self.shards(batch)))
                .enumerate()
                .map(|(shard, examples)| (mix(key, shard as u64), examples))
                .collect();
            let done: Vec<_> = shards
                .into_par_iter()
                .map(|(key, examples)| self.shard_gradients(examples, key, scale))
                .collect();
            // Added up in order, whichever was done first.
            for (shard_loss, gradients) in done {
                loss += shard_loss;
                total = Some(match total {
                    Some(old) => {
                        let sums = old.into_iter().zip(gradients);
                        sums.map(|(old, new)| operations::add(old, new, None)).collect()
                    }
                    None => gradients,
                });
            }
            self.finite("loss", loss)?;
        }
        Ok((loss, total.unwrap_or_default()))
    }

    /// Parts of a batch whose gradients are computed side by side: how small models keep several cores busy.
    ///
    /// That is for our own loops; torch has threads of its own. The number depends on the work alone, never on the threads, so that these do not decide any rounding.
    fn shards(&self, batch: &[&Example]) -> usize {
        if !has_packed(&self.model.device())
            || self.parts.iter().map(|part| part.spec.len()).sum::<usize>() > MOST_SHARDED_WEIGHTS
        {
            return 1;
        }
        let tokens: usize = batch.iter().map(|example| example.tokens()).sum();
        let shards = (tokens / SHARD_TOKENS).clamp(1, batch.len().clamp(1, MOST_SHARDS));
        // A power of two, since the numbers of cores are.
        1 << shards.ilog2()
    }

    /// The loss of some examples and the gradients of all that is trained.
    fn shard_gradients(
        &self,
        examples: &[&Example],
        dropout: u64,
        scale: LossScale,
    ) -> (f64, Vec<Tensor<2>>) {
        let weights = |track| self.trained.tracked(&self.model, self.options.lora.as_ref(), track);
        let tracked = weights(true);
        let plain = self.options.gradient_checkpointing.then(|| weights(false));
        let network = |weights| {
            let network = Network::new(self.model.config(), weights, Some(dropout));
            network.in_precision(self.options.precision)
        };
        let mut learning = network(&tracked);
        if self.trained.weights[0] {
            learning = learning.embedding_apart();
        }
        let batch = Packs::new(&learning, examples);
        let (loss, mut gradients) = match &plain {
            Some(plain) => {
                let is_trained = |name: &str| {
                    let mut parts = self.parts.iter();
                    self.trained.weights[0] || parts.any(|part| part.spec.name.starts_with(name))
                };
                recompute::gradients(&network(plain), &learning, &batch, scale, &is_trained)
            }
            None => {
                let loss = batch.loss(&learning, scale);
                let gradients = loss.backward();
                (loss, vec![gradients])
            }
        };
        let mut gradient = |weight: &Tensor<2>| {
            let found = gradients.iter_mut().filter_map(|gradients| weight.grad_remove(gradients));
            // A weight that no token reached, such as an unused bucket of a batch, still counts: with zeros.
            found
                .reduce(|sum, more| operations::add(sum, more, None))
                .unwrap_or_else(|| weight.clone().inner().zeros_like())
        };
        let mut embedded = learning.into_embedded();
        if self.options.gradient_checkpointing {
            embedded.reverse();
        }
        let tensors = tracked.list();
        let of_part = |part: &Part| {
            let Tracked { weight, adapter } = tensors[part.weight];
            match (part.matrix, adapter) {
                (Some(0), Some(adapter)) => gradient(&adapter.down),
                (Some(_), Some(adapter)) => gradient(&adapter.up),
                _ if part.weight == 0 => embedded.iter().fold(gradient(weight), |sum, embedded| {
                    add_rows(sum, &embedded.ids, gradient(&embedded.rows))
                }),
                _ => gradient(weight),
            }
        };
        let of_parts = self.parts.iter().map(of_part).collect();
        (f64::from(loss.into_scalar::<f32>()), of_parts)
    }

    /// Moves what is trained.
    fn update(&mut self, gradients: Vec<Tensor<2>>, learning_rate: f64, norm: f64) {
        // The small term is torch's.
        let clip = self.options.clip_norm.map_or(1.0, |limit| (limit / (norm + 1e-6)).min(1.0));
        let step = Step {
            options: &self.options,
            learning_rate,
            number: self.step + 1,
            gradient_scale: clip,
        };
        let mut weights = self.model.weights_mut().list_mut();
        let adapters = &mut self.trained.adapters;
        let trained = self.parts.iter().zip(&mut self.states);
        for ((part, state), gradient) in trained.zip(gradients) {
            let tensor = match (part.matrix, &mut adapters[part.weight]) {
                (Some(matrix), Some(pair)) => &mut pair[matrix],
                _ => &mut *weights[part.weight],
            };
            // The gradient holds the tensor's place meanwhile, so that the tensor has one owner and is updated in place.
            let old = std::mem::replace(tensor, gradient.clone());
            *tensor = step.apply(&part.spec, old, gradient, state);
        }
    }

    fn finite(&self, what: &'static str, value: f64) -> Result<()> {
        finite(self.step + 1, what, value)
    }
}

fn finite(step: u64, what: &'static str, value: f64) -> Result<()> {
    if value.is_finite() { Ok(()) } else { Err(Error::Diverged { step, what, value }) }
}

/// The mean loss per target token of a model over examples, without label smoothing.
///
/// # Errors
/// When an example does not fit the model, or the caller cancels.
pub fn mean_loss<P: Parameter>(
    network: &Network<'_, P>,
    examples: &[Example],
    cancelled: &dyn Fn() -> bool,
) -> Result<f64> {
    check_examples(network.config(), examples)?;
    let mut order: Vec<&Example> = examples.iter().collect();
    order.sort_by_key(|example| example.tokens());
    let (mut loss, mut targets) = (0.0, 0);
    for batch in order.chunks(VALIDATION_BATCH) {
        if cancelled() {
            return Err(Error::Cancelled);
        }
        let scale = LossScale { factor: 1.0, smoothing: 0.0 };
        let sum = Packs::new(network, batch).loss(network, scale);
        loss += f64::from(sum.into_scalar::<f32>());
        targets += batch.iter().map(|example| example.target.len()).sum::<usize>();
    }
    Ok(loss / targets as f64)
}

/// Examples, packed.
struct Packs {
    source: Sequences,
    /// What the decoder reads.
    target: Sequences,
    /// What it should write, token by token.
    labels: Vec<u32>,
}

impl Packs {
    fn new<P: Parameter>(network: &Network<'_, P>, batch: &[&Example]) -> Self {
        let shifted: Vec<Vec<u32>> =
            batch.iter().map(|example| network.shift_right(&example.target)).collect();
        Self {
            source: Sequences::new(batch.iter().map(|example| example.source.as_slice())),
            target: Sequences::new(shifted.iter().map(Vec::as_slice)),
            labels: batch.iter().flat_map(|example| example.target.iter().copied()).collect(),
        }
    }

    /// The scaled sum of the losses of all target tokens, `[1]`.
    fn loss<P: Parameter>(&self, network: &Network<'_, P>, scale: LossScale) -> Tensor<1> {
        let encoded = network.encode(&self.source);
        self.loss_of(network, network.decode(&self.target, &encoded, &self.source), scale)
    }

    /// The same of what the decoder has made of the targets.
    fn loss_of<P: Parameter>(
        &self,
        network: &Network<'_, P>,
        decoded: Tensor<2>,
        scale: LossScale,
    ) -> Tensor<1> {
        operations::cross_entropy(network.logits(decoded), &self.labels, scale)
    }
}

fn check(model: &Model, examples: &[Example], options: &Options) -> Result<()> {
    let refuse = |message: &str| Err(Error::Invalid(message.into()));
    if examples.is_empty() {
        return refuse("there are no examples to train on");
    }
    if options.batch.limit() == 0 || options.accumulate == 0 {
        return refuse("batches and what is accumulated have to be at least 1");
    }
    let sum = |of: fn(&Portion) -> usize| options.mix.iter().map(of).sum::<usize>();
    let is_mixed = sum(|portion| portion.examples) == examples.len()
        && options.mix.iter().all(|portion| portion.examples > 0 || portion.drawn == 0)
        && sum(|portion| portion.drawn) > 0
        && options.shuffle;
    if !options.mix.is_empty() && !is_mixed {
        return refuse(
            "what is mixed is all of the examples, shuffled, and some of them are drawn",
        );
    }
    if let Some(lora) = &options.lora
        && (lora.rank == 0 || lora.targets.is_empty() || !lora.alpha.is_finite())
    {
        return refuse("an adapter has a rank of at least 1, a finite alpha and targets");
    }
    if !options.learning_rate.is_finite() || options.learning_rate < 0.0 {
        return refuse("learning_rate has to be a number that is not negative");
    }
    if !(0.0..1.0).contains(&options.label_smoothing)
        || !(0.0..1.0).contains(&options.dropout.unwrap_or(0.0))
    {
        return refuse("label_smoothing and dropout have to be in [0, 1)");
    }
    check_examples(model.config(), examples)
}

fn check_examples(config: &Config, examples: &[Example]) -> Result<()> {
    examples.iter().try_for_each(|example| {
        config.check_ids(&example.source)?;
        config.check_ids(&example.target)
    })
}
