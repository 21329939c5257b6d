//! How tables of different sizes share an epoch: multi-task mixing as T5 does it (Raffel et al. 2020, section 3.5.2).

use serde::{Deserialize, Serialize};

use crate::random::{Stream, mix};

/// What decides the shares of tables.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mixing {
    /// Rates of tables are raised to the power of one over it: 1 leaves them in proportion to the examples, and the higher it is the
    /// more equal they become.
    pub temperature: f64,
    /// A table counts as if it had no more examples than this (the paper's K).
    pub limit: Option<usize>,
}

/// Examples that stand one after the other, and how many of them an epoch has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Portion {
    /// How many there are.
    pub examples: usize,
    /// How many an epoch has, of which some may be there more than once.
    pub drawn: usize,
}

impl Mixing {
    /// The portions of tables of some sizes. An epoch has as many examples as the tables together.
    pub fn portions(&self, sizes: &[usize]) -> Vec<Portion> {
        let rate = |&size: &usize| {
            let size = size.min(self.limit.unwrap_or(usize::MAX));
            (size as f64).powf(1.0 / self.temperature)
        };
        let rates: Vec<f64> = sizes.iter().map(rate).collect();
        let (all, sum) = (sizes.iter().sum::<usize>(), rates.iter().sum::<f64>());
        let exact: Vec<f64> = rates.iter().map(|rate| all as f64 * rate / sum).collect();
        let mut drawn: Vec<usize> = exact.iter().map(|share| share.floor() as usize).collect();
        // What is left by rounding down goes to those that lost most.
        let mut losers: Vec<usize> = (0..sizes.len()).collect();
        losers.sort_by(|&one, &other| exact[other].fract().total_cmp(&exact[one].fract()));
        let left = all.saturating_sub(drawn.iter().sum());
        losers.into_iter().take(left).for_each(|table| drawn[table] += 1);
        let portions = sizes.iter().zip(drawn);
        portions.map(|(&examples, drawn)| Portion { examples, drawn }).collect()
    }
}

/// The examples of an epoch, as indices: of each portion those that come next, in one random order of all its examples after the
/// other. So they are drawn equally often, to within one.
pub(super) fn drawn(portions: &[Portion], seed: u64, epoch: u64) -> Vec<usize> {
    let (mut order, mut first) = (Vec::new(), 0);
    for (number, portion) in portions.iter().enumerate() {
        let key = mix(mix(seed, 0x6d69_7869), number as u64);
        let (size, mut at) = (portion.examples as u64, epoch * portion.drawn as u64);
        let end = at + portion.drawn as u64;
        while at < end {
            let pass = at / size;
            let mut all: Vec<usize> = (first..first + portion.examples).collect();
            Stream::new(mix(key, pass)).shuffle(&mut all);
            let until = end.min((pass + 1) * size);
            order.extend(&all[(at - pass * size) as usize..(until - pass * size) as usize]);
            at = until;
        }
        first += portion.examples;
    }
    order
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn rates_are_those_of_the_paper() {
        let sizes = [900, 90, 10];
        let cases = [
            (1.0, None, [900, 90, 10]),
            // min(e, K): 100, 90 and 10 of 200.
            (1.0, Some(100), [500, 450, 50]),
            // Roots: 30, 9.487 and 3.162 of 42.649.
            (2.0, None, [703, 223, 74]),
            (2.0, Some(100), [441, 419, 140]),
            (1e6, None, [334, 333, 333]),
        ];
        for (temperature, limit, expected) in cases {
            let portions = Mixing { temperature, limit }.portions(&sizes);
            let drawn: Vec<_> = portions.iter().map(|portion| portion.drawn).collect();
            assert_eq!(drawn, expected, "{temperature}, {limit:?}");
        }
    }

    proptest! {
        #[test]
        fn portions_fill_the_epoch_and_keep_their_rates(
            sizes in prop::collection::vec(0usize..500, 1..8),
            temperature in 1.0..20.0,
            limit in prop::option::of(1usize..300),
        ) {
            prop_assume!(sizes.iter().any(|size| *size > 0));
            let portions = Mixing { temperature, limit }.portions(&sizes);
            let all: usize = sizes.iter().sum();
            prop_assert_eq!(portions.iter().map(|portion| portion.drawn).sum::<usize>(), all);
            let rate = |size: usize| {
                (size.min(limit.unwrap_or(usize::MAX)) as f64).powf(1.0 / temperature)
            };
            let sum: f64 = sizes.iter().map(|size| rate(*size)).sum();
            for portion in portions {
                let exact = all as f64 * rate(portion.examples) / sum;
                prop_assert!((portion.drawn as f64 - exact).abs() < 1.0, "{portion:?}, {exact}");
                prop_assert_eq!(portion.drawn == 0, portion.examples == 0, "{:?}", portion);
            }
        }

        #[test]
        fn examples_of_a_table_are_drawn_equally_often(
            portions in prop::collection::vec((1usize..40, 0usize..80), 1..5),
            epochs in 1u64..6,
            seed: u64,
        ) {
            let portions: Vec<_> =
                portions.into_iter().map(|(examples, drawn)| Portion { examples, drawn }).collect();
            let mut times = vec![0; portions.iter().map(|portion| portion.examples).sum()];
            for epoch in 0..epochs {
                let order = drawn(&portions, seed, epoch);
                prop_assert_eq!(&order, &drawn(&portions, seed, epoch));
                order.into_iter().for_each(|index| times[index] += 1);
            }
            let mut rest = times.as_slice();
            for portion in portions {
                let (own, others) = rest.split_at(portion.examples);
                rest = others;
                prop_assert_eq!(own.iter().sum::<usize>(), portion.drawn * epochs as usize);
                let (least, most) = (own.iter().min(), own.iter().max());
                prop_assert!(most.zip(least).is_some_and(|(most, least)| most - least <= 1), "{own:?}");
            }
        }
    }
}
