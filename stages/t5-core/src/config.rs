//! A T5 configuration, as `config.json` of the Hugging Face layout says it.

use std::path::Path;

pub use paraloom_t5_kernels::elementwise::Activation;
use serde_json::{Map, Value, json};

use crate::{Error, Result};

/// The architectures that are T5, or nearly.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Family {
    /// T5, its versions 1.0 and 1.1, Flan, UL2, ByT5 and CodeT5 among them.
    #[default]
    T5,
    /// mT5: T5 1.1 with other defaults; the decoder's output is never scaled.
    Mt5,
    /// umT5: mT5 with a relative position bias in every block.
    Umt5,
}

impl Family {
    const ALL: [Self; 3] = [Self::T5, Self::Mt5, Self::Umt5];

    /// The `model_type` of a configuration.
    pub fn model_type(self) -> &'static str {
        match self {
            Self::T5 => "t5",
            Self::Mt5 => "mt5",
            Self::Umt5 => "umt5",
        }
    }

    /// The class of `transformers` that has the whole model.
    fn architecture(self) -> &'static str {
        match self {
            Self::T5 => "T5ForConditionalGeneration",
            Self::Mt5 => "MT5ForConditionalGeneration",
            Self::Umt5 => "UMT5ForConditionalGeneration",
        }
    }

    /// Whether every block has a relative position bias of its own; otherwise all share that of the first.
    pub fn has_bias_per_block(self) -> bool {
        self == Self::Umt5
    }
}

/// The activation that `transformers` calls by a name.
fn find_activation(name: &str) -> Option<Activation> {
    Some(match name {
        "relu" => Activation::Relu,
        "gelu_new" | "gelu_fast" | "gelu_pytorch_tanh" | "gelu_python_tanh" => Activation::Gelu,
        "gelu" | "gelu_python" => Activation::GeluErf,
        "silu" | "swish" => Activation::Silu,
        _ => return None,
    })
}

/// `feed_forward_proj` of a configuration with an activation.
fn projection(activation: Activation, gated: bool) -> &'static str {
    match (activation, gated) {
        (Activation::Relu, false) => "relu",
        (Activation::Relu, true) => "gated-relu",
        (Activation::Gelu, false) => "gelu_new",
        // Written so since T5 1.1.
        (Activation::Gelu, true) => "gated-gelu",
        (Activation::GeluErf, false) => "gelu",
        (Activation::GeluErf, true) => "gated-gelu_python",
        (Activation::Silu, false) => "silu",
        (Activation::Silu, true) => "gated-silu",
    }
}

/// The shape of a T5 model and the numbers that its forward pass needs.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Which of the architectures this is.
    pub family: Family,
    /// Rows of the embedding; the tokenizer may use fewer.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub d_model: usize,
    /// Width of one attention head.
    pub d_kv: usize,
    /// Width of the feed-forward layers.
    pub d_ff: usize,
    /// Encoder blocks.
    pub num_layers: usize,
    /// Decoder blocks.
    pub num_decoder_layers: usize,
    /// Attention heads.
    pub num_heads: usize,
    /// Buckets of the relative position bias.
    pub relative_attention_num_buckets: usize,
    /// Distance from which on all positions share a bucket.
    pub relative_attention_max_distance: usize,
    /// Probability of dropout while training.
    pub dropout_rate: f64,
    /// Added to the mean square in the layer norms.
    pub layer_norm_epsilon: f64,
    /// Scale of the initial weights of a new model.
    pub initializer_factor: f64,
    /// Non-linearity of the feed-forward layers.
    pub activation: Activation,
    /// Whether the feed-forward layers have a gate (T5 1.1).
    pub gated: bool,
    /// Whether decoder outputs are multiplied by `d_model^-0.5` before the head (T5 1.0).
    pub scale_decoder_outputs: bool,
    /// Whether the head has weights of its own. What the weight file holds decides; this is what was found there.
    pub untied_head: bool,
    /// The padding token.
    pub pad_token_id: u32,
    /// The token that ends a sequence.
    pub eos_token_id: u32,
    /// The token that the decoder starts from.
    pub decoder_start_token_id: u32,
    /// Every other field of the file, kept so that writing a model loses nothing.
    pub extra: Map<String, Value>,
}

