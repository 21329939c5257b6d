//! Low-rank adapters (LoRA) as PEFT writes them: `adapter_config.json` and `adapter_model.safetensors` or `.bin`.

use std::collections::BTreeSet;
use std::path::Path;

use burn::tensor::{Tensor, TensorData};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::TensorFiles;
use crate::{
    Error, Result,
    model::{Model, WeightSpec, Weights},
    train::lora::{merge, module},
};

/// The file that says what an adapter is like.
pub const CONFIG: &str = "adapter_config.json";
const WEIGHTS: [&str; 2] = ["adapter_model.safetensors", "adapter_model.bin"];
/// What PEFT puts before the names of a model's modules.
const PREFIX: &str = "base_model.model.";

/// What counts of `adapter_config.json`; of everything else it is known that it changes nothing.
#[derive(Debug, Deserialize)]
struct Config {
    lora_alpha: f64,
    #[serde(default)]
    use_rslora: bool,
    #[serde(default)]
    alpha_pattern: Map<String, Value>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

impl Config {
    fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
        let value: Value =
            serde_json::from_str(&text).map_err(|error| Error::malformed(path, error))?;
        // Of others not even the fields are known.
        let kind = value.get("peft_type").and_then(Value::as_str).unwrap_or("unknown");
        if kind != "LORA" {
            let message = format!("this is an adapter of the kind {kind}; only LORA is known");
            return Err(Error::malformed(path, message));
        }
        let config: Self =
            serde_json::from_value(value).map_err(|error| Error::malformed(path, error))?;
        for (name, usual) in [
            ("use_dora", Value::Bool(false)),
            ("fan_in_fan_out", Value::Bool(false)),
            ("bias", "none".into()),
            ("lora_bias", Value::Bool(false)),
            ("use_qalora", Value::Bool(false)),
            ("use_bdlora", Value::Null),
            ("layer_replication", Value::Null),
            ("alora_invocation_tokens", Value::Null),
            ("trainable_token_indices", Value::Null),
            ("target_parameters", Value::Null),
            ("arrow_config", Value::Null),
            ("kasa_config", Value::Null),
            ("monteclora_config", Value::Null),
        ] {
            match config.rest.get(name) {
                Some(value) if *value != usual && !value.is_null() => {
                    let message = format!("`{name}: {value}` is not known; only {usual} is");
                    return Err(Error::malformed(path, message));
                }
                _ => {}
            }
        }
        // Others change the weights of the base as well before anything is trained, and PEFT does so again where it reads one.
        match config.rest.get("init_lora_weights").and_then(Value::as_str) {
            None | Some("gaussian" | "eva" | "orthogonal") => Ok(config),
            Some(other) => Err(Error::malformed(
                path,
                format!(
                    "`init_lora_weights: {other}` changes the base's own weights; save the adapter with \
                     `path_initial_model_for_weight_conversion`, which makes a plain one of it"
                ),
            )),
        }
    }

    /// How often the adapter of a module counts, whose rank is `rank`.
    fn scale(&self, module: &str, rank: usize, path: &Path) -> Result<f64> {
        let mut alpha = self.lora_alpha;
        for (pattern, value) in &self.alpha_pattern {
            // PEFT takes them for regular expressions; names are all that people write.
            if pattern.chars().any(|char| !char.is_alphanumeric() && !"._".contains(char)) {
                let message = format!("the pattern `{pattern}` is not the end of a name");
                return Err(Error::malformed(path, message));
            }
            if ends_with(module, pattern) {
                alpha = value.as_f64().ok_or_else(|| {
                    Error::malformed(path, format!("the alpha {value} is not a number"))
                })?;
            }
        }
        let rank = rank as f64;
        Ok(alpha / if self.use_rslora { rank.sqrt() } else { rank })
    }
}

/// Whether a dotted name is another one, or ends in its parts.
pub fn ends_with(name: &str, end: &str) -> bool {
    name.strip_suffix(end).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// The model with the adapter in a directory merged into its weights.
///
/// # Errors
/// When a file is missing or damaged, or the adapter is of another kind or of another model; every message names the file.
pub fn merged(mut model: Model, directory: &Path) -> Result<Model> {
    let path = directory.join(CONFIG);
    let config = Config::read(&path)?;
    let weights = WEIGHTS.map(|name| directory.join(name)).into_iter().find(|path| path.exists());
    let weights = weights.ok_or_else(|| {
        Error::malformed(directory, format!("there is no {} here, nor {}", WEIGHTS[0], WEIGHTS[1]))
    })?;
    let files = TensorFiles::of_file(&weights)?;
    let layout = Weights::layout(model.config());
    let device = model.device();
    let mut unused: BTreeSet<String> = files.names().map(str::to_owned).collect();
    let mut read = |name: &str, shape: [usize; 2]| -> Result<Tensor<2>> {
        unused.remove(name);
        let values = files.read(&[name], &shape)?;
        Ok(Tensor::from_data(TensorData::new(values, shape), &device))
    };
    for (spec, weight) in layout.list().into_iter().zip(model.weights_mut().list_mut()) {
        let WeightSpec { name, rows, columns, .. } = spec;
        // What is in `modules_to_save` is there as a whole.
        let whole = format!("{PREFIX}{name}");
        if files.shape(&whole).is_some() {
            *weight = read(&whole, [*rows, *columns])?;
        }
        let [down, up] =
            ["A", "B"].map(|letter| format!("{PREFIX}{}.lora_{letter}.weight", module(name)));
        let Some(rank) = files.shape(&down).and_then(|shape| shape.first().copied()) else {
            continue;
        };
        let scale = config.scale(module(name), rank, &path)?;
        let pair = (read(&down, [rank, *columns])?, read(&up, [*rows, rank])?);
        *weight = merge(weight, &pair.0, &pair.1, scale);
    }
    match unused.first() {
        None => Ok(model),
        Some(name) => Err(Error::malformed(
            &weights,
            format!("this model has no place for `{name}`; is the adapter one of another model?"),
        )),
    }
}
