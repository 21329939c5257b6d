//! A training run on disk: weights, optimizer state and place, from which it goes on bit for bit.

use std::path::Path;

use burn::tensor::{Tensor, TensorData};
use serde::{Deserialize, Serialize};

use super::{Best, Example, Options, Trainer, batches};
use crate::{
    Error, Result,
    config::Config,
    folder::{Stored, TensorFiles, write_json, write_tensors},
    model::{Model, Slot},
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
    /// Loss of the best model and evaluations since.
    best: Option<(f64, u64)>,
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
            best: self.best.as_ref().map(|best| (best.loss, best.since)),
        };
        let json =
            serde_json::to_value(place).map_err(|error| Error::malformed(directory, error))?;
        write_json(&directory.join(PLACE), &json)
    }

    /// Goes on from what [`Trainer::save`] wrote, with the same examples and options.
    ///
    /// # Errors
    /// When the checkpoint is damaged, of another version, or of another run.
    pub fn load(
        directory: &Path,
        examples: Vec<Example>,
        options: Options,
        device: &burn::tensor::Device,
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
        let mut config = Config::from_json(place.config)?;
        config.untied_head = place.untied_head;
        let files = TensorFiles::of_file(&directory.join(TENSORS))?;
        let values = |name: &str, slot: &Slot| files.read(&[name], &[slot.rows, slot.columns]);
        let model = Model::from_values(config, device, |slot| values(&slot.name, slot))?;
        let mut trainer = Self::new(model, examples, options)?;
        trainer.restore_states(&files)?;
        if let Some((loss, since)) = place.best {
            let config = trainer.model.config().clone();
            let best = |slot: &Slot| values(&best_name(&slot.name), slot);
            let model = Model::from_values(config, device, best)?;
            trainer.best = Some(Best { loss, model, since });
        }
        trainer.step = place.step;
        trainer.epoch = place.epoch;
        trainer.position = place.position;
        trainer.batches = batches::epoch(&trainer.examples, &trainer.options, place.epoch);
        Ok(trainer)
    }

    /// All weights and states by name.
    fn tensors(&self) -> Vec<(String, &Tensor<2>)> {
        let mut tensors = Vec::new();
        let weights = self.layout.list().into_iter().zip(self.model.weights().list());
        for ((slot, weight), state) in weights.zip(&self.states) {
            tensors.push((slot.name.clone(), weight));
            let states = state.tensors().into_iter().enumerate();
            tensors.extend(states.map(|(index, tensor)| (state_name(&slot.name, index), tensor)));
        }
        if let Some(best) = &self.best {
            let weights = self.layout.list().into_iter().zip(best.model.weights().list());
            tensors.extend(weights.map(|(slot, weight)| (best_name(&slot.name), weight)));
        }
        tensors
    }

    fn restore_states(&mut self, files: &TensorFiles) -> Result<()> {
        for (slot, state) in self.layout.list().into_iter().zip(&mut self.states) {
            for (index, tensor) in state.tensors_mut().into_iter().enumerate() {
                let shape = tensor.dims();
                let values = files.read(&[&state_name(&slot.name, index)], &shape)?;
                *tensor = Tensor::from_data(TensorData::new(values, shape), &tensor.device());
            }
        }
        Ok(())
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