impl Config {
    /// A new model in the style of T5 1.1 (gated GELU) with the original's scaled, tied head, which trains well from
    /// nothing at small sizes.
    pub fn small(
        vocab_size: usize,
        d_model: usize,
        d_ff: usize,
        layers: usize,
        heads: usize,
    ) -> Self {
        Self {
            family: Family::T5,
            vocab_size,
            d_model,
            d_kv: d_model / heads.max(1),
            d_ff,
            num_layers: layers,
            num_decoder_layers: layers,
            num_heads: heads,
            relative_attention_num_buckets: 32,
            relative_attention_max_distance: 128,
            dropout_rate: 0.1,
            layer_norm_epsilon: 1e-6,
            initializer_factor: 1.0,
            activation: Activation::Gelu,
            gated: true,
            scale_decoder_outputs: true,
            untied_head: false,
            pad_token_id: 0,
            eos_token_id: 1,
            decoder_start_token_id: 0,
            extra: Map::new(),
        }
    }

    /// Reads `config.json`.
    ///
    /// # Errors
    /// When the file cannot be read, is not JSON, describes another architecture, or lacks a needed field.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
        let value: Value =
            serde_json::from_str(&text).map_err(|error| Error::malformed(path, error))?;
        Self::from_json(value).map_err(|error| match error {
            Error::Config(message) => Error::malformed(path, message),
            other => other,
        })
    }

    /// Understands the JSON of a `config.json`.
    ///
    /// # Errors
    /// [`Error::Config`] that names the field.
    pub fn from_json(value: Value) -> Result<Self> {
        let Value::Object(map) = value else {
            return Err(Error::Config("a configuration is a JSON object".into()));
        };
        let mut fields = Fields(map);
        let family = fields.family()?;
        fields.check_supported()?;
        let num_layers = fields.size("num_layers")?;
        let (activation, gated) = fields.feed_forward(family)?;
        let scale_decoder_outputs = fields.scales_decoder_outputs()? && family != Family::Mt5;
        let config = Self {
            family,
            vocab_size: fields.size("vocab_size")?,
            d_model: fields.size("d_model")?,
            d_kv: fields.size("d_kv")?,
            d_ff: fields.size("d_ff")?,
            num_layers,
            num_decoder_layers: fields.size_or("num_decoder_layers", num_layers)?,
            num_heads: fields.size("num_heads")?,
            relative_attention_num_buckets: fields.size_or("relative_attention_num_buckets", 32)?,
            relative_attention_max_distance: fields
                .size_or("relative_attention_max_distance", 128)?,
            dropout_rate: fields.number_or("dropout_rate", 0.1)?,
            layer_norm_epsilon: fields.number_or("layer_norm_epsilon", 1e-6)?,
            initializer_factor: fields.number_or("initializer_factor", 1.0)?,
            activation,
            gated,
            scale_decoder_outputs,
            untied_head: false,
            pad_token_id: fields.token_or("pad_token_id", 0)?,
            eos_token_id: fields.end()?,
            decoder_start_token_id: fields.token_or("decoder_start_token_id", 0)?,
            extra: fields.0,
        };
        config.check()?;
        Ok(config)
    }

    /// Refuses sizes that no model can have.
    ///
    /// # Errors
    /// [`Error::Config`] that names the field.
    pub fn check(&self) -> Result<()> {
        let sizes = [
            ("vocab_size", self.vocab_size),
            ("d_model", self.d_model),
            ("d_kv", self.d_kv),
            ("d_ff", self.d_ff),
            ("num_layers", self.num_layers),
            ("num_decoder_layers", self.num_decoder_layers),
            ("num_heads", self.num_heads),
        ];
        for (name, size) in sizes {
            if size == 0 || size > 1 << 24 {
                return Err(Error::Config(format!(
                    "`{name}` is {size}; it has to be between 1 and 16777216"
                )));
            }
        }
        let (buckets, distance) =
            (self.relative_attention_num_buckets, self.relative_attention_max_distance);
        // The encoder splits its buckets into two directions and each half into exact and logarithmic ones.
        if buckets < 4 || distance <= buckets / 2 {
            return Err(Error::Config(format!(
                "{buckets} relative position buckets up to distance {distance} cannot be told apart"
            )));
        }
        if !(0.0..1.0).contains(&self.dropout_rate) {
            return Err(Error::Config(format!(
                "`dropout_rate` is {}; it has to be in [0, 1)",
                self.dropout_rate
            )));
        }
        for (name, token) in [
            ("pad_token_id", self.pad_token_id),
            ("eos_token_id", self.eos_token_id),
            ("decoder_start_token_id", self.decoder_start_token_id),
        ] {
            if token as usize >= self.vocab_size {
                return Err(Error::Config(format!("`{name}` is {token}, outside the vocabulary")));
            }
        }
        Ok(())
    }

    /// Refuses token sequences that the model cannot read.
    ///
    /// # Errors
    /// When a sequence is empty or has a token outside the vocabulary.
    pub fn check_ids(&self, ids: &[u32]) -> Result<()> {
        if ids.is_empty() {
            return Err(Error::Invalid(
                "an empty token sequence; it should at least end with </s>".into(),
            ));
        }
        match ids.iter().find(|&&id| id as usize >= self.vocab_size) {
            Some(id) => Err(Error::Invalid(format!(
                "token {id} is outside the model's vocabulary of {}; is this the model's tokenizer?",
                self.vocab_size
            ))),
            None => Ok(()),
        }
    }

    /// Width of all heads together.
    pub fn inner_dim(&self) -> usize {
        self.num_heads * self.d_kv
    }

    /// The JSON that `transformers` (4 and 5) reads back as this model.
    pub fn to_json(&self) -> Value {
        let mut map = self.extra.clone();
        let ours = json!({
            "architectures": [self.family.architecture()],
            "model_type": self.family.model_type(),
            "is_encoder_decoder": true,
            "vocab_size": self.vocab_size,
            "d_model": self.d_model,
            "d_kv": self.d_kv,
            "d_ff": self.d_ff,
            "num_layers": self.num_layers,
            "num_decoder_layers": self.num_decoder_layers,
            "num_heads": self.num_heads,
            "relative_attention_num_buckets": self.relative_attention_num_buckets,
            "relative_attention_max_distance": self.relative_attention_max_distance,
            "dropout_rate": self.dropout_rate,
            "layer_norm_epsilon": self.layer_norm_epsilon,
            "initializer_factor": self.initializer_factor,
            "feed_forward_proj": projection(self.activation, self.gated),
            // Up to transformers 4 this flag alone decides the scaling; 5.x derives `scale_decoder_outputs` from it.
            "tie_word_embeddings": self.scale_decoder_outputs,
            "scale_decoder_outputs": self.scale_decoder_outputs,
            "pad_token_id": self.pad_token_id,
            "eos_token_id": self.eos_token_id,
            "decoder_start_token_id": self.decoder_start_token_id,
            "use_cache": true,
        });
        if let Value::Object(ours) = ours {
            map.extend(ours);
        }
        // Deterministic whatever the order in the file that was read.
        map.sort_keys();
        Value::Object(map)
    }
}

