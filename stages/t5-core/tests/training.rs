//! What a training run promises: exact resume, and an end to numbers that are none.

use burn::tensor::Tensor;
use paraloom_t5_core::{
    Error,
    config::Config,
    device::{check_precision, default_device},
    folder,
    model::{Model, Weights},
    numeric::Float,
    random::Stream,
    train::{Batch, Example, Length, Lora, Mixing, Optimizer, Options, Schedule, Trainer},
};

type TestResult = Result<(), Box<dyn std::error::Error>>;

fn examples() -> Vec<Example> {
    let mut stream = Stream::new(5);
    let mut sequence =
        || (0..2 + stream.below(9)).map(|_| 3 + stream.below(50) as u32).chain([1]).collect();
    (0..41).map(|_| Example { source: sequence(), target: sequence() }).collect()
}

fn model() -> Result<Model, Error> {
    Model::initial(
        Config { dropout_rate: 0.2, ..Config::small(60, 16, 32, 2, 2) },
        &default_device(),
        3,
    )
}

fn bytes(model: &Model) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    folder::save(model, folder.path())?;
    Ok(std::fs::read(folder.path().join("model.safetensors"))?)
}

fn lora(targets: &[&str]) -> Lora {
    let targets = targets.iter().map(|target| (*target).to_owned()).collect();
    Lora { rank: 3, alpha: 6.0, dropout: 0.1, targets }
}

/// The names of the weights that differ between two models.
fn changed(one: &Model, other: &Model) -> Vec<String> {
    let names = Weights::layout(one.config());
    let pairs = one.weights().list().into_iter().zip(other.weights().list());
    let differ = |(one, other): (&Tensor<2>, &Tensor<2>)| {
        one.clone().into_data() != other.clone().into_data()
    };
    let named = names.list().into_iter().zip(pairs).filter(|(_, pair)| differ(*pair));
    named.map(|(spec, _)| spec.name.clone()).collect()
}

#[test]
fn what_is_frozen_stays_and_adapters_are_where_they_were_asked_for() -> TestResult {
    let learn = |lora: Option<Lora>, freeze: &[&str]| -> Result<_, Error> {
        let freeze = freeze.iter().map(|name| (*name).to_owned()).collect();
        let options = Options {
            lora,
            freeze,
            learning_rate: 1e-2,
            batch: Batch::Examples(4),
            ..Options::default()
        };
        let mut trainer = Trainer::new(model()?, examples(), options)?;
        let before = trainer.evaluate(&examples(), &|| false)?;
        while trainer.step()?.is_some() {}
        assert!(trainer.evaluate(&examples(), &|| false)? < before);
        Ok(changed(&trainer.model(), &model()?))
    };
    let names = learn(None, &["encoder.*", "*layer_norm*", "shared.weight"])?;
    let is_left = |name: &String| name.starts_with("decoder.") && !name.contains("layer_norm");
    assert!(names.len() > 20 && names.iter().all(is_left), "{names:?}");
    let names = learn(Some(lora(&["q", "SelfAttention.o"])), &["encoder.block.1.*"])?;
    let is_target = |name: &String| {
        (name.ends_with(".q.weight") || name.ends_with("SelfAttention.o.weight"))
            && !name.starts_with("encoder.block.1.")
    };
    assert!(names.len() == 2 + 6 && names.iter().all(is_target), "{names:?}");

    for (lora, freeze, message) in [
        (
            None,
            vec!["encoder.blocks.*"],
            "no weight is called `encoder.blocks.*`; names are such as `encoder.",
        ),
        (None, vec!["*"], "all weights are frozen"),
        (None, vec!["[a"], "`[a`"),
        (
            Some(lora(&["query"])),
            vec![],
            "no linear layer `query`; there are q, k, v, o, wi_0, wi_1 and wo",
        ),
        (Some(lora(&["q"])), vec!["*.q.weight"], "would get an adapter are frozen"),
    ] {
        let error = learn(lora, &freeze).expect_err(message).to_string();
        assert!(error.contains(message), "{error}");
    }
    Ok(())
}

