//! The forward pass, for training (on tracked weights, with dropout) and for inference alike.

use std::{
    cell::{Cell, RefCell},
    ops::Range,
    sync::Arc,
};

use burn::tensor::{DType, Tensor};
use paraloom_t5_kernels::{
    buckets::Buckets, dropout::Dropout, peaks::Rescorer, weight::PackedWeight,
};

use super::weights::{Attention, Block, FeedForward, Stack, Weights};
use crate::{
    Result,
    config::Config,
    numeric::Float,
    operations::{self, AttentionPlan, Keys, Rounding, Segment},
    random::mix,
};

/// Rows of a chunk of the feed-forward layer at least, so that reading its weights pays.
const LEAST_ROWS: usize = 48;

/// A batch of token sequences, one after another without padding; `runs` are what other libraries call `cu_seqlens`.
#[derive(Debug, Clone, Default)]
pub struct Sequences {
    /// All tokens.
    pub ids: Vec<u32>,
    /// Where each sequence lies in `ids`.
    pub runs: Vec<Range<usize>>,
}

impl Sequences {
    /// The sequences, in order.
    pub fn new<'a>(sequences: impl IntoIterator<Item = &'a [u32]>) -> Self {
        let mut packed = Self::default();
        for sequence in sequences {
            let start = packed.ids.len();
            packed.ids.extend_from_slice(sequence);
            packed.runs.push(start..packed.ids.len());
        }
        packed
    }

    /// Length of the longest sequence.
    pub fn longest(&self) -> usize {
        self.runs.iter().map(Range::len).max().unwrap_or(0)
    }
}

/// A weight in the forward pass: a tensor, one with an adapter, or a packed one.
pub trait Parameter {
    /// The weight, unless it is a packed one; of a linear layer `[out, in]`.
    fn tensor(&self) -> &Tensor<2>;

    /// The weight of a linear layer that is packed.
    fn packed(&self) -> Option<&Arc<PackedWeight>> {
        None
    }

    /// The adapter that is trained in its place.
    fn adapter(&self) -> Option<&Adapter> {
        None
    }
}

impl Parameter for Tensor<2> {
    fn tensor(&self) -> &Tensor<2> {
        self
    }
}

/// What low-rank adaptation (LoRA, arXiv 2106.09685) adds to a linear layer: `scale * up * down * dropout(x)`.
#[derive(Debug, Clone)]
pub struct Adapter {
    /// `[rank, in]`.
    pub down: Tensor<2>,
    /// `[out, rank]`.
    pub up: Tensor<2>,
    /// Alpha over the rank.
    pub scale: f64,
    /// Rate of the dropout before it.
    pub dropout: f32,
}

/// A model's computation over given weights.
#[derive(Debug)]
pub struct Network<'a, P: Parameter = Tensor<2>> {
    pub(super) config: &'a Config,
    pub(crate) weights: &'a Weights<P>,
    /// Key of this pass's dropout, where there is some.
    dropout: Option<u64>,
    /// Dropout sites passed so far; their order is that of the code, so it is the same in every pass.
    sites: Cell<u64>,
    /// Of linear layers whose weights are not packed.
    rounding: Rounding,
    /// The output projection (the head).
    output: &'a P,
    /// Embedded tokens, where they are leaves of their own.
    embedded: Option<RefCell<Vec<Embedded>>>,
}

/// Tokens, and their rows of the embedding as a leaf of their own for the backward pass: its gradient is much smaller
/// than one of the whole embedding.
#[derive(Debug)]
pub(crate) struct Embedded {
    pub(crate) ids: Vec<u32>,
    pub(crate) rows: Tensor<2>,
}

impl<'a, P: Parameter> Network<'a, P> {
    /// The computation over `weights`, with dropout at the configured rate where there is a `dropout` key.
    pub fn new(config: &'a Config, weights: &'a Weights<P>, dropout: Option<u64>) -> Self {
        Self {
            config,
            weights,
            dropout,
            sites: Cell::new(0),
            rounding: Rounding::None,
            output: weights.output(),
            embedded: None,
        }
    }

