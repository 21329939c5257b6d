//! The weights of a T5, as a tree of any type: specifications, tensors, gradients or optimizer states.
//!
//! [`Weights::layout`] is the tree of specifications; every other tree is a [`Weights::map`] of that. Iteration order is fixed, so
//! flat lists of equal models line up.

use crate::config::Config;

/// One attention layer: its norm and its four projections, each `[out, in]`.
#[derive(Debug, Clone)]
pub struct Attention<P> {
    /// Norm before the layer, `[1, d_model]`.
    pub norm: P,
    /// Query projection, `[inner, d_model]`.
    pub q: P,
    /// Key projection, `[inner, d_model]`.
    pub k: P,
    /// Value projection, `[inner, d_model]`.
    pub v: P,
    /// Output projection, `[d_model, inner]`.
    pub o: P,
}

/// One feed-forward layer.
#[derive(Debug, Clone)]
pub struct FeedForward<P> {
    /// Norm before the layer, `[1, d_model]`.
    pub norm: P,
    /// First projection, `[d_ff, d_model]`; through the activation.
    pub wi: P,
    /// The gate's projection (`wi_1`), `[d_ff, d_model]`.
    pub gate: Option<P>,
    /// Second projection, `[d_model, d_ff]`.
    pub wo: P,
}

/// One block of a stack.
#[derive(Debug, Clone)]
pub struct Block<P> {
    /// Attention over the stack's own positions.
    pub attention: Attention<P>,
    /// Attention over the encoder's output (decoder only).
    pub cross: Option<Attention<P>>,
    /// The feed-forward layer.
    pub feed_forward: FeedForward<P>,
}

/// The encoder or the decoder.
#[derive(Debug, Clone)]
pub struct Stack<P> {
    /// Relative position biases, `[buckets, heads]`: that of the first block, which all share, or of every block its own
    /// (umT5).
    pub position_biases: Vec<P>,
    /// The blocks, first to last.
    pub blocks: Vec<Block<P>>,
    /// Norm of the output, `[1, d_model]`.
    pub final_norm: P,
}

/// All weights of a model.
#[derive(Debug, Clone)]
pub struct Weights<P> {
    /// The embedding, `[vocab, d_model]`, shared by encoder, decoder and (where tied) head.
    pub shared: P,
    /// The encoder.
    pub encoder: Stack<P>,
    /// The decoder.
    pub decoder: Stack<P>,
    /// The head's own weights, `[vocab, d_model]`, where they are not tied to the embedding.
    pub head: Option<P>,
}

/// The name, shape and initial values of a weight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WeightSpec {
    /// The name in a Hugging Face checkpoint.
    pub name: String,
    /// Rows; 1 for norms, which are vectors in the file.
    pub rows: usize,
    /// Columns.
    pub columns: usize,
    /// Its initial values.
    pub init: Init,
}

/// Initial values, as in the reference; deviations are in units of `initializer_factor`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Init {
    /// All 1: a norm.
    Ones,
    /// Normal with deviation 1.
    Unit,
    /// Normal with deviation `n^-0.5`.
    InverseRoot(usize),
}

impl WeightSpec {
    /// Whether the weight is a vector, as the norms are.
    pub fn is_vector(&self) -> bool {
        self.init == Init::Ones
    }

    /// The number of values.
    pub fn len(&self) -> usize {
        self.rows * self.columns
    }

    /// Whether there are no values; never so in a checked configuration.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The shape in the file.
    pub fn shape(&self) -> Vec<usize> {
        if self.is_vector() { vec![self.columns] } else { vec![self.rows, self.columns] }
    }
}

impl Weights<WeightSpec> {
    /// The names and shapes of a model's weights.
    pub fn layout(config: &Config) -> Self {
        let vocabulary = |name: &str| WeightSpec {
            name: name.into(),
            rows: config.vocab_size,
            columns: config.d_model,
            init: Init::Unit,
        };
        Self {
            shared: vocabulary("shared.weight"),
            encoder: Stack::layout(config, "encoder", config.num_layers),
            decoder: Stack::layout(config, "decoder", config.num_decoder_layers),
            head: config.untied_head.then(|| vocabulary("lm_head.weight")),
        }
    }
}

