//! Gradient checkpointing (arXiv 1604.06174): memory for time.
//!
//! The forward pass keeps what enters each block, and nothing of what is in it; the backward pass computes the blocks once more,
//! the last one first, each with a graph of its own. The keys and values that the decoder has of the encoder's output are
//! kept as well, and have one graph for all blocks together. So all gradients are sums in the order that one graph of
//! everything has, and the same to the bit.

use burn::tensor::{Gradients, Tensor};

use super::{Packs, lora::Tracked};
use crate::{
    model::Network,
    operations::{AttentionPlan, LossScale},
};

/// A network on weights of which some are trained.
type Learning<'a> = Network<'a, Tracked>;

/// Where a block begins.
struct Entry {
    /// What enters it, `[tokens, d_model]`; nothing where that is the embedded tokens.
    x: Option<Tensor<2>>,
    /// Dropout sites that are passed.
    sites: u64,
}

/// The keys and values that a block has of the encoder's output.
struct Kept {
    keys: [Tensor<2>; 2],
    /// Dropout sites that are passed before and after them.
    sites: [u64; 2],
}

/// The loss of a batch, `[1]`, and the gradients of what `tracked` tracks, graph by graph: those of a tensor that is in several
/// add up in this order. What was embedded comes last to first.
///
/// `plain` is the same network without anything tracked; `is_trained` says whether anything is whose name begins so, or what
/// enters it may depend on it.
pub(super) fn gradients(
    plain: &Learning,
    tracked: &Learning,
    batch: &Packs,
    scale: LossScale,
    is_trained: &dyn Fn(&str) -> bool,
) -> (Tensor<1>, Vec<Gradients>) {
    let (encoder, encoded) = encode(plain, batch);
    let (decoder, kept) = decode(plain, batch, &encoded);
    let mut all = Vec::new();
    let (loss, of_keys) = back_through_decoder(tracked, batch, scale, (decoder, &kept), &mut all);
    let of_encoded = back_through_keys(tracked, &encoded, (kept, of_keys), &mut all);
    back_through_encoder(tracked, batch, (encoder, of_encoded), is_trained, &mut all);
    (loss, all)
}

/// The entries of the encoder's blocks, and its output.
fn encode(plain: &Learning, batch: &Packs) -> (Vec<Entry>, Tensor<2>) {
    let stack = &plain.weights.encoder;
    let plan = plain.self_plan(&batch.source, false);
    let (mut entries, mut x) = (Vec::new(), None);
    for number in 0..stack.blocks.len() {
        entries.push(Entry { x: x.clone(), sites: plain.sites() });
        x = Some(encoder_part(plain, batch, x, number, &plan));
    }
    let encoded = x.unwrap_or_else(|| plain.finish(plain.embed(&batch.source.ids), stack));
    (entries, encoded)
}

/// A block of the encoder, with the embedding before the first one and the norm behind the last one.
fn encoder_part(
    network: &Learning,
    batch: &Packs,
    x: Option<Tensor<2>>,
    number: usize,
    plan: &impl Fn() -> AttentionPlan,
) -> Tensor<2> {
    let stack = &network.weights.encoder;
    let x = x.unwrap_or_else(|| network.embed(&batch.source.ids));
    let x = network.encoder_block(x, number, plan());
    if number + 1 == stack.blocks.len() { network.finish(x, stack) } else { x }
}

/// The entries of the decoder's blocks, and what they have of the encoder's output.
fn decode(plain: &Learning, batch: &Packs, encoded: &Tensor<2>) -> (Vec<Entry>, Vec<Kept>) {
    let plans =
        (plain.self_plan(&batch.target, true), plain.cross_plan(&batch.target, &batch.source));
    let (mut entries, mut all, mut x) = (Vec::new(), Vec::new(), None);
    for number in 0..plain.weights.decoder.blocks.len() {
        entries.push(Entry { x: x.clone(), sites: plain.sites() });
        let x_in = x.unwrap_or_else(|| plain.embed(&batch.target.ids));
        x = Some(plain.decoder_block(x_in, number, (&plans.0, &plans.1), |layer| {
            let before = plain.sites();
            let keys = plain.keys(encoded, layer);
            all.push(Kept { keys: keys.clone(), sites: [before, plain.sites()] });
            keys
        }));
    }
    (entries, all)
}