/// The fields not yet taken out of a configuration.
struct Fields(Map<String, Value>);

impl Fields {
    fn family(&mut self) -> Result<Family> {
        match self.0.remove("model_type") {
            Some(Value::String(kind)) => {
                let found = Family::ALL.into_iter().find(|family| family.model_type() == kind);
                found.ok_or_else(|| {
                    Error::Config(format!(
                        "this is a `{kind}` model, which is another architecture; known are t5, mt5 and umt5"
                    ))
                })
            }
            None if self.0.contains_key("d_kv") => Ok(Family::T5),
            _ => {
                Err(Error::Config("`model_type` is missing, so this is not known to be T5".into()))
            }
        }
    }

    /// Refuses what is T5 in part, or T5 and more; what follows from other fields is left out.
    fn check_supported(&mut self) -> Result<()> {
        let names = self.take("architectures").unwrap_or_default();
        let names: Vec<&str> =
            names.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let is_encoder = |name: &&str| name.contains("Encoder");
        if names.iter().any(is_encoder) || self.flag("is_encoder_decoder")? == Some(false) {
            return Err(Error::Config(
                "this is an encoder only, which writes nothing; take a model with a decoder".into(),
            ));
        }
        let other = ["Classification", "QuestionAnswering"];
        if let Some(name) = names.iter().find(|name| other.iter().any(|other| name.contains(other)))
        {
            return Err(Error::Config(format!(
                "`architectures` is {name}, whose head classifies and writes nothing"
            )));
        }
        if self.take("quantization_config").is_some() {
            return Err(Error::Config(
                "`quantization_config` is there: the weights are quantized in a form that is not read; take the model \
                 that they were made of, and `precision: int8` where it runs"
                    .into(),
            ));
        }
        if self.flag("tie_encoder_decoder")? == Some(true) {
            return Err(Error::Config(
                "`tie_encoder_decoder` is true, which T5 does not have".into(),
            ));
        }
        if self.take("pruned_heads").is_some_and(|heads| !is_empty(&heads)) {
            return Err(Error::Config("`pruned_heads` is not supported".into()));
        }
        for derived in ["use_cache", "is_decoder"] {
            self.0.remove(derived);
        }
        // Weights are computed with in f32; what they are stored as, the weight files say.
        self.0.remove("torch_dtype");
        self.0.remove("dtype");
        Ok(())
    }