#[test]
fn a_resumed_run_ends_with_the_same_bytes() -> TestResult {
    let adam = Optimizer::AdamW { betas: [0.9, 0.999], eps: 1e-8 };
    let adafactor = Optimizer::Adafactor { scale_parameter: true };
    let some = || vec!["shared.weight".to_owned(), "encoder.*".to_owned()];
    let (fours, tokens) = (Batch::Examples(4), Batch::Tokens(60));
    let mix = Mixing { temperature: 4.0, limit: None }.portions(&[33, 8]);
    for (optimizer, batch, mix, lora, freeze) in [
        (adam, fours, vec![], None, vec![]),
        (adam, tokens, vec![], None, vec![]),
        (adam, fours, mix.clone(), None, vec![]),
        (adafactor, tokens, mix, None, vec![]),
        (adafactor, fours, vec![], None, some()),
        (adam, fours, vec![], Some(lora(&["q", "wo"])), vec![]),
        (adafactor, tokens, vec![], Some(lora(&["EncDecAttention.v", "k"])), some()),
    ] {
        let options = Options {
            lora: lora.clone(),
            freeze: freeze.clone(),
            length: Length::Epochs(3),
            batch,
            mix,
            accumulate: 2,
            optimizer,
            learning_rate: 1e-3,
            ..Options::default()
        };
        let mut whole = Trainer::new(model()?, examples(), options.clone())?;
        while whole.step()?.is_some() {}
        let folder = tempfile::tempdir()?;
        let mut halved = Trainer::new(model()?, examples(), options.clone())?;
        for _ in 0..7 {
            halved.step()?;
        }
        let best = halved.evaluate(&examples(), &|| false)?;
        halved.save(folder.path())?;
        drop(halved);
        let mut resumed = Trainer::load(folder.path(), model()?, examples(), options)?;
        assert_eq!((resumed.steps_done(), resumed.lowest_cost()), (7, Some(best)));
        while resumed.step()?.is_some() {}
        assert!(whole.steps_done() >= 16, "{batch:?}: {} steps", whole.steps_done());
        assert_eq!(whole.steps_done(), resumed.steps_done());
        let same = bytes(&whole.model())? == bytes(&resumed.model())?;
        assert!(same, "{optimizer:?} {batch:?} {lora:?} {freeze:?}");
    }
    Ok(())
}

/// Products in bf16 lead where those in f32 do: the loss falls as far, to within a hundredth.
#[test]
#[expect(clippy::print_stdout, reason = "a test that is skipped says so")]
fn training_in_bf16_learns_as_well() -> TestResult {
    if let Err(error) = check_precision(&default_device(), Float::Bf16.into()) {
        println!("skipped: {error}");
        return Ok(());
    }
    let losses = |precision| -> Result<(f64, f64), Box<dyn std::error::Error>> {
        let options = Options {
            length: Length::Epochs(40),
            batch: Batch::Examples(8),
            accumulate: 1,
            learning_rate: 3e-3,
            dropout: Some(0.0),
            precision,
            ..Options::default()
        };
        let mut trainer = Trainer::new(model()?, examples(), options)?;
        let before = trainer.evaluate(&examples(), &|| false)?;
        while trainer.step()?.is_some() {}
        Ok((before, trainer.evaluate(&examples(), &|| false)?))
    };
    let ((before, single), (_, half)) = (losses(Float::F32)?, losses(Float::Bf16)?);
    assert!(single < before / 2.0, "{before} before, {single} after");
    assert!(
        (half / single - 1.0).abs() < 0.01 * before / single,
        "{single} in f32, {half} in bf16"
    );
    assert!(half.to_bits() != single.to_bits(), "bf16 has fewer digits");
    Ok(())
}

