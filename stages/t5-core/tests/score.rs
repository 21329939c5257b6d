//! Label probabilities against the long way round: every label teacher-forced by itself over the whole vocabulary.

use paraloom_t5_core::{
    config::Config,
    device::default_device,
    model::{Model, Sequences},
    score::{BATCH, Labels, probabilities},
    tokenizer::Tokenizer,
};

type TestResult = Result<(), Box<dyn std::error::Error>>;

/// Log probability of `label` after `source`, without an end.
fn log_probability(
    model: &Model,
    source: &[u32],
    label: &[u32],
) -> Result<f64, Box<dyn std::error::Error>> {
    let network = model.network();
    let source = Sequences::new([source]);
    let shifted = network.shift_right(label);
    let decoded =
        network.decode(&Sequences::new([shifted.as_slice()]), &network.encode(&source), &source);
    let logits = network
        .logits(decoded)
        .into_data()
        .try_to_vec::<f32>()
        .map_err(|error| format!("{error:?}"))?;
    let rows = logits.chunks_exact(model.config().vocab_size).zip(label);
    Ok(rows
        .map(|(row, &token)| {
            let total: f64 = row.iter().map(|&logit| f64::from(logit).exp()).sum();
            f64::from(row[token as usize]) - total.ln()
        })
        .sum())
}

#[test]
fn probabilities_are_those_of_teacher_forcing() -> TestResult {
    let texts = [
        "stsb sentence1: a dog sentence2: a cat 0.0 0.2 1.4 2.6 3.8 4.0 5.0 0123456789",
        "acceptable cats",
    ];
    let tokenizer = Tokenizer::train(texts, &[], 60)?;
    let model = Model::initial(Config::small(64, 16, 32, 2, 2), &default_device(), 9)?;
    let sources = [tokenizer.encode(texts[0], None)?, tokenizer.encode("a cat", None)?];
    for labels in [Labels::stsb(&tokenizer)?, Labels::cola(&tokenizer)?] {
        let found = probabilities(&model.for_inference(), &sources, &labels, BATCH, &|| false)?;
        for (source, found) in sources.iter().zip(found) {
            let label = |name: &String| -> Result<f64, Box<dyn std::error::Error>> {
                Ok(log_probability(&model, source, &tokenizer.pieces(name)?)?.exp())
            };
            let weights = labels.names().iter().map(label).collect::<Result<Vec<f64>, _>>()?;
            let total: f64 = weights.iter().sum();
            for (weight, found) in weights.iter().zip(found) {
                assert!((weight / total - found).abs() < 1e-5, "{} is not {found}", weight / total);
            }
        }
    }
    Ok(())
}