    pub(crate) fn config(&self) -> &'a Config {
        self.config
    }

    /// The same with another form of the output projection.
    pub(super) fn with_output(self, output: &'a P) -> Self {
        Self { output, ..self }
    }

    /// The same with products in `precision`, for training: weights and gradients stay in f32.
    #[must_use]
    pub fn in_precision(self, precision: Float) -> Self {
        let rounding = match precision {
            Float::F32 => Rounding::None,
            Float::Bf16 => Rounding::Bf16,
        };
        Self { rounding, ..self }
    }

    /// The same on tracked weights, with embedded tokens as leaves of their own, which [`Network::into_embedded`] gives.
    pub(crate) fn embedding_apart(self) -> Self {
        Self { embedded: Some(RefCell::default()), ..self }
    }

    /// The encoder's output for every source token, `[tokens, d_model]`.
    pub fn encode(&self, source: &Sequences) -> Tensor<2> {
        let stack = &self.weights.encoder;
        let plan = self.self_plan(source, false);
        let mut x = self.embed(&source.ids);
        for number in 0..stack.blocks.len() {
            x = self.encoder_block(x, number, plan());
        }
        self.finish(x, stack)
    }

    /// A block of the encoder, on `x`, `[tokens, d_model]`.
    pub(crate) fn encoder_block(
        &self,
        x: Tensor<2>,
        number: usize,
        plan: AttentionPlan,
    ) -> Tensor<2> {
        let stack = &self.weights.encoder;
        let block = &stack.blocks[number];
        let x = self.self_attention(x, &block.attention, stack.position_bias(number), plan);
        self.feed_forward(x, &block.feed_forward)
    }

    /// The decoder's output for every target token, `[tokens, d_model]`, ready for [`Network::logits`].
    ///
    /// `target` holds what the decoder reads: the start token and then the target without its last token. Sequence `i`
    /// attends to `encoded` where sequence `i` of `source` lies.
    pub fn decode(&self, target: &Sequences, encoded: &Tensor<2>, source: &Sequences) -> Tensor<2> {
        let stack = &self.weights.decoder;
        let plan = self.self_plan(target, true);
        let cross_plan = self.cross_plan(target, source);
        let mut x = self.embed(&target.ids);
        for number in 0..stack.blocks.len() {
            let keys = |layer: &Attention<P>| self.keys(encoded, layer);
            x = self.decoder_block(x, number, (&plan, &cross_plan), keys);
        }
        self.scale(self.finish(x, stack))
    }

    /// A block of the decoder, on `x`, `[tokens, d_model]`: `plans` are those of self-attention and cross-attention, and `keys` gives the
    /// keys and values of the latter.
    pub(crate) fn decoder_block(
        &self,
        x: Tensor<2>,
        number: usize,
        plans: (&impl Fn() -> AttentionPlan, &impl Fn() -> AttentionPlan),
        keys: impl FnOnce(&Attention<P>) -> [Tensor<2>; 2],
    ) -> Tensor<2> {
        let stack = &self.weights.decoder;
        let block = &stack.blocks[number];
        let bias = stack.position_bias(number);
        let x = self.self_attention(x, &block.attention, bias, (plans.0)());
        let x = self.cross_attention(x, block, keys, (plans.1)());
        self.feed_forward(x, &block.feed_forward)
    }

    /// The keys and values of a cross-attention, `[tokens, inner]` each, from the encoder's output.
    pub(crate) fn keys(&self, encoded: &Tensor<2>, layer: &Attention<P>) -> [Tensor<2>; 2] {
        self.linear_each(encoded.clone(), [&layer.k, &layer.v])
    }

    /// The logits of decoder outputs, in f32: `[rows, d_model]` gives `[rows, vocab]`.
    pub fn logits(&self, decoded: Tensor<2>) -> Tensor<2> {
        in_f32(self.multiply(decoded, self.output))
    }

    /// Calls `work` with the logits of decoder outputs, `[rows, vocab]`, which it may change, and with what gives their peaks: in int8
    /// the highest logits are recomputed in f32, since a token is chosen among them.
    ///
    /// # Errors
    /// As [`operations::with_values`].
    pub fn with_logits<R>(
        &self,
        decoded: Tensor<2>,
        work: impl FnOnce(&mut [f32], Rescorer<'_>) -> R,
    ) -> Result<R> {
        if !matches!(self.packing(), Some(PackedWeight::Int8(_))) {
            return operations::with_values(self.logits(decoded), |logits| {
                work(logits, Rescorer::default())
            });
        }
        let (logits, depth) = (self.logits(decoded.clone()), self.config.d_model);
        operations::read_values(self.weights.output().tensor(), |table| {
            operations::read_values(&decoded, |x| {
                operations::with_values(logits, |logits| {
                    work(logits, Rescorer::new(x, table, depth))
                })
            })
        })??
    }

    /// The logits of some tokens alone, `[rows, tokens]`.
    pub(crate) fn logits_of(&self, decoded: Tensor<2>, tokens: &[u32]) -> Tensor<2> {
        let output = operations::embed(self.weights.output().tensor(), tokens);
        in_f32(operations::linear(decoded, &output, Rounding::None))
    }

    /// What the decoder reads when it should write `target`: the start token, then the target without its last.
    pub fn shift_right(&self, target: &[u32]) -> Vec<u32> {
        let start = self.config.decoder_start_token_id;
        std::iter::once(start)
            .chain(target[..target.len().saturating_sub(1)].iter().copied())
            .collect()
    }

    /// Embedded tokens, `[tokens, d_model]`.
    pub(crate) fn embed(&self, ids: &[u32]) -> Tensor<2> {
        let table = self.weights.shared.tensor();
        let rows = match &self.embedded {
            Some(embedded) => {
                let rows = operations::embed(&table.clone().inner(), ids);
                let rows = Tensor::from_inner(rows).require_grad();
                embedded.borrow_mut().push(Embedded { ids: ids.to_vec(), rows: rows.clone() });
                rows
            }
            None => operations::embed(table, ids),
        };
        operations::drop(rows, self.site())
    }

    /// The embedded tokens. The gradients of their rows are to be added to that of the embedding.
    pub(crate) fn into_embedded(self) -> Vec<Embedded> {
        self.embedded.map(RefCell::into_inner).unwrap_or_default()
    }

    /// Final norm and dropout.
    pub(crate) fn finish(&self, x: Tensor<2>, stack: &Stack<P>) -> Tensor<2> {
        operations::drop(self.norm(x, &stack.final_norm), self.site())
    }

    /// T5 1.0's factor before the tied head.
    pub(crate) fn scale(&self, x: Tensor<2>) -> Tensor<2> {
        if self.config.scale_decoder_outputs {
            x * (self.config.d_model as f64).powf(-0.5)
        } else {
            x
        }
    }

    /// A linear layer.
    pub(crate) fn linear(&self, x: Tensor<2>, w: &P) -> Tensor<2> {
        let Some(adapter) = w.adapter() else { return self.multiply(x, w) };
        let dropped = operations::drop(x.clone(), self.site_of(adapter.dropout));
        let low = operations::linear(dropped, &adapter.down, Rounding::None);
        let added = operations::linear(low, &adapter.up, Rounding::None);
        self.multiply(x, w) + added * adapter.scale
    }

    /// Linear layers of one input.
    pub(super) fn linear_each<const N: usize>(
        &self,
        x: Tensor<2>,
        layers: [&P; N],
    ) -> [Tensor<2>; N] {
        let packed = layers.map(P::packed);
        if packed.iter().any(Option::is_none) {
            return layers.map(|layer| self.linear(x.clone(), layer));
        }
        operations::linear_packed(x, packed.map(|weight| weight.expect("all are packed")))
    }

    /// The product with a weight alone.
    fn multiply(&self, x: Tensor<2>, w: &P) -> Tensor<2> {
        let Some(packed) = w.packed() else {
            return operations::linear(x, w.tensor(), self.rounding);
        };
        let [product] = operations::linear_packed(x, [packed]);
        product
    }

    /// How linear layers are packed, if they are; all in the same way.
    fn packing(&self) -> Option<&PackedWeight> {
        self.output.packed().map(|packed| &**packed)
    }

    /// Keys or values for the cache: in bf16, unless linear layers are in f32.
    pub(super) fn for_cache(&self, rows: Tensor<2>) -> Tensor<2> {
        match self.packing() {
            Some(PackedWeight::Bf16(_) | PackedWeight::Int8(_)) => operations::to_bf16_rows(rows),
            Some(PackedWeight::F32(_)) | None => rows,
        }
    }

    /// RMS norm.
    pub(super) fn norm(&self, x: Tensor<2>, w: &P) -> Tensor<2> {
        operations::norm(x, w.tensor(), self.config.layer_norm_epsilon)
    }

    /// The feed-forward layer with its residual, in chunks of rows: the wide activations between its linear layers then stay in the
    /// processor's cache.
    pub(super) fn feed_forward(&self, x: Tensor<2>, layer: &FeedForward<P>) -> Tensor<2> {
        /// Activations between the layers at a time.
        const WIDE: usize = 1 << 18;
        let [rows, width] = x.dims();
        let some = (WIDE / self.config.d_ff.max(1)).max(LEAST_ROWS);
        if self.packing().is_none() || rows < 2 * some {
            return self.feed_rows_forward(x, layer);
        }
        let parts = (0..rows).step_by(some).map(|first| {
            let part = x.clone().slice([first..rows.min(first + some), 0..width]);
            self.feed_rows_forward(part, layer)
        });
        Tensor::cat(parts.collect(), 0)
    }

    fn feed_rows_forward(&self, x: Tensor<2>, layer: &FeedForward<P>) -> Tensor<2> {
        let normed = self.norm(x.clone(), &layer.norm);
        let (inner, gate) = match &layer.gate {
            Some(gate) => {
                let [gate, inner] = self.linear_each(normed, [gate, &layer.wi]);
                (inner, Some(gate))
            }
            None => (self.linear(normed, &layer.wi), None),
        };
        let inner = operations::activate(inner, gate, self.config.activation, self.site());
        operations::add(x, self.linear(inner, &layer.wo), self.site())
    }

    fn self_attention(
        &self,
        x: Tensor<2>,
        layer: &Attention<P>,
        bias: Option<&P>,
        plan: AttentionPlan,
    ) -> Tensor<2> {
        let normed = self.norm(x.clone(), &layer.norm);
        let [q, k, v] = self.linear_each(normed, [&layer.q, &layer.k, &layer.v]);
        let attended = operations::attend(q, k, v, bias.map(Parameter::tensor), &Arc::new(plan));
        operations::add(x, self.linear(attended, &layer.o), self.site())
    }

    fn cross_attention(
        &self,
        x: Tensor<2>,
        block: &Block<P>,
        keys: impl FnOnce(&Attention<P>) -> [Tensor<2>; 2],
        plan: AttentionPlan,
    ) -> Tensor<2> {
        let Some(layer) = &block.cross else { return x };
        let q = self.linear(self.norm(x.clone(), &layer.norm), &layer.q);
        let [k, v] = keys(layer);
        let attended = operations::attend(q, k, v, None, &Arc::new(plan));
        operations::add(x, self.linear(attended, &layer.o), self.site())
    }

    /// Plans of self-attention, each with a dropout site of its own.
    pub(crate) fn self_plan(&self, tokens: &Sequences, causal: bool) -> impl Fn() -> AttentionPlan {
        let whole = |run: &Range<usize>| Segment {
            queries: run.clone(),
            keys: Keys::Run(run.clone()),
            position: 0,
        };
        let segments: Vec<_> = tokens.runs.iter().map(whole).collect();
        let buckets = self.buckets(tokens.longest(), !causal);
        let plan = AttentionPlan::new(self.config.num_heads, segments, causal, Some(buckets));
        move || plan.with_dropout(self.site())
    }

    /// The same for cross-attention.
    pub(crate) fn cross_plan(
        &self,
        target: &Sequences,
        source: &Sequences,
    ) -> impl Fn() -> AttentionPlan {
        let pair = |(queries, keys): (&Range<usize>, &Range<usize>)| Segment {
            queries: queries.clone(),
            keys: Keys::Run(keys.clone()),
            position: 0,
        };
        let segments: Vec<_> = target.runs.iter().zip(&source.runs).map(pair).collect();
        let plan = AttentionPlan::new(self.config.num_heads, segments, false, None);
        move || plan.with_dropout(self.site())
    }

    /// The position buckets of a stack for sequences up to `length`.
    pub(super) fn buckets(&self, length: usize, bidirectional: bool) -> Arc<Buckets> {
        let config = self.config;
        let (buckets, distance) =
            (config.relative_attention_num_buckets, config.relative_attention_max_distance);
        Arc::new(Buckets::new(length, bidirectional, buckets, distance))
    }

    /// Dropout sites passed so far.
    pub(crate) fn sites(&self) -> u64 {
        self.sites.get()
    }

    /// Continues as if so many dropout sites had been passed.
    pub(crate) fn set_sites(&self, sites: u64) {
        self.sites.set(sites);
    }

    /// The next dropout site.
    fn site(&self) -> Option<Dropout> {
        self.site_of(self.config.dropout_rate as f32)
    }

    fn site_of(&self, rate: f32) -> Option<Dropout> {
        let key = self.dropout.filter(|_| rate > 0.0)?;
        let site = self.sites.replace(self.sites.get() + 1);
        Some(Dropout::new(rate, mix(key, site)))
    }
}

fn in_f32(x: Tensor<2>) -> Tensor<2> {
    if x.dtype() == DType::F32 { x } else { x.cast(DType::F32) }
}
