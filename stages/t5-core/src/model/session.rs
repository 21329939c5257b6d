//! Decoding step by step: the encoder's work is done once, and every step computes one position per sequence.

use std::sync::Arc;

use burn::tensor::Tensor;

use super::{
    InferenceModel, Network, Parameter, Sequences, Weight,
    weights::{Attention, Block},
};
use crate::operations::{self, AttentionPlan, Keys, Segment};

/// A sequence that is being decoded.
///
/// Lanes can be cloned and dropped at will: a clone shares what was computed so far, which is how beams branch.
#[derive(Debug, Clone)]
pub struct Lane {
    /// Which source sequence it attends to.
    pub source: usize,
    /// The token that the next step reads.
    pub token: u32,
    /// Rows of the cache that hold its earlier positions.
    history: Vec<u32>,
}

impl Lane {
    /// A sequence for `source` that starts with `token`.
    pub fn new(source: usize, token: u32) -> Self {
        Self { source, token, history: Vec::new() }
    }

    /// A lane that goes on from here with `token`.
    #[must_use]
    pub fn follow(&self, token: u32) -> Self {
        Self { token, ..self.clone() }
    }
}

/// Keys and values of a decoder block.
#[derive(Debug)]
struct KvCache {
    /// Of the source tokens, `[tokens, inner]`; in bf16 half as wide.
    source: [Tensor<2>; 2],
    /// Of the decoded positions, in the order they were computed, `[capacity, inner]`, as wide as those.
    decoded: [Tensor<2>; 2],
}

/// The decoding of a batch: the encoded sources, and the KV cache.
#[derive(Debug)]
pub struct Session<'a> {
    network: Network<'a, Weight>,
    source: Sequences,
    cache: Vec<KvCache>,
    /// Rows of the cache in use, and allocated.
    used: usize,
    capacity: usize,
}

impl<'a> Session<'a> {
    /// Encodes the sources. Their ids have passed [`Config::check_ids`](crate::config::Config::check_ids). The cache is allocated for
    /// `positions`, as many as are likely to be decoded in all lanes together, and grows when needed, which copies it.
    pub fn new(model: &'a InferenceModel, source: Sequences, positions: usize) -> Self {
        let network = model.network();
        let encoded = network.encode(&source);
        let cross = model.weights().decoder.blocks.iter().filter_map(|block| block.cross.as_ref());
        let cache = cross
            .map(|layer| {
                let rows = network.linear_each(encoded.clone(), [&layer.k, &layer.v]);
                let source = rows.map(|rows| network.for_cache(rows));
                let decoded =
                    source.each_ref().map(|like| zeros([positions, like.dims()[1]], like));
                KvCache { source, decoded }
            })
            .collect();
        Self { network, source, cache, used: 0, capacity: positions }
    }

    /// Reads each lane's token; gives the decoder's output for it, `[lanes, d_model]`.
    ///
    /// Lanes of one source should be neighbours, which lets them share work.
    pub fn step(&mut self, lanes: &mut [Lane]) -> Tensor<2> {
        self.reserve(lanes.len());
        let first = self.used;
        self.used += lanes.len();
        for (row, lane) in lanes.iter_mut().enumerate() {
            lane.history.push((first + row) as u32);
        }
        let own = Arc::new(self.own_plan(lanes));
        let cross = Arc::new(self.cross_plan(lanes));
        let tokens: Vec<u32> = lanes.iter().map(|lane| lane.token).collect();
        let stack = &self.network.weights.decoder;
        let mut x = self.network.embed(&tokens);
        for (number, (block, cache)) in stack.blocks.iter().zip(&mut self.cache).enumerate() {
            let layer = (&block.attention, stack.position_bias(number));
            x = attend_to_own(&self.network, x, layer, cache, first, &own);
            x = attend_to_source(&self.network, x, block, cache, &cross);
            x = self.network.feed_forward(x, &block.feed_forward);
        }
        self.network.scale(self.network.finish(x, stack))
    }

    /// The forward pass, for the logits of what [`Session::step`] gives.
    pub fn network(&self) -> &Network<'a, Weight> {
        &self.network
    }

    /// Grows the cache.
    fn reserve(&mut self, rows: usize) {
        if self.used + rows <= self.capacity {
            return;
        }
        let more = (self.used + rows).max(2 * self.capacity) - self.capacity;
        for cache in &mut self.cache {
            for tensor in &mut cache.decoded {
                let [_, width] = tensor.dims();
                let room = zeros([more, width], tensor);
                *tensor = Tensor::cat(vec![tensor.clone(), room], 0);
            }
        }
        self.capacity += more;
    }

    fn own_plan(&self, lanes: &[Lane]) -> AttentionPlan {
        let segment = |(row, lane): (usize, &Lane)| Segment {
            queries: row..row + 1,
            keys: Keys::Rows(lane.history.clone()),
            position: lane.history.len() - 1,
        };
        let longest = lanes.iter().map(|lane| lane.history.len()).max().unwrap_or(0);
        let segments: Vec<_> = lanes.iter().enumerate().map(segment).collect();
        let buckets = self.network.buckets(longest, false);
        AttentionPlan::new(self.network.config.num_heads, segments, false, Some(buckets))
    }

    fn cross_plan(&self, lanes: &[Lane]) -> AttentionPlan {
        let mut start = 0;
        let segments = lanes.chunk_by(|one, other| one.source == other.source).map(|lanes| {
            let queries = start..start + lanes.len();
            start = queries.end;
            Segment {
                queries,
                keys: Keys::Run(self.source.runs[lanes[0].source].clone()),
                position: 0,
            }
        });
        let segments: Vec<_> = segments.collect();
        AttentionPlan::new(self.network.config.num_heads, segments, false, None)
    }
}

/// Zeros of the same kind, on the same device.
fn zeros(shape: [usize; 2], like: &Tensor<2>) -> Tensor<2> {
    Tensor::<2>::zeros(shape, &like.device()).cast(like.dtype())
}

fn attend_to_own(
    network: &Network<'_, Weight>,
    x: Tensor<2>,
    (layer, bias): (&Attention<Weight>, Option<&Weight>),
    cache: &mut KvCache,
    first: usize,
    plan: &Arc<AttentionPlan>,
) -> Tensor<2> {
    let normed = network.norm(x.clone(), &layer.norm);
    let [q, k, v] = network.linear_each(normed, [&layer.q, &layer.k, &layer.v]);
    for (tensor, rows) in cache.decoded.iter_mut().zip([k, v]) {
        let rows = network.for_cache(rows);
        let [count, width] = rows.dims();
        // Taking the tensor out leaves it with one owner, so that the backend writes into it instead of copying.
        let cache = std::mem::replace(tensor, rows.clone());
        *tensor = cache.slice_assign([first..first + count, 0..width], rows);
    }
    let [k, v] = cache.decoded.clone();
    let attended = operations::attend(q, k, v, bias.map(Parameter::tensor), plan);
    operations::add(x, network.linear(attended, &layer.o), None)
}

fn attend_to_source(
    network: &Network<'_, Weight>,
    x: Tensor<2>,
    block: &Block<Weight>,
    cache: &KvCache,
    plan: &Arc<AttentionPlan>,
) -> Tensor<2> {
    let Some(layer) = &block.cross else { return x };
    let q = network.linear(network.norm(x.clone(), &layer.norm), &layer.q);
    let [k, v] = cache.source.clone();
    let attended = operations::attend(q, k, v, None, plan);
    operations::add(x, network.linear(attended, &layer.o), None)
}
