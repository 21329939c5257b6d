//! Which examples a step sees: a pure function of the options, the examples' lengths and the epoch.

use super::{Example, Options};
use crate::random::{Stream, mix};

/// Batches whose examples are sorted by length together, so that neighbours are alike but epochs differ.
const POOL: usize = 50;

/// The micro-batches of one epoch, as indices of examples.
pub(super) fn epoch(examples: &[Example], options: &Options, epoch: u64) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..examples.len()).collect();
    if !options.shuffle {
        return cut(&order, options.batch_size);
    }
    let mut stream = Stream::new(mix(mix(options.seed, 0x6261_7463), epoch));
    stream.shuffle(&mut order);
    for pool in order.chunks_mut(options.batch_size * POOL) {
        pool.sort_by_key(|&index| examples[index].target.len() + examples[index].source.len());
    }
    let mut batches = cut(&order, options.batch_size);
    stream.shuffle(&mut batches);
    batches
}

fn cut(order: &[usize], size: usize) -> Vec<Vec<usize>> {
    order.chunks(size).map(<[usize]>::to_vec).collect()
}
