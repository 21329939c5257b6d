//! Times training steps and generation of small models: `cargo run --release -p paraloom-t5-core --example speed`.

use std::{io::Write, time::Instant};

use paraloom_t5_core::{
    Error, Result,
    config::{Activation, Config},
    decode::{self, Row, generate},
    device::default_device,
    model::{InferenceModel, Model},
    random::Stream,
    train::{Batch, Example, Length, Options, Trainer},
};

fn main() -> Result<()> {
    let only = std::env::args().nth(1);
    let wanted = |name: &str| only.as_ref().is_none_or(|only| only == name);
    for (name, d_model, vocab, batch) in
        [("128", 128, 2048, 64), ("256", 256, 4096, 32), ("256b", 256, 4096, 64)]
    {
        if wanted(name) {
            let config = Config::small(vocab, d_model, 4 * d_model, 3, d_model / 32);
            let model = Model::initial(config, &default_device(), 1)?;
            generation(&model.for_inference())?;
            training(model, batch)?;
        }
    }
    let small = Config::small(32_128, 512, 2048, 6, 8);
    let t5_small = Config { gated: false, activation: Activation::Relu, ..small };
    if wanted("t5-small") {
        let model = Model::initial(t5_small, &default_device(), 1)?;
        generation(&model.for_inference())?;
        training(model, 8)?;
    }
    Ok(())
}

/// Prints a line.
fn say(line: &str) -> Result<()> {
    let path = std::path::PathBuf::from("stdout");
    writeln!(std::io::stdout(), "{line}").map_err(|source| Error::Io { path, source })
}

fn sequence(stream: &mut Stream, vocab: usize, mean: usize) -> Vec<u32> {
    let length = mean / 2 + stream.below(mean);
    (0..length).map(|_| 3 + stream.below(vocab - 3) as u32).chain([1]).collect()
}

fn training(model: Model, batch: usize) -> Result<()> {
    let (vocab, d_model) = (model.config().vocab_size, model.config().d_model);
    let mut stream = Stream::new(7);
    let examples = (0..2048)
        .map(|_| Example {
            source: sequence(&mut stream, vocab, 25),
            target: sequence(&mut stream, vocab, 25),
        })
        .collect();
    let options = Options {
        length: Length::Steps(1000),
        batch: Batch::Examples(batch),
        accumulate: 1,
        ..Options::default()
    };
    let mut trainer = Trainer::new(model, examples, options)?;
    let mut times = Vec::new();
    let start = Instant::now();
    while times.len() < 5 || (start.elapsed().as_secs() < 5 && times.len() < 60) {
        times.extend(trainer.step()?.map(|step| (step.seconds, step.tokens)));
    }
    times.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (seconds, tokens) = times[times.len() / 2];
    say(&format!(
        "train d_model {d_model} vocab {vocab} batch {batch}: {:.1} ms a step (about {tokens} tokens)",
        seconds * 1e3
    ))
}

fn generation(model: &InferenceModel) -> Result<()> {
    let (vocab, d_model) = (model.config().vocab_size, model.config().d_model);
    let mut stream = Stream::new(8);
    let rows: Vec<Row> = (0..64)
        .map(|_| Row { ids: sequence(&mut stream, vocab, 28), seed: 1, ..Row::default() })
        .collect();
    let options =
        decode::Options { max_new_tokens: 32, batch_size: 32, ..decode::Options::default() };
    let start = Instant::now();
    let found = generate(model, &rows, &options, &|| false)?;
    let tokens: usize = found.iter().flatten().map(|candidate| candidate.ids.len()).sum();
    let seconds = start.elapsed().as_secs_f64();
    say(&format!("greedy d_model {d_model} vocab {vocab}: {:.0} tokens/s", tokens as f64 / seconds))
}