/// The loss, and the gradients of the keys and values of each block of the decoder.
fn back_through_decoder(
    tracked: &Learning,
    batch: &Packs,
    scale: LossScale,
    (entries, kept): (Vec<Entry>, &[Kept]),
    all: &mut Vec<Gradients>,
) -> (Tensor<1>, Vec<[Tensor<2>; 2]>) {
    let plans =
        (tracked.self_plan(&batch.target, true), tracked.cross_plan(&batch.target, &batch.source));
    let (mut loss, mut of_x, mut of_keys) = (None, None, Vec::new());
    for (number, (entry, kept)) in entries.into_iter().zip(kept).enumerate().rev() {
        tracked.set_sites(entry.sites);
        let x = entry.x.map(leaf);
        let keys = kept.keys.clone().map(leaf);
        let x_in = x.clone().unwrap_or_else(|| tracked.embed(&batch.target.ids));
        let x_out = tracked.decoder_block(x_in, number, (&plans.0, &plans.1), |_| {
            tracked.set_sites(kept.sites[1]);
            keys.clone()
        });
        let graph = match of_x.take() {
            Some(gradient) => product(x_out, gradient),
            // Nothing is known yet behind the last block.
            None => {
                let decoded = tracked.finish(x_out, &tracked.weights.decoder);
                loss.insert(batch.loss_of(tracked, tracked.scale(decoded), scale)).clone()
            }
        };
        let mut gradients = graph.backward();
        of_x = x.map(|x| take(&x, &mut gradients));
        of_keys.push(keys.map(|keys| take(&keys, &mut gradients)));
        all.push(gradients);
    }
    of_keys.reverse();
    (loss.unwrap_or_else(|| batch.loss(tracked, scale)), of_keys)
}

/// The gradient of the encoder's output.
fn back_through_keys(
    tracked: &Learning,
    encoded: &Tensor<2>,
    (kept, of_keys): (Vec<Kept>, Vec<[Tensor<2>; 2]>),
    all: &mut Vec<Gradients>,
) -> Tensor<2> {
    let encoded = leaf(encoded.clone());
    let layers = tracked.weights.decoder.blocks.iter().filter_map(|block| block.cross.as_ref());
    let keys = layers.zip(kept).flat_map(|(layer, kept)| {
        tracked.set_sites(kept.sites[0]);
        tracked.keys(&encoded, layer)
    });
    // What is added last is the first on the way back, as in one graph of everything.
    let products = keys.zip(of_keys.into_iter().flatten()).map(|(keys, of)| product(keys, of));
    let Some(graph) = products.reduce(|graph, product| graph + product) else {
        return encoded.inner().zeros_like();
    };
    let mut gradients = graph.backward();
    let of_encoded = take(&encoded, &mut gradients);
    all.push(gradients);
    of_encoded
}

/// Down to the first block in which anything is trained.
fn back_through_encoder(
    tracked: &Learning,
    batch: &Packs,
    (entries, of_encoded): (Vec<Entry>, Tensor<2>),
    is_trained: &dyn Fn(&str) -> bool,
    all: &mut Vec<Gradients>,
) {
    let last = entries.len().saturating_sub(1);
    let is_needed = |number: &usize| {
        is_trained(&format!("encoder.block.{number}."))
            || (*number == last && is_trained("encoder.final_layer_norm."))
    };
    let Some(first) = (0..entries.len()).find(is_needed) else { return };
    let plan = tracked.self_plan(&batch.source, false);
    let mut of_x = of_encoded;
    for (number, entry) in entries.into_iter().enumerate().skip(first).rev() {
        tracked.set_sites(entry.sites);
        let x = entry.x.map(leaf);
        let x_out = encoder_part(tracked, batch, x.clone(), number, &plan);
        let mut gradients = product(x_out, of_x).backward();
        let before = x.map(|x| take(&x, &mut gradients));
        all.push(gradients);
        let Some(before) = before else { return };
        of_x = before;
    }
}

/// A tensor as the beginning of a graph.
fn leaf(x: Tensor<2>) -> Tensor<2> {
    Tensor::from_inner(x.inner()).require_grad()
}

/// Takes the gradient of a leaf.
fn take(leaf: &Tensor<2>, gradients: &mut Gradients) -> Tensor<2> {
    leaf.grad_remove(gradients).unwrap_or_else(|| leaf.clone().inner().zeros_like())
}

/// The end of a graph from which `gradient` comes back to `x`.
fn product(x: Tensor<2>, gradient: Tensor<2>) -> Tensor<1> {
    (x * Tensor::from_inner(gradient)).sum()
}