/// Blocks that are computed once more have the same dropout, and their gradients are added up in the same order.
#[test]
fn gradient_checkpointing_changes_no_bit() -> TestResult {
    let all = ["q", "k", "v", "o", "wi_0", "wo"];
    let encoder = ["shared.weight", "encoder.*"];
    let cases: [(&str, Option<Lora>, &[&str]); 8] = [
        ("everything", None, &[]),
        ("the decoder", None, &encoder),
        ("the encoder", None, &["shared.weight", "decoder.*"]),
        ("the last norm of the encoder", None, &["shared.weight", "encoder.block.*"]),
        ("blocks, and no embedding", None, &["shared.weight", "encoder.block.0.*"]),
        ("adapters everywhere", Some(lora(&all)), &[]),
        ("adapters of keys and values", Some(lora(&["EncDecAttention.k", "v"])), &[]),
        ("adapters of the decoder", Some(lora(&["v"])), &encoder),
    ];
    let mut configs = vec![Config::small(60, 16, 32, 3, 2)];
    configs.push(Config { untied_head: true, num_decoder_layers: 1, ..configs[0].clone() });
    configs.push(Config { num_layers: 1, ..configs[0].clone() });
    let precisions = match check_precision(&default_device(), Float::Bf16.into()) {
        Ok(()) => vec![Float::F32, Float::Bf16],
        Err(_) => vec![Float::F32],
    };
    let pairs = configs.iter().flat_map(|config| precisions.iter().map(move |of| (config, *of)));
    for (config, precision) in pairs {
        let config = Config { dropout_rate: 0.2, ..config.clone() };
        for (name, lora, freeze) in &cases {
            let learn = |gradient_checkpointing| -> Result<_, Box<dyn std::error::Error>> {
                let options = Options {
                    length: Length::Steps(3),
                    learning_rate: 1e-2,
                    accumulate: 2,
                    lora: lora.clone(),
                    freeze: freeze.iter().map(|name| (*name).to_owned()).collect(),
                    precision,
                    gradient_checkpointing,
                    ..Options::default()
                };
                let model = Model::initial(config.clone(), &default_device(), 3)?;
                let mut trainer = Trainer::new(model, examples(), options)?;
                let mut told = Vec::new();
                while let Some(step) = trainer.step()? {
                    told.push([step.loss, step.gradient_norm].map(f64::to_bits));
                }
                Ok((told, bytes(&trainer.model())?))
            };
            let (plain, checkpointed) = (learn(false)?, learn(true)?);
            assert_eq!(plain.0, checkpointed.0, "{name}");
            assert!(plain.1 == checkpointed.1, "{name}");
        }
    }
    Ok(())
}

/// What a step does where memory ran out: the same, but for rounding.
#[test]
fn halved_batches_give_the_same_gradients() -> TestResult {
    let options = Options {
        dropout: Some(0.0),
        batch: Batch::Examples(8),
        accumulate: 1,
        ..Options::default()
    };
    let mut whole = Trainer::new(model()?, examples(), options.clone())?;
    let mut halved = Trainer::new(model()?, examples(), options)?;
    halved.halve_batches();
    for _ in 0..3 {
        let (Some(one), Some(other)) = (whole.step()?, halved.step()?) else {
            return Err("the run is longer".into());
        };
        assert!((one.loss - other.loss).abs() < 1e-5, "{one:?} {other:?}");
        assert!((one.gradient_norm / other.gradient_norm - 1.0).abs() < 1e-4, "{one:?} {other:?}");
        assert_eq!(
            (one.examples, one.tokens, one.epoch),
            (other.examples, other.tokens, other.epoch)
        );
    }
    Ok(())
}

/// Two models that are equally good still are after a resume: a decimal may be read as its neighbour.
#[test]
fn what_the_best_model_cost_is_kept_to_the_bit() -> TestResult {
    let folder = tempfile::tempdir()?;
    let mut stream = Stream::new(8);
    for _ in 0..50 {
        let cost = -100.0 * stream.next_f64();
        let mut trainer = Trainer::new(model()?, examples(), Options::default())?;
        trainer.judge(cost);
        trainer.save(folder.path())?;
        let mut resumed = Trainer::load(folder.path(), model()?, examples(), Options::default())?;
        assert_eq!(resumed.lowest_cost().map(f64::to_bits), Some(cost.to_bits()));
        resumed.judge(cost);
        assert_eq!(resumed.judged_since_best(), 1, "the first of equals is kept");
    }
    Ok(())
}

#[test]
fn a_checkpoint_of_another_run_is_refused() -> TestResult {
    let folder = tempfile::tempdir()?;
    Trainer::new(model()?, examples(), Options::default())?.save(folder.path())?;
    let options = Options { seed: 1, ..Options::default() };
    let resumed = Trainer::load(folder.path(), model()?, examples(), options);
    assert!(matches!(resumed, Err(Error::Malformed { .. })));
    Ok(())
}