    /// A field that may be absent or null.
    fn take(&mut self, name: &str) -> Option<Value> {
        self.0.remove(name).filter(|value| !value.is_null())
    }

    fn size(&mut self, name: &str) -> Result<usize> {
        let value = self.take(name).ok_or_else(|| Error::Config(format!("`{name}` is missing")))?;
        whole(name, &value)
    }

    fn size_or(&mut self, name: &str, default: usize) -> Result<usize> {
        self.take(name).map_or(Ok(default), |value| whole(name, &value))
    }

    fn number_or(&mut self, name: &str, default: f64) -> Result<f64> {
        self.take(name).map_or(Ok(default), |value| {
            value
                .as_f64()
                .ok_or_else(|| Error::Config(format!("`{name}` is {value}, not a number")))
        })
    }

    fn token_or(&mut self, name: &str, default: u32) -> Result<u32> {
        let token = self.size_or(name, default as usize)?;
        u32::try_from(token).map_err(|_| Error::Config(format!("`{name}` is {token}, not a token")))
    }

    fn feed_forward(&mut self, family: Family) -> Result<(Activation, bool)> {
        let default = if family == Family::T5 { "relu" } else { "gated-gelu" };
        let value = self.take("feed_forward_proj").unwrap_or_else(|| default.into());
        let unknown = |name: &str, value: &Value| {
            Error::Config(format!(
                "`{name}` is {value}; known are relu, gelu, gelu_new and silu, with `gated-` in front or not"
            ))
        };
        let text = value.as_str().unwrap_or_default();
        let (gated, name) = text.strip_prefix("gated-").map_or((false, text), |name| (true, name));
        // T5 1.1 was written so before there were several forms of GELU.
        let name = if text == "gated-gelu" { "gelu_new" } else { name };
        let activation =
            find_activation(name).ok_or_else(|| unknown("feed_forward_proj", &value))?;
        // Derived from that, and where they say something else, transformers follows them.
        let derived = self.take("dense_act_fn");
        let activation = match &derived {
            Some(name) => name
                .as_str()
                .and_then(find_activation)
                .ok_or_else(|| unknown("dense_act_fn", name))?,
            None => activation,
        };
        Ok((activation, self.flag("is_gated_act")?.unwrap_or(gated)))
    }

    /// The token that ends a sequence; transformers may write it as a list.
    fn end(&mut self) -> Result<u32> {
        match self.0.get("eos_token_id").and_then(Value::as_array).map(Vec::as_slice) {
            Some([one]) => {
                let one = one.clone();
                self.0.insert("eos_token_id".into(), one);
            }
            Some(several) => {
                return Err(Error::Config(format!(
                    "`eos_token_id` has {} tokens; a sequence ends with one",
                    several.len()
                )));
            }
            None => {}
        }
        self.token_or("eos_token_id", 1)
    }

    /// transformers 5 writes the answer down; before, untied meant unscaled.
    fn scales_decoder_outputs(&mut self) -> Result<bool> {
        let tied = self.flag("tie_word_embeddings")?;
        let scaled = self.flag("scale_decoder_outputs")?;
        Ok(scaled.unwrap_or(tied != Some(false)))
    }

    fn flag(&mut self, name: &str) -> Result<Option<bool>> {
        self.take(name)
            .map(|value| {
                value
                    .as_bool()
                    .ok_or_else(|| Error::Config(format!("`{name}` is {value}, not a boolean")))
            })
            .transpose()
    }
}

