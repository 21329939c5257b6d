//! A T5 configuration, as `config.json` of the Hugging Face layout says it.

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::{Error, Result};

/// The non-linearity of the feed-forward layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `max(0, x)`.
    Relu,
    /// The tanh form of GELU (`gelu_new`).
    Gelu,
}

/// The shape of a T5 model and the numbers that its forward pass needs.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
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
        fields.check_model_type()?;
        let num_layers = fields.size("num_layers")?;
        let (activation, gated) = fields.feed_forward()?;
        let scale_decoder_outputs = fields.scales_decoder_outputs()?;
        let config = Self {
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
            eos_token_id: fields.token_or("eos_token_id", 1)?,
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

    /// Width of all heads together.
    pub fn inner_dim(&self) -> usize {
        self.num_heads * self.d_kv
    }

    /// The JSON that `transformers` (4 and 5) reads back as this model.
    pub fn to_json(&self) -> Value {
        let mut map = self.extra.clone();
        let act = match self.activation {
            Activation::Relu => "relu",
            Activation::Gelu if self.gated => "gelu",
            Activation::Gelu => "gelu_new",
        };
        let gate = if self.gated { "gated-" } else { "" };
        let ours = json!({
            "architectures": ["T5ForConditionalGeneration"],
            "model_type": "t5",
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
            "feed_forward_proj": format!("{gate}{act}"),
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
    fn check_model_type(&mut self) -> Result<()> {
        match self.0.remove("model_type") {
            Some(Value::String(kind)) if kind == "t5" => {}
            None if self.0.contains_key("d_kv") => {}
            Some(Value::String(kind)) => {
                return Err(Error::Config(format!(
                    "this is a `{kind}` model; only `t5` can be loaded"
                )));
            }
            _ => {
                return Err(Error::Config(
                    "`model_type` is missing, so this is not known to be T5".into(),
                ));
            }
        }
        for derived in
            ["architectures", "is_encoder_decoder", "use_cache", "dense_act_fn", "is_gated_act"]
        {
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

    fn feed_forward(&mut self) -> Result<(Activation, bool)> {
        let value = self.take("feed_forward_proj").unwrap_or_else(|| json!("relu"));
        match value.as_str() {
            Some("relu") => Ok((Activation::Relu, false)),
            Some("gated-relu") => Ok((Activation::Relu, true)),
            Some("gelu_new") => Ok((Activation::Gelu, false)),
            Some("gated-gelu" | "gated-gelu_new") => Ok((Activation::Gelu, true)),
            _ => Err(Error::Config(format!(
                "`feed_forward_proj` is {value}; known are relu, gelu_new, gated-relu and gated-gelu"
            ))),
        }
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
