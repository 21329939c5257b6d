//! A training run on disk: weights, optimizer state and place, from which it goes on bit for bit.

use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use super::{Best, Example, Options, Trainer, batches};
use crate::{
    Error, Result,
    folder::{Stored, TensorFiles, write_json, write_tensors},
    model::{Model, WeightSpec},
};

/// Version of the layout; readers refuse what they do not know.
const VERSION: u32 = 1;
const PLACE: &str = "trainer.json";
const TENSORS: &str = "trainer.safetensors";

/// Where a run stands.
#[derive(Debug, Serialize, Deserialize)]
struct Place {
    version: u32,
    /// Options and the number of examples, which have to be the same on resume.
    options: Options,
    examples: usize,
    step: u64,
    epoch: u64,
    position: usize,
    /// The model's configuration, as in `config.json`.
    config: serde_json::Value,
    untied_head: bool,
    /// Cost of the best model and judgements since.
    best: Option<(Cost, u64)>,
}

/// A number to the bit: a decimal may be read as its neighbour, and then two models that are equally good are not.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Cost {
    Bits(u64),
    /// As earlier versions stored it.
    Decimal(f64),
}

impl Cost {
    fn value(&self) -> f64 {
        match self {
            Self::Bits(bits) => f64::from_bits(*bits),
            Self::Decimal(value) => *value,
        }
    }
}

impl Trainer {
    /// Writes everything that a resume needs into `directory`.
    ///
    /// # Errors
    /// When a file cannot be written, or a weight stopped being a number.
    pub fn save(&self, directory: &Path) -> Result<()> {
        self.check_weights()?;
        std::fs::create_dir_all(directory).map_err(Error::io(directory))?;
        let tensors = self.tensors();
        let stored: Vec<_> =
            tensors.iter().map(|(name, tensor)| Stored::exact(name, tensor)).collect();
        write_tensors(&stored, None, &directory.join(TENSORS))?;
        let place = Place {
            version: VERSION,
            options: self.options.clone(),
            examples: self.examples.len(),
            step: self.step,
            epoch: self.epoch,
            position: self.position,
            config: self.model.config().to_json(),
            untied_head: self.model.config().untied_head,
            best: self.best.as_ref().map(|best| (Cost::Bits(best.cost.to_bits()), best.since)),
        };
        let json =
            serde_json::to_value(place).map_err(|error| Error::malformed(directory, error))?;
        write_json(&directory.join(PLACE), &json)
    }

    /// Goes on from what [`Trainer::save`] wrote, with the same model to start from, examples and options.
    ///
    /// # Errors
    /// When the checkpoint is damaged, of another version, or of another run.
    pub fn load(
        directory: &Path,
        mut model: Model,
        examples: Vec<Example>,
        options: Options,
    ) -> Result<Self> {
        let path = directory.join(PLACE);
        let text = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
        let place: Place =
            serde_json::from_str(&text).map_err(|error| Error::malformed(&path, error))?;
        if place.version != VERSION {
            return Err(Error::malformed(
                &path,
                format!("version {}, but this program knows {VERSION}", place.version),
            ));
        }
        if place.options != options || place.examples != examples.len() {
            return Err(Error::malformed(
                &path,
                "the checkpoint is of a run with other options or examples",
            ));
        }
        if let Some(dropout) = options.dropout {
            model.set_dropout(dropout);
        }
        let config = model.config();
        if place.config != config.to_json() || place.untied_head != config.untied_head {
            return Err(Error::malformed(&path, "the checkpoint is of a run with another model"));
        }
        // What is not trained stays as the model has it.
        let mut trainer = Self::new(model, examples, options)?;
        let files = TensorFiles::of_file(&directory.join(TENSORS))?;
        let read = |name: &str, shape: [usize; 2], device: &Device| {
            let values = files.read(&[name], &shape)?;
            Ok::<_, Error>(Tensor::from_data(TensorData::new(values, shape), device))
        };
        let device = trainer.model.device();
        if let Some((cost, since)) = place.best {
            let (mut model, mut trained) = (trainer.model.clone(), trainer.trained.clone());
            for part in &trainer.parts {
                let WeightSpec { name, rows, columns, .. } = &part.spec;
                *trained.tensor_mut(&mut model, part) =
                    read(&best_name(name), [*rows, *columns], &device)?;
            }
            trainer.best = Some(Best { cost: cost.value(), model, trained, since });
        }
        for (part, state) in trainer.parts.iter().zip(&mut trainer.states) {
            let WeightSpec { name, rows, columns, .. } = &part.spec;
            *trainer.trained.tensor_mut(&mut trainer.model, part) =
                read(name, [*rows, *columns], &device)?;
            for (index, tensor) in state.tensors_mut().into_iter().enumerate() {
                *tensor = read(&state_name(name, index), tensor.dims(), &device)?;
            }
        }
        trainer.step = place.step;
        trainer.epoch = place.epoch;
        trainer.position = place.position;
        trainer.batches = batches::epoch(&trainer.examples, &trainer.options, place.epoch);
        Ok(trainer)
    }

    /// All that is trained, and its states, by name.
    fn tensors(&self) -> Vec<(String, &Tensor<2>)> {
        let mut tensors = Vec::new();
        for (part, state) in self.parts.iter().zip(&self.states) {
            let name = &part.spec.name;
            tensors.push((name.clone(), self.trained.tensor(&self.model, part)));
            let states = state.tensors().into_iter().enumerate();
            tensors.extend(states.map(|(index, tensor)| (state_name(name, index), tensor)));
            if let Some(best) = &self.best {
                tensors.push((best_name(name), best.trained.tensor(&best.model, part)));
            }
        }
        tensors
    }
}

/// The name of a state tensor of a weight.
fn state_name(weight: &str, index: usize) -> String {
    format!("{weight}#{index}")
}

/// The name of a weight of the best model.
fn best_name(weight: &str) -> String {
    format!("{weight}#best")
}