impl Stack<WeightSpec> {
    fn layout(config: &Config, stack: &str, blocks: usize) -> Self {
        let bias = |block| WeightSpec {
            name: format!(
                "{stack}.block.{block}.layer.0.SelfAttention.relative_attention_bias.weight"
            ),
            rows: config.relative_attention_num_buckets,
            columns: config.num_heads,
            init: Init::InverseRoot(config.d_model),
        };
        let biases = if config.family.has_bias_per_block() { blocks } else { 1 };
        Self {
            position_biases: (0..biases).map(bias).collect(),
            blocks: (0..blocks).map(|index| Block::layout(config, stack, index)).collect(),
            final_norm: norm(config, format!("{stack}.final_layer_norm.weight")),
        }
    }
}

impl Block<WeightSpec> {
    fn layout(config: &Config, stack: &str, index: usize) -> Self {
        let prefix = format!("{stack}.block.{index}.layer");
        let decoder = stack == "decoder";
        let last = if decoder { 2 } else { 1 };
        Self {
            attention: Attention::layout(config, &format!("{prefix}.0"), "SelfAttention"),
            cross: decoder
                .then(|| Attention::layout(config, &format!("{prefix}.1"), "EncDecAttention")),
            feed_forward: FeedForward::layout(config, &format!("{prefix}.{last}")),
        }
    }
}

impl Attention<WeightSpec> {
    fn layout(config: &Config, layer: &str, kind: &str) -> Self {
        let (inner, model) = (config.inner_dim(), config.d_model);
        let projection = |name: &str, fan_in: usize| WeightSpec {
            name: format!("{layer}.{kind}.{name}.weight"),
            rows: inner,
            columns: model,
            init: Init::InverseRoot(fan_in),
        };
        Self {
            norm: norm(config, format!("{layer}.layer_norm.weight")),
            // Scores are not divided by sqrt(d_kv); the initial queries are instead.
            q: projection("q", model * config.d_kv),
            k: projection("k", model),
            v: projection("v", model),
            o: WeightSpec { rows: model, columns: inner, ..projection("o", inner) },
        }
    }
}

impl FeedForward<WeightSpec> {
    fn layout(config: &Config, layer: &str) -> Self {
        let (model, wide) = (config.d_model, config.d_ff);
        let projection = |name: &str, rows: usize, columns: usize| WeightSpec {
            name: format!("{layer}.DenseReluDense.{name}.weight"),
            rows,
            columns,
            init: Init::InverseRoot(columns),
        };
        Self {
            norm: norm(config, format!("{layer}.layer_norm.weight")),
            wi: projection(if config.gated { "wi_0" } else { "wi" }, wide, model),
            gate: config.gated.then(|| projection("wi_1", wide, model)),
            wo: projection("wo", model, wide),
        }
    }
}

fn norm(config: &Config, name: String) -> WeightSpec {
    WeightSpec { name, rows: 1, columns: config.d_model, init: Init::Ones }
}

impl<P> Weights<P> {
    /// Applies `f` to every weight, in the fixed order.
    pub fn map<Q>(&self, mut f: impl FnMut(&P) -> Q) -> Weights<Q> {
        self.try_map(|weight| Ok::<_, std::convert::Infallible>(f(weight)))
            .unwrap_or_else(|never| match never {})
    }

    /// Applies a fallible `f` to every weight, in the fixed order.
    ///
    /// # Errors
    /// The first error that `f` gives.
    pub fn try_map<Q, E>(&self, mut f: impl FnMut(&P) -> Result<Q, E>) -> Result<Weights<Q>, E> {
        let f = &mut f;
        Ok(Weights {
            shared: f(&self.shared)?,
            encoder: self.encoder.try_map(f)?,
            decoder: self.decoder.try_map(f)?,
            head: self.head.as_ref().map(f).transpose()?,
        })
    }

    /// The weights as a flat list, in the fixed order, for changing them.
    pub fn list_mut(&mut self) -> Vec<&mut P> {
        let mut list = vec![&mut self.shared];
        self.encoder.collect_mut(&mut list);
        self.decoder.collect_mut(&mut list);
        list.extend(&mut self.head);
        list
    }

