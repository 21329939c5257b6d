//! Sampling: drawn from the exact distribution, and a row's own business whatever stands beside it.

use std::{path::Path, sync::LazyLock};

use paraloom_t5_core::{
    config::Config,
    decode::{Candidate, Draw, EarlyStopping, Options, Row, Strategy, generate},
    device::default_device,
    folder,
    model::{InferenceModel, Model},
    numeric::Precision,
    random::{Stream, mix},
};
use serde_json::Value;

type TestResult = Result<(), Box<dyn std::error::Error>>;

fn fixture(name: &str) -> Result<(InferenceModel, Value), Box<dyn std::error::Error>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    let recorded = std::fs::read_to_string(directory.join("recorded.json"))?;
    Ok((
        folder::load_for_inference(&directory, &default_device(), Precision::F32)?,
        serde_json::from_str(&recorded)?,
    ))
}

fn sample(temperature: f64, top_k: usize, top_p: f64) -> Strategy {
    Strategy::Sample(Draw { temperature, top_k, top_p, ..Draw::default() })
}

/// The chi-square statistic in units of its standard deviation, from its mean. Rare outcomes are taken together, so
/// that every expected count is large enough for the statistic to mean something.
fn surprise(counts: &[f64], probabilities: &[f64], draws: f64) -> f64 {
    let (mut rare_count, mut rare_expected, mut chi_square, mut cells) = (0.0, 0.0, 0.0, 0.0);
    for (count, probability) in counts.iter().zip(probabilities) {
        let expected = probability * draws;
        if *probability == 0.0 {
            assert!(*count == 0.0, "a token was drawn that the filters had removed");
        } else if expected < 20.0 {
            rare_count += count;
            rare_expected += expected;
        } else {
            chi_square += (count - expected).powi(2) / expected;
            cells += 1.0;
        }
    }
    if rare_expected > 0.0 {
        chi_square += f64::powi(rare_count - rare_expected, 2) / rare_expected;
        cells += 1.0;
    }
    let freedom = cells - 1.0;
    (chi_square - freedom) / (2.0 * freedom).sqrt()
}

#[test]
fn tokens_are_drawn_from_the_distribution_that_transformers_draws_from() -> TestResult {
    let draws = 8_000u32;
    for name in ["t5", "t5-1.1", "odd"] {
        let (model, recorded) = fixture(name)?;
        for how in recorded["sampled"].as_array().ok_or("samplings")? {
            let source: Vec<u32> = serde_json::from_value(
                recorded["inputs"][how["row"].as_u64().ok_or("row")? as usize].clone(),
            )?;
            let number = |name: &str| how[name].as_f64().ok_or("number");
            let options = Options {
                strategy: sample(
                    number("temperature")?,
                    number("top_k")? as usize,
                    number("top_p")?,
                ),
                max_new_tokens: 1,
                ..Options::default()
            };
            let rows: Vec<Row> = (0..draws)
                .map(|seed| Row {
                    ids: source.clone(),
                    seed: mix(77, seed.into()),
                    ..Row::default()
                })
                .collect();
            let mut counts = vec![0.0; model.config().vocab_size];
            for candidate in generate(&model, &rows, &options, &|| false)?.iter().flatten() {
                let eos = model.config().eos_token_id;
                counts[candidate.ids.first().copied().unwrap_or(eos) as usize] += 1.0;
            }
            let probabilities: Vec<f64> = serde_json::from_value(how["probabilities"].clone())?;
            let surprise = surprise(&counts, &probabilities, draws.into());
            assert!(surprise.abs() < 4.0, "{name}, {how}: {surprise} standard deviations off");
        }
    }
    Ok(())
}

