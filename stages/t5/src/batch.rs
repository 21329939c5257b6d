//! Which sequences are computed together.

use burn::tensor::Device;
use rayon::prelude::*;

use crate::{Result, kernels::has_panels};

/// Tokens for each sequence of a batch, in the mean: a batch of longer ones is smaller, for want of memory.
const TOKENS: usize = 256;

/// Batches that are computed side by side. While one waits for memory the other computes, and where there are as many
/// threads their operations need not be shared out. With more of them weights would be read more often.
const SIDES: usize = 2;

/// The results of sequences of some lengths, in their order, which `work` gives for a batch of them. At most `most` are
/// computed at a time.
///
/// # Errors
/// What `work` gives.
pub(crate) fn in_batches<T: Send>(
    device: &Device,
    lengths: &[usize],
    most: usize,
    work: impl Fn(&[usize]) -> Result<Vec<T>> + Sync,
) -> Result<Vec<T>> {
    // Other devices do one thing after the other.
    let sides = if has_panels(device) { SIDES.min(rayon::current_num_threads()) } else { 1 };
    // Long ones first: neighbours then take about as long, and memory peaks at once instead of at the end.
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|&index| std::cmp::Reverse(lengths[index]));
    let batches = batches(&order, lengths, most.div_ceil(sides).max(1));
    let mut results: Vec<(usize, T)> = Vec::with_capacity(lengths.len());
    for batches in batches.chunks(sides) {
        let done: Vec<Vec<T>> =
            batches.par_iter().map(|batch| work(batch)).collect::<Result<_>>()?;
        for (batch, done) in batches.iter().zip(done) {
            results.extend(batch.iter().copied().zip(done));
        }
    }
    results.sort_by_key(|(index, _)| *index);
    Ok(results.into_iter().map(|(_, result)| result).collect())
}

/// Cuts an order, long ones first, into batches.
fn batches<'a>(mut order: &'a [usize], lengths: &[usize], most: usize) -> Vec<&'a [usize]> {
    let mut batches = Vec::new();
    while let Some(&longest) = order.first() {
        let fit = most * TOKENS / lengths[longest].max(1);
        let (batch, rest) = order.split_at(order.len().min(most).min(fit.max(1)));
        batches.push(batch);
        order = rest;
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::cpu_device;

    #[test]
    fn results_are_in_order_and_batches_of_long_sequences_small() {
        let lengths: Vec<usize> = (0..500).map(|index| index * 7919 % 613).collect();
        let work = |batch: &[usize]| {
            let tokens: usize = batch.iter().map(|&index| lengths[index]).sum();
            assert!(batch.len() <= 40 && tokens <= 40 * TOKENS, "{batch:?}");
            Ok(batch.iter().map(|&index| lengths[index]).collect())
        };
        assert_eq!(in_batches(&cpu_device(), &lengths, 40, work).ok(), Some(lengths.clone()));
        let lonely = |batch: &[usize]| {
            assert_eq!(batch.len(), 1);
            Ok(vec![()])
        };
        assert!(in_batches(&cpu_device(), &[5000, 5000], 1, lonely).is_ok());
        assert!(in_batches(&cpu_device(), &[], 1, lonely).is_ok());
    }
}