    /// The weights of the linear layers in the blocks.
    pub(crate) fn linear_mut(&mut self) -> Vec<&mut P> {
        let mut list = Vec::new();
        for block in self.encoder.blocks.iter_mut().chain(&mut self.decoder.blocks) {
            for Attention { q, k, v, o, .. } in
                std::iter::once(&mut block.attention).chain(&mut block.cross)
            {
                list.extend([q, k, v, o]);
            }
            let FeedForward { wi, gate, wo, .. } = &mut block.feed_forward;
            list.extend([wi, wo]);
            list.extend(gate);
        }
        list
    }

    /// The weights as a flat list, in the fixed order: the embedding comes first.
    pub fn list(&self) -> Vec<&P> {
        let mut list = vec![&self.shared];
        self.encoder.collect(&mut list);
        self.decoder.collect(&mut list);
        list.extend(&self.head);
        list
    }

    /// What turns decoder outputs into logits: the head, or the embedding where they are tied.
    pub fn output(&self) -> &P {
        self.head.as_ref().unwrap_or(&self.shared)
    }
}

impl<P> Stack<P> {
    /// The position bias of a block.
    pub(super) fn position_bias(&self, block: usize) -> Option<&P> {
        self.position_biases.get(block).or(self.position_biases.first())
    }

    fn try_map<Q, E>(&self, f: &mut impl FnMut(&P) -> Result<Q, E>) -> Result<Stack<Q>, E> {
        Ok(Stack {
            position_biases: self.position_biases.iter().map(&mut *f).collect::<Result<_, E>>()?,
            blocks: self.blocks.iter().map(|block| block.try_map(f)).collect::<Result<_, E>>()?,
            final_norm: f(&self.final_norm)?,
        })
    }

    fn collect<'a>(&'a self, list: &mut Vec<&'a P>) {
        list.extend(&self.position_biases);
        for block in &self.blocks {
            block.collect(list);
        }
        list.push(&self.final_norm);
    }

    fn collect_mut<'a>(&'a mut self, list: &mut Vec<&'a mut P>) {
        list.extend(&mut self.position_biases);
        for block in &mut self.blocks {
            block.collect_mut(list);
        }
        list.push(&mut self.final_norm);
    }
}

impl<P> Block<P> {
    fn try_map<Q, E>(&self, f: &mut impl FnMut(&P) -> Result<Q, E>) -> Result<Block<Q>, E> {
        Ok(Block {
            attention: self.attention.try_map(f)?,
            cross: self.cross.as_ref().map(|cross| cross.try_map(f)).transpose()?,
            feed_forward: self.feed_forward.try_map(f)?,
        })
    }

    fn collect<'a>(&'a self, list: &mut Vec<&'a P>) {
        for attention in [Some(&self.attention), self.cross.as_ref()].into_iter().flatten() {
            list.extend([&attention.norm, &attention.q, &attention.k, &attention.v, &attention.o]);
        }
        let FeedForward { norm, wi, gate, wo } = &self.feed_forward;
        list.extend([norm, wi]);
        list.extend(gate);
        list.push(wo);
    }

    fn collect_mut<'a>(&'a mut self, list: &mut Vec<&'a mut P>) {
        for attention in [Some(&mut self.attention), self.cross.as_mut()].into_iter().flatten() {
            let Attention { norm, q, k, v, o } = attention;
            list.extend([norm, q, k, v, o]);
        }
        let FeedForward { norm, wi, gate, wo } = &mut self.feed_forward;
        list.extend([norm, wi]);
        list.extend(gate);
        list.push(wo);
    }
}

impl<P> Attention<P> {
    fn try_map<Q, E>(&self, f: &mut impl FnMut(&P) -> Result<Q, E>) -> Result<Attention<Q>, E> {
        Ok(Attention {
            norm: f(&self.norm)?,
            q: f(&self.q)?,
            k: f(&self.k)?,
            v: f(&self.v)?,
            o: f(&self.o)?,
        })
    }
}

impl<P> FeedForward<P> {
    fn try_map<Q, E>(&self, f: &mut impl FnMut(&P) -> Result<Q, E>) -> Result<FeedForward<Q>, E> {
        Ok(FeedForward {
            norm: f(&self.norm)?,
            wi: f(&self.wi)?,
            gate: self.gate.as_ref().map(&mut *f).transpose()?,
            wo: f(&self.wo)?,
        })
    }
}