#[test]
fn draws_of_one_row_are_independent_of_each_other() -> TestResult {
    // The second token given the first, for candidates of the same row: as often as chance has it.
    let (model, recorded) = fixture("t5-1.1")?;
    let ids: Vec<u32> = serde_json::from_value(recorded["inputs"][0].clone())?;
    let options = Options {
        strategy: sample(1.0, 2, 1.0),
        candidates: 4000,
        max_new_tokens: 1,
        ..Options::default()
    };
    let found = generate(&model, &[Row { ids, seed: 5, ..Row::default() }], &options, &|| false)?;
    let first = found[0][0].ids.clone();
    let drawn: Vec<bool> = found[0].iter().map(|candidate| candidate.ids == first).collect();
    let share = drawn.iter().filter(|&&one| one).count() as f64 / drawn.len() as f64;
    let alike = drawn.windows(2).filter(|pair| pair[0] == pair[1]).count() as f64;
    let expected = share * share + (1.0 - share) * (1.0 - share);
    let pairs = (drawn.len() - 1) as f64;
    let deviation = (expected * (1.0 - expected) / pairs).sqrt();
    assert!(
        (alike / pairs - expected).abs() < 4.0 * deviation + 1e-3,
        "{alike} of {pairs}, {expected}"
    );
    Ok(())
}

static TINY: LazyLock<InferenceModel> = LazyLock::new(|| {
    Model::initial(Config::small(40, 24, 40, 2, 3), &default_device(), 11)
        .expect("it is a model")
        .for_inference()
});

/// The ways of writing, with what each gives for all rows together.
static TOGETHER: LazyLock<Vec<(Options, Vec<Vec<Candidate>>)>> = LazyLock::new(|| {
    let early_stopping = EarlyStopping::No;
    let beams = |beams, groups| Strategy::Beam {
        beams,
        groups,
        diversity_penalty: 1.0,
        length_penalty: 1.0,
        early_stopping,
    };
    let together = |(strategy, candidates)| {
        let options = Options { strategy, candidates, max_new_tokens: 8, ..Options::default() };
        let found = generate(&TINY, &rows(), &options, &|| false).expect("it generates");
        (options, found)
    };
    let sampled = sample(0.9, 20, 0.95);
    [(Strategy::Greedy, 1), (sampled, 2), (beams(3, 1), 2), (beams(4, 2), 4)].map(together).into()
});

fn rows() -> Vec<Row> {
    let mut stream = Stream::new(3);
    let mut row = |seed| {
        let length = 1 + stream.below(40);
        let words = (0..length).map(|_| 2 + stream.below(38) as u32);
        Row { ids: words.chain([1]).collect(), seed, ..Row::default() }
    };
    (100..148).map(&mut row).collect()
}

#[test]
fn threads_do_not_change_a_row() -> TestResult {
    for (options, expected) in TOGETHER.iter() {
        for threads in [1, 2, 5] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
            let found = pool.install(|| generate(&TINY, &rows(), options, &|| false))?;
            // To the bit: scores are compared too.
            assert!(found == *expected, "{threads} threads");
        }
    }
    Ok(())
}

// The matrix products of others do not promise it.
#[cfg(not(any(feature = "cuda", feature = "torch", feature = "wgpu")))]
mod alone {
    use proptest::prelude::*;

    use super::{Options, Row, TINY, TOGETHER, generate, rows};

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(40) })]

        /// Any rows in any order, cut into any calls, computed in batches of any size, give what all together gave.
        #[test]
        fn a_row_does_not_depend_on_its_neighbours(
            order in Just((0..48usize).collect::<Vec<_>>()).prop_shuffle(),
            count in 1..48usize,
            part in 1..48usize,
            batch_size in 1..70usize,
            which in 0..3usize,
        ) {
            let (options, expected) = &TOGETHER[which];
            let options = Options { batch_size, ..options.clone() };
            let all = rows();
            for part in order[..count].chunks(part) {
                let rows: Vec<Row> = part.iter().map(|&index| all[index].clone()).collect();
                let found = generate(&TINY, &rows, &options, &|| false).expect("it generates");
                for (index, found) in part.iter().zip(found) {
                    prop_assert_eq!(&found, &expected[*index]);
                }
            }
        }
    }
}
