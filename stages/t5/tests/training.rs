//! What a training run promises: exact resume, and an end to numbers that are none.

use paraloom_stages_t5::{
    Error,
    config::Config,
    device::default_device,
    folder,
    model::Model,
    random::Stream,
    train::{Example, Length, Optimizer, Options, Trainer},
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

#[test]
fn a_resumed_run_ends_with_the_same_bytes() -> TestResult {
    for optimizer in [
        Optimizer::AdamW { betas: [0.9, 0.999], eps: 1e-8 },
        Optimizer::Adafactor { scale_parameter: true },
    ] {
        let options = Options {
            length: Length::Epochs(3),
            batch_size: 4,
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
        let mut resumed = Trainer::load(folder.path(), examples(), options, &default_device())?;
        assert_eq!((resumed.steps_done(), resumed.best_loss()), (7, Some(best)));
        while resumed.step()?.is_some() {}
        assert_eq!(whole.steps_done(), 18);
        assert!(bytes(whole.model())? == bytes(resumed.model())?, "{optimizer:?}");
    }
    Ok(())
}

#[test]
fn a_checkpoint_of_another_run_is_refused() -> TestResult {
    let folder = tempfile::tempdir()?;
    Trainer::new(model()?, examples(), Options::default())?.save(folder.path())?;
    let options = Options { seed: 1, ..Options::default() };
    let resumed = Trainer::load(folder.path(), examples(), options, &default_device());
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
    assert_eq!((trainer.best_loss(), trainer.evaluations_since_best()), (Some(after), 0));
    let options = Options { learning_rate: 1e30, clip_norm: None, ..options };
    let mut trainer = Trainer::new(model()?, examples, options)?;
    let outcome = (0..60).find_map(|_| trainer.step().err());
    assert!(matches!(outcome, Some(Error::Diverged { .. })), "{outcome:?}");
    Ok(())
}
