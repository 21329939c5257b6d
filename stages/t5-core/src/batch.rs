//! Which sequences are computed together.

use burn::tensor::Device;
use rayon::prelude::*;

use crate::{Result, device::has_packed};

/// Mean tokens of a sequence in a batch: a batch of longer ones has fewer, to bound memory.
const TOKENS: usize = 256;

/// Sequences of a batch that is computed beside another, at least: fewer are cheaper in one batch, which reads the weights once.
const LEAST: usize = 32;

/// Batches that are computed side by side. While one waits for memory the other computes, and with as many threads their operations
/// need not be parallel. More of them would read the weights more often.
const SIDES: usize = 2;

/// Results for sequences of these `lengths`, in order: `work` computes those of a batch, by indices. At most `most` are computed at a
/// time.
///
/// # Errors
/// What `work` gives.
pub(crate) fn in_batches<T: Send>(
    device: &Device,
    lengths: &[usize],
    most: usize,
    work: impl Fn(&[usize]) -> Result<Vec<T>> + Sync,
) -> Result<Vec<T>> {
    // Other devices compute one batch after the other.
    let sides = if has_packed(device) { SIDES.min(rayon::current_num_threads()) } else { 1 };
    // Long ones first: neighbours then take about as long, and memory peaks at once instead of at the end.
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|&index| std::cmp::Reverse(lengths[index]));
    let batches = batches(&order, lengths, most, sides);
    let mut results: Vec<(usize, T)> = Vec::with_capacity(lengths.len());
    for batches in batches.chunks(sides) {
        let batches = dealt(batches);
        let done: Vec<Vec<T>> =
            batches.par_iter().map(|batch| work(batch)).collect::<Result<_>>()?;
        for (batch, done) in batches.iter().zip(done) {
            results.extend(batch.iter().copied().zip(done));
        }
    }
    results.sort_by_key(|(index, _)| *index);
    Ok(results.into_iter().map(|(_, result)| result).collect())
}

/// The sequences of batches that are computed side by side, such that each has as many long ones as the others.
fn dealt(batches: &[&[usize]]) -> Vec<Vec<usize>> {
    let all = batches.concat();
    let of_side = |side| all.iter().skip(side).step_by(batches.len()).copied().collect();
    (0..batches.len()).map(of_side).collect()
}

/// Cuts an order, long ones first, into batches of about the same size.
fn batches<'a>(
    mut order: &'a [usize],
    lengths: &[usize],
    most: usize,
    sides: usize,
) -> Vec<&'a [usize]> {
    let most = most.div_ceil(sides).max(1);
    let count = order.len().div_ceil(most);
    let even = count.next_multiple_of(sides);
    let count = if order.len() >= even * LEAST { even } else { count };
    let size = order.len().div_ceil(count.max(1));
    let mut batches = Vec::new();
    while let Some(&longest) = order.first() {
        let fit = most * TOKENS / lengths[longest].max(1);
        let (batch, rest) = order.split_at(order.len().min(size).min(fit.max(1)));
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

    #[test]
    fn sequences_are_dealt_out_evenly_unless_they_are_few() {
        let sizes = |count: usize, sides: usize| -> Vec<usize> {
            let (order, lengths): (Vec<usize>, _) = ((0..count).collect(), vec![20; count]);
            batches(&order, &lengths, 192, sides).into_iter().map(<[usize]>::len).collect()
        };
        assert_eq!(sizes(330, 2), [83, 83, 83, 81]);
        assert_eq!(sizes(128, 2), [64, 64]);
        assert_eq!(sizes(63, 2), [63]);
        assert_eq!(sizes(200, 2), [50; 4]);
        assert_eq!(sizes(330, 1), [165, 165]);
    }
}