fn whole(name: &str, value: &Value) -> Result<usize> {
    value
        .as_u64()
        .and_then(|number| usize::try_from(number).ok())
        .ok_or_else(|| Error::Config(format!("`{name}` is {value}, not a whole number")))
}

fn is_empty(value: &Value) -> bool {
    value.as_object().is_some_and(Map::is_empty) || value.as_array().is_some_and(Vec::is_empty)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A small configuration with some fields changed.
    fn read(fields: Value) -> Result<Config> {
        let mut json = Config::small(16, 8, 8, 1, 1).to_json();
        for field in ["feed_forward_proj", "tie_word_embeddings", "scale_decoder_outputs"] {
            json.as_object_mut().map(|json| json.remove(field));
        }
        if let (Value::Object(json), Value::Object(fields)) = (&mut json, fields) {
            json.extend(fields);
        }
        Config::from_json(json)
    }

    #[test]
    fn activations_are_those_of_transformers() -> Result<()> {
        use Activation::{Gelu, GeluErf, Relu, Silu};
        let cases = [
            (json!({}), (Relu, false)),
            (json!({ "model_type": "mt5" }), (Gelu, true)),
            (json!({ "feed_forward_proj": "gelu" }), (GeluErf, false)),
            (json!({ "feed_forward_proj": "gelu_new" }), (Gelu, false)),
            (json!({ "feed_forward_proj": "gated-gelu" }), (Gelu, true)),
            (json!({ "feed_forward_proj": "gated-gelu_new" }), (Gelu, true)),
            (json!({ "feed_forward_proj": "gated-silu" }), (Silu, true)),
            (json!({ "feed_forward_proj": "swish" }), (Silu, false)),
            (json!({ "dense_act_fn": "silu", "is_gated_act": true }), (Silu, true)),
        ];
        for (fields, expected) in cases {
            let config = read(fields.clone())?;
            assert_eq!((config.activation, config.gated), expected, "{fields}");
            // What is written is read as the same.
            let again = Config::from_json(config.to_json())?;
            assert_eq!((again.activation, again.gated), expected, "{fields}");
            assert_eq!(again, config, "{fields}");
        }
        Ok(())
    }

    #[test]
    fn decoder_outputs_are_scaled_as_by_transformers() -> Result<()> {
        let cases = [
            (json!({}), true),
            (json!({ "tie_word_embeddings": false }), false),
            (json!({ "tie_word_embeddings": true, "scale_decoder_outputs": false }), false),
            (json!({ "model_type": "umt5", "tie_word_embeddings": false }), false),
            (json!({ "model_type": "umt5" }), true),
            (json!({ "model_type": "mt5" }), false),
            (json!({ "model_type": "mt5", "tie_word_embeddings": true }), false),
        ];
        for (fields, scaled) in cases {
            assert_eq!(read(fields.clone())?.scale_decoder_outputs, scaled, "{fields}");
        }
        Ok(())
    }

    #[test]
    fn what_is_not_t5_is_refused_by_name() -> Result<()> {
        let cases = [
            (json!({ "model_type": "longt5" }), "`longt5` model"),
            (json!({ "model_type": "t5gemma" }), "`t5gemma` model"),
            (json!({ "architectures": ["T5EncoderModel"] }), "an encoder only"),
            (json!({ "is_encoder_decoder": false }), "an encoder only"),
            (
                json!({ "architectures": ["T5ForSequenceClassification"] }),
                "T5ForSequenceClassification",
            ),
            (json!({ "feed_forward_proj": "gated-mish" }), "`feed_forward_proj` is \"gated-mish\""),
            (json!({ "dense_act_fn": "tanh" }), "`dense_act_fn` is \"tanh\""),
            (json!({ "quantization_config": { "load_in_8bit": true } }), "`quantization_config`"),
            (json!({ "tie_encoder_decoder": true }), "`tie_encoder_decoder`"),
            (json!({ "pruned_heads": { "0": [1] } }), "`pruned_heads`"),
            (json!({ "eos_token_id": [1, 2] }), "`eos_token_id` has 2 tokens"),
        ];
        for (fields, message) in cases {
            let error = read(fields).err().ok_or(Error::Cancelled)?.to_string();
            assert!(error.contains(message), "{error}, not {message}");
        }
        assert_eq!(read(json!({ "eos_token_id": [3], "pruned_heads": {} }))?.eos_token_id, 3);
        Ok(())
    }
}
