//! Which examples a step sees: a pure function of the options, the examples' lengths and the epoch.

use super::{Batch, Example, Length, Options, mixing::drawn};
use crate::random::{Stream, mix};

/// Batches whose examples are sorted by length together, so that neighbours are alike but epochs differ.
const POOL: usize = 50;

/// The micro-batches of one epoch, as indices of examples.
pub(super) fn epoch(examples: &[Example], options: &Options, epoch: u64) -> Vec<Vec<usize>> {
    let mut order = match options.mix.as_slice() {
        [] => (0..examples.len()).collect(),
        portions => drawn(portions, options.seed, epoch),
    };
    let cut = |order: &[usize], batches| cut(order, examples, options.batch, batches);
    if !options.shuffle {
        return cut(&order, 1);
    }
    let mut stream = Stream::new(mix(mix(options.seed, 0x6261_7463), epoch));
    stream.shuffle(&mut order);
    let mut pools = cut(&order, POOL);
    for pool in &mut pools {
        pool.sort_by_key(|&index| examples[index].tokens());
    }
    let mut batches = cut(&pools.concat(), 1);
    stream.shuffle(&mut batches);
    batches
}

/// Optimizer steps of the whole run.
pub(super) fn total_steps(examples: &[Example], options: &Options) -> u64 {
    let steps = |number| epoch(examples, options, number).len().div_ceil(options.accumulate) as u64;
    match options.length {
        Length::Steps(steps) => steps,
        // What is shuffled falls into batches of tokens in another way each time.
        Length::Epochs(epochs) if options.shuffle && matches!(options.batch, Batch::Tokens(_)) => {
            (0..epochs).map(steps).sum()
        }
        Length::Epochs(epochs) => epochs.saturating_mul(steps(0)),
    }
}

/// Divides an order into runs that are as long as so many batches may be, of one example at least.
fn cut(order: &[usize], examples: &[Example], batch: Batch, batches: usize) -> Vec<Vec<usize>> {
    let limit = batches.saturating_mul(batch.limit());
    let (mut runs, mut size) = (Vec::<Vec<usize>>::new(), 0);
    for &index in order {
        let more = match batch {
            Batch::Examples(_) => 1,
            Batch::Tokens(_) => examples[index].tokens(),
        };
        match runs.last_mut() {
            Some(run) if size + more <= limit => {
                run.push(index);
                size += more;
            }
            _ => {
                runs.push(vec![index]);
                size = more;
            }
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    /// Examples of these numbers of tokens.
    fn examples(lengths: &[usize]) -> Vec<Example> {
        let example = |&length: &usize| Example {
            source: vec![3; length / 2],
            target: vec![3; length - length / 2],
        };
        lengths.iter().map(example).collect()
    }

    proptest! {
        #[test]
        fn an_epoch_has_every_example_once_in_batches_within_the_limit(
            lengths in prop::collection::vec(1usize..60, 1..300),
            size in 1usize..100,
            is_of_tokens: bool,
            shuffle: bool,
            seed: u64,
            number in 0u64..1000,
        ) {
            let batch = if is_of_tokens { Batch::Tokens(size) } else { Batch::Examples(size) };
            let options = Options { batch, shuffle, seed, ..Options::default() };
            let examples = examples(&lengths);
            let batches = epoch(&examples, &options, number);
            let mut seen = batches.concat();
            seen.sort_unstable();
            prop_assert!(seen.into_iter().eq(0..examples.len()));
            let size_of = |batch: &Vec<usize>| -> usize {
                if !is_of_tokens {
                    return batch.len();
                }
                batch.iter().map(|&index| lengths[index]).sum()
            };
            for batch in &batches {
                prop_assert!(size_of(batch) <= size || batch.len() == 1, "{batch:?}");
            }
            // Two neighbours would not have fitted into one.
            let all: usize = batches.iter().map(size_of).sum();
            prop_assert!(batches.len() <= 2 * all / size + 1, "{} batches", batches.len());
            prop_assert_eq!(&batches, &epoch(&examples, &options, number));
        }

        #[test]
        fn the_steps_are_counted_ahead(
            lengths in prop::collection::vec(1usize..60, 1..100),
            size in 1usize..100,
            is_of_tokens: bool,
            accumulate in 1usize..5,
            epochs in 1u64..6,
            seed: u64,
        ) {
            let batch = if is_of_tokens { Batch::Tokens(size) } else { Batch::Examples(size) };
            let length = Length::Epochs(epochs);
            let options = Options { length, batch, accumulate, seed, ..Options::default() };
            let examples = examples(&lengths);
            let steps = |number| epoch(&examples, &options, number).chunks(accumulate).count();
            let counted = (0..epochs).map(steps).sum::<usize>() as u64;
            prop_assert_eq!(total_steps(&examples, &options), counted);
        }
    }

    #[test]
    fn epochs_and_seeds_have_orders_of_their_own() {
        let lengths: Vec<usize> = (0..200).map(|index| 1 + index * 7919 % 53).collect();
        let examples = examples(&lengths);
        for batch in [Batch::Examples(4), Batch::Tokens(100)] {
            let order = |seed, number| {
                let options = Options { batch, seed, ..Options::default() };
                epoch(&examples, &options, number)
            };
            let orders: HashSet<_> = [(1, 0), (1, 1), (1, 2), (2, 0)]
                .into_iter()
                .map(|(seed, number)| order(seed, number))
                .collect();
            assert_eq!(orders.len(), 4);
            let plain = Options { batch, shuffle: false, ..Options::default() };
            assert!(epoch(&examples, &plain, 3).concat().into_iter().eq(0..200));
        }
    }
}