#[test]
fn training_learns_and_divergence_stops_it() -> TestResult {
    let target = vec![5, 6, 7, 1];
    let examples: Vec<Example> = examples()
        .into_iter()
        .map(|example| Example { target: target.clone(), ..example })
        .collect();
    let options = Options {
        length: Length::Steps(60),
        accumulate: 1,
        learning_rate: 1e-2,
        ..Options::default()
    };
    let mut trainer = Trainer::new(model()?, examples.clone(), options.clone())?;
    let before = trainer.evaluate(&examples, &|| false)?;
    while trainer.step()?.is_some() {}
    let after = trainer.evaluate(&examples, &|| false)?;
    assert!(after < 0.5 * before, "{before} became {after}");
    assert_eq!((trainer.lowest_cost(), trainer.judged_since_best()), (Some(after), 0));
    let options = Options { learning_rate: 1e30, clip_norm: None, ..options };
    let mut trainer = Trainer::new(model()?, examples, options)?;
    let outcome = (0..60).find_map(|_| trainer.step().err());
    assert!(matches!(outcome, Some(Error::Diverged { .. })), "{outcome:?}");
    Ok(())
}

/// A model all of whose weights are `value`.
fn constant(value: f32) -> Result<Model, Error> {
    let config = Config { dropout_rate: 0.0, ..Config::small(60, 16, 32, 2, 2) };
    Model::from_values(config, &default_device(), |spec| Ok(vec![value; spec.len()]))
}

#[test]
fn weights_that_overflow_stop_the_first_step() -> TestResult {
    let mut trainer = Trainer::new(constant(1e38)?, examples(), Options::default())?;
    let Err(error) = trainer.step() else { return Err("a step was made".into()) };
    assert!(matches!(error, Error::Diverged { step: 1, .. }), "{error}");
    assert!(error.to_string().contains("lower the learning rate"), "{error}");
    assert_eq!(trainer.steps_done(), 0);
    Ok(())
}

#[test]
fn the_last_good_checkpoint_outlives_a_divergence() -> TestResult {
    // Every step multiplies the weights by -99.
    let options = Options {
        length: Length::Steps(100),
        learning_rate: 10.0,
        weight_decay: 10.0,
        schedule: Schedule::Constant,
        clip_norm: None,
        ..Options::default()
    };
    let folder = tempfile::tempdir()?;
    let mut trainer = Trainer::new(model()?, examples(), options.clone())?;
    let mut saved = 0;
    let error = loop {
        match trainer.step() {
            Ok(Some(step)) => {
                // As `finetune` does it: a checkpoint is written aside, and only takes the place of the last one whole.
                let aside = tempfile::tempdir()?;
                if let Err(error) = trainer.save(aside.path()) {
                    break error;
                }
                saved = step.step;
                for file in std::fs::read_dir(aside.path())? {
                    let file = file?;
                    std::fs::copy(file.path(), folder.path().join(file.file_name()))?;
                }
            }
            Ok(None) => return Err("the run came to its end".into()),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::Diverged { step, .. } if step > 1), "{error}");
    let good = Trainer::load(folder.path(), model()?, examples(), options)?;
    assert_eq!(good.steps_done(), saved);
    good.check_weights()?;
    // What diverged is not saved as a model either.
    let infinite = constant(f32::INFINITY)?;
    let refused = folder::save(&infinite, tempfile::tempdir()?.path());
    assert!(matches!(refused, Err(Error::Weights(_))), "{refused:?}");
    Ok(())
}

#[test]
fn a_validation_loss_that_is_no_number_is_never_the_best() -> TestResult {
    let mut trainer = Trainer::new(constant(f32::INFINITY)?, examples(), Options::default())?;
    let outcome = trainer.evaluate(&examples(), &|| false);
    assert!(matches!(outcome, Err(Error::Diverged { .. })), "{outcome:?}");
    assert_eq!(trainer.lowest_cost(), None);
    Ok(())
}

#[test]
fn an_empty_target_teaches_to_write_nothing() -> TestResult {
    let nothing = |example: Example| Example { target: vec![1], ..example };
    let examples: Vec<Example> = examples().into_iter().map(nothing).collect();
    let options = Options {
        length: Length::Steps(60),
        learning_rate: 1e-2,
        accumulate: 1,
        ..Options::default()
    };
    let mut trainer = Trainer::new(model()?, examples.clone(), options)?;
    let before = trainer.evaluate(&examples, &|| false)?;
    while trainer.step()?.is_some() {}
    let after = trainer.evaluate(&examples, &|| false)?;
    assert!(after < 0.2 * before, "{before} became {after}");
    Ok(())
}
