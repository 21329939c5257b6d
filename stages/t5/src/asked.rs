//! What a model's own files ask for: every setting in them is followed, refused by name, told once, or known to change nothing.

use std::path::Path;

use serde_json::{Map, Value};

/// A file, and what becomes of the settings in it.
struct File {
    name: &'static str,
    /// Where the settings are that count instead.
    instead: &'static str,
    /// They decide what is computed, or are an error where they cannot.
    followed: &'static [&'static str],
    /// They are told once, unless they have their usual value (in JSON), or are null or empty.
    told: &'static [(&'static str, &'static str)],
    /// They change no result here.
    unused: &'static [&'static str],
}

const GENERATION: File = File {
    name: "generation_config.json",
    instead: "`generate` takes its settings from the pipeline alone",
    followed: &["eos_token_id", "pad_token_id", "decoder_start_token_id"],
    told: &[
        ("num_beams", "1"),
        ("num_beam_groups", "1"),
        ("diversity_penalty", "0"),
        ("do_sample", "false"),
        ("temperature", "1"),
        ("top_k", "50"),
        ("top_p", "1"),
        ("top_h", "null"),
        ("min_p", "0"),
        ("typical_p", "1"),
        ("epsilon_cutoff", "0"),
        ("eta_cutoff", "0"),
        ("penalty_alpha", "0"),
        ("dola_layers", "null"),
        ("guidance_scale", "1"),
        ("length_penalty", "1"),
        ("exponential_decay_length_penalty", "null"),
        ("early_stopping", "false"),
        ("no_repeat_ngram_size", "0"),
        ("encoder_no_repeat_ngram_size", "0"),
        ("repetition_penalty", "1"),
        ("encoder_repetition_penalty", "1"),
        ("min_length", "0"),
        ("min_new_tokens", "0"),
        ("max_length", "20"),
        ("max_new_tokens", "20"),
        ("max_time", "null"),
        ("stop_strings", "null"),
        ("num_return_sequences", "1"),
        ("bad_words_ids", "null"),
        ("force_words_ids", "null"),
        ("constraints", "null"),
        ("forced_bos_token_id", "null"),
        ("forced_eos_token_id", "null"),
        ("force_bos_token_to_be_generated", "false"),
        ("suppress_tokens", "null"),
        ("begin_suppress_tokens", "null"),
        ("sequence_bias", "null"),
        ("watermarking_config", "null"),
        ("renormalize_logits", "false"),
        ("remove_invalid_values", "false"),
        ("token_healing", "false"),
    ],
    unused: &[
        "bos_token_id",
        "assistant_confidence_threshold",
        "assistant_early_exit",
        "assistant_ensemble_weight",
        "assistant_lookbehind",
        "is_assistant",
        "target_lookbehind",
        "num_assistant_tokens",
        "num_assistant_tokens_schedule",
        "prompt_lookup_num_tokens",
        "max_matching_ngram_size",
        "speculation_type",
        "use_mtp",
        "cache_config",
        "cache_implementation",
        "continuous_batching_config",
        "compile_config",
        "disable_compile",
        "low_memory",
        "max_cache_len",
        "prefill_chunk_size",
        "use_cache",
        "output_attentions",
        "output_hidden_states",
        "output_logits",
        "output_scores",
        "return_dict_in_generate",
        "transformers_version",
        "_from_model_config",
        "_commit_hash",
    ],
};

const MODEL: File = File {
    name: "config.json",
    instead: "it is not known here",
    followed: &[
        "model_type",
        "architectures",
        "vocab_size",
        "d_model",
        "d_kv",
        "d_ff",
        "num_layers",
        "num_decoder_layers",
        "num_heads",
        "relative_attention_num_buckets",
        "relative_attention_max_distance",
        "dropout_rate",
        "layer_norm_epsilon",
        "initializer_factor",
        "feed_forward_proj",
        "dense_act_fn",
        "is_gated_act",
        "tie_word_embeddings",
        "scale_decoder_outputs",
        "pad_token_id",
        "eos_token_id",
        "decoder_start_token_id",
        "is_encoder_decoder",
        "quantization_config",
        "tie_encoder_decoder",
        "pruned_heads",
    ],
    told: &[],
    unused: &[
        "is_decoder",
        "use_cache",
        "bos_token_id",
        "dtype",
        "torch_dtype",
        "classifier_dropout",
        "chunk_size_feed_forward",
        "id2label",
        "label2id",
        "num_labels",
        "problem_type",
        "output_attentions",
        "output_hidden_states",
        "output_past",
        "return_dict",
        "torchscript",
        "gradient_checkpointing",
        // Lengths of pre-training, and settings for pipelines of transformers 4.
        "n_positions",
        "max_position_embeddings",
        "task_specific_params",
        "finetuning_task",
        "tokenizer_class",
        "base_config_key",
        "transformers_version",
        "_name_or_path",
        "_commit_hash",
        "_attn_implementation_autoset",
    ],
};

const TOKENIZER: File = File {
    name: "tokenizer_config.json",
    instead: "it is not followed",
    followed: &[
        "tokenizer_class",
        "extra_ids",
        "additional_special_tokens",
        "extra_special_tokens",
        "added_tokens_decoder",
        "add_prefix_space",
        "clean_up_tokenization_spaces",
        "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output",
    ],
    told: &[
        ("bos_token", "\"<s>\""),
        ("eos_token", "\"</s>\""),
        ("unk_token", "\"<unk>\""),
        ("pad_token", "\"<pad>\""),
        ("sep_token", "\"</s>\""),
        ("cls_token", "\"<s>\""),
        ("mask_token", "\"<mask>\""),
        ("errors", "\"replace\""),
        ("add_bos_token", "false"),
        ("add_eos_token", "true"),
        ("split_special_tokens", "false"),
        ("truncation_side", "\"right\""),
        ("sp_model_kwargs", "null"),
    ],
    unused: &[
        // How long texts are, `max_source_tokens` says.
        "model_max_length",
        "max_len",
        "padding_side",
        "legacy",
        "trim_offsets",
        "chat_template",
        "response_template",
        "response_schema",
        "chat_control_tokens",
        "sanitize_control_tokens",
        "model_specific_special_tokens",
        "fix_mistral_regex",
        "gguf_file",
        "model_input_names",
        "processor_class",
        "name_or_path",
        "backend",
        "is_local",
        "local_files_only",
        "use_fast",
        "use_source_tokenizer",
        "verbose",
        "files_loaded",
        "vocab_file",
        "merges_file",
        "tokenizer_file",
        "added_tokens_file",
        "special_tokens_map_file",
        "repo_id",
        "commit_message",
        "token",
        "_commit_hash",
    ],
};

const SPECIAL_TOKENS: File = File {
    name: "special_tokens_map.json",
    instead: "it is not followed",
    followed: &["additional_special_tokens", "extra_special_tokens"],
    told: &[
        ("bos_token", "\"<s>\""),
        ("eos_token", "\"</s>\""),
        ("unk_token", "\"<unk>\""),
        ("pad_token", "\"<pad>\""),
        ("sep_token", "\"</s>\""),
        ("cls_token", "\"<s>\""),
        ("mask_token", "\"<mask>\""),
    ],
    unused: &[],
};

const ADAPTER: File = File {
    name: "adapter_config.json",
    instead: "it is not known here",
    followed: &[
        "peft_type",
        "lora_alpha",
        "alpha_pattern",
        "use_rslora",
        "use_dora",
        "use_qalora",
        "use_bdlora",
        "fan_in_fan_out",
        "bias",
        "lora_bias",
        "init_lora_weights",
        "layer_replication",
        "alora_invocation_tokens",
        "trainable_token_indices",
        "target_parameters",
        "arrow_config",
        "kasa_config",
        "monteclora_config",
        // What the tensors of the file say.
        "r",
        "rank_pattern",
        "target_modules",
        "exclude_modules",
        "layers_to_transform",
        "layers_pattern",
        "modules_to_save",
    ],
    told: &[],
    unused: &[
        "lora_dropout",
        "velora_config",
        "qalora_group_size",
        "corda_config",
        "eva_config",
        "loftq_config",
        "lora_ga_config",
        "ensure_weight_tying",
        "megatron_config",
        "megatron_core",
        "runtime_config",
        "inference_mode",
        "task_type",
        "auto_mapping",
        "base_model_name_or_path",
        "revision",
        "peft_version",
    ],
};

/// Settings that two files may have; here those of `config.json` count.
const TOKENS: [&str; 3] = ["eos_token_id", "pad_token_id", "decoder_start_token_id"];

/// What the files of a model, and of an adapter that is merged into it, ask for and nothing here follows, in sentences.
pub(super) fn not_followed(model: &Path, adapter: Option<&Path>) -> Vec<String> {
    let read = |directory: &Path, file: &File| -> Option<Map<String, Value>> {
        serde_json::from_str(&std::fs::read_to_string(directory.join(file.name)).ok()?).ok()
    };
    let own = read(model, &GENERATION);
    let config = read(model, &MODEL).unwrap_or_default();
    // Without a file for them, settings of searches count in that of the model.
    let is_of_search = |key: &String| GENERATION.knows(key) && !MODEL.knows(key);
    let (of_search, of_model) = config.clone().into_iter().partition(|(key, _)| is_of_search(key));
    let mut told = match &own {
        Some(own) => GENERATION.told(GENERATION.name, own),
        None => GENERATION.told(MODEL.name, &of_search),
    };
    told.extend(MODEL.told(MODEL.name, &of_model));
    for file in [&TOKENIZER, &SPECIAL_TOKENS] {
        told.extend(file.told(file.name, &read(model, file).unwrap_or_default()));
    }
    if let Some(adapter) = adapter.and_then(|adapter| read(adapter, &ADAPTER)) {
        told.extend(ADAPTER.told(ADAPTER.name, &adapter));
    }
    let one = |value: &Value| match value.as_array().map(Vec::as_slice) {
        Some([one]) => one.clone(),
        _ => value.clone(),
    };
    for key in TOKENS {
        let [ours, theirs] = [Some(&config), own.as_ref()].map(|file| file?.get(key).map(one));
        if let (Some(ours), Some(theirs)) = (ours, theirs)
            && ours != theirs
            && !theirs.is_null()
        {
            told.push(format!(
                "generation_config.json has {key} {theirs} and config.json {ours}, which counts here"
            ));
        }
    }
    told
}

impl File {
    fn knows(&self, key: &str) -> bool {
        self.followed.contains(&key) || self.unused.contains(&key) || self.usual(key).is_some()
    }

    /// The usual value of a setting that is told, and its place.
    fn usual(&self, key: &str) -> Option<(usize, &'static str)> {
        let place = self.told.iter().position(|(told, _)| *told == key)?;
        Some((place, self.told[place].1))
    }

    /// What `settings` of the file called `name` ask for in vain: those that are known, and those that are not.
    fn told(&self, name: &str, settings: &Map<String, Value>) -> Vec<String> {
        let asks = |(key, value): &(&String, &Value)| {
            self.usual(key).is_some_and(|(_, usual)| !says_nothing(value, usual))
        };
        let list = |found: Vec<(&String, &Value)>| {
            let found = found.into_iter().map(|(key, value)| format!("{key} {}", short(value)));
            found.collect::<Vec<_>>().join(", ")
        };
        // In the order of the table.
        let mut asked: Vec<_> = settings.iter().filter(asks).collect();
        asked.sort_by_key(|(key, _)| self.usual(key));
        let is_unknown =
            |(key, value): &(&String, &Value)| !self.knows(key) && !says_nothing(value, "null");
        let unknown: Vec<_> = settings.iter().filter(is_unknown).collect();
        let mut told = Vec::new();
        if !asked.is_empty() {
            told.push(format!("{name} asks for {}; {}", list(asked), self.instead));
        }
        if !unknown.is_empty() {
            told.push(format!("{name} has {}; nothing is known of it here", list(unknown)));
        }
        told
    }
}

/// Whether a setting is null or empty, or has its usual value.
fn says_nothing(value: &Value, usual: &str) -> bool {
    // A token may be written with all its properties.
    let value = value.get("content").unwrap_or(value);
    let usual: Value = serde_json::from_str(usual).unwrap_or_default();
    match value {
        Value::Null => true,
        Value::Array(items) if items.is_empty() => true,
        Value::Object(fields) if fields.is_empty() => true,
        _ => match (value.as_f64(), usual.as_f64()) {
            (Some(value), Some(usual)) => (value - usual).abs() < f64::EPSILON,
            _ => *value == usual,
        },
    }
}

/// A value in a few characters.
fn short(value: &Value) -> String {
    const MOST: usize = 60;
    let text = value.to_string();
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{} …", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(files: &[(&str, Value)]) -> Vec<String> {
        let directory = tempfile::tempdir().expect("a directory");
        for (name, json) in files {
            std::fs::write(directory.path().join(name), json.to_string()).expect("it is ours");
        }
        not_followed(directory.path(), Some(directory.path()))
    }

    #[test]
    fn what_a_model_asks_for_in_vain_is_told() {
        let own = "generation_config.json";
        let plain = json!({ "num_beams": 1, "temperature": 1.0, "max_length": 20, "eos_token_id": 1, "min_length": null });
        assert_eq!(told(&[("config.json", json!({ "eos_token_id": [1] })), (own, plain)]), [""; 0]);
        let beams = json!({ "num_beams": 4, "no_repeat_ngram_size": 3, "early_stopping": true });
        let expected = "num_beams 4, early_stopping true, no_repeat_ngram_size 3; `generate` takes";
        assert!(told(&[(own, beams.clone())])[0].contains(expected));
        assert!(told(&[("config.json", beams)])[0].starts_with("config.json asks for num_beams 4"));
        let ends =
            [("config.json", json!({ "eos_token_id": 1 })), (own, json!({ "eos_token_id": 2 }))];
        assert_eq!(
            told(&ends),
            ["generation_config.json has eos_token_id 2 and config.json 1, which counts here"]
        );
        assert_eq!(told(&[(own, json!([]))]), [""; 0]);
    }

    #[test]
    fn every_file_is_read_and_what_is_unknown_in_it_told() {
        let cases = [
            (
                "config.json",
                json!({ "d_model": 8, "sliding_window": 3, "rope": {} }),
                "has sliding_window 3; nothing is known of it here",
            ),
            (
                "tokenizer_config.json",
                json!({ "truncation_side": "left", "legacy": false }),
                "asks for truncation_side \"left\"; it is not followed",
            ),
            (
                "special_tokens_map.json",
                json!({ "eos_token": { "content": "<end>" }, "pad_token": "<pad>" }),
                "asks for eos_token {\"content\":\"<end>\"}; it is not followed",
            ),
            (
                "adapter_config.json",
                json!({ "r": 8, "use_magic": true }),
                "has use_magic true; nothing is known of it here",
            ),
            (
                "generation_config.json",
                json!({ "use_cache": true, "xyz": "a".repeat(99) }),
                "has xyz",
            ),
        ];
        for (file, json, expected) in cases {
            let told = told(&[(file, json)]);
            assert_eq!(told.len(), 1, "{told:?}");
            assert!(told[0].starts_with(&format!("{file} {expected}")), "{told:?}");
            assert!(told[0].len() < 200);
        }
    }

    /// The table in docs/models.md. Where it differs, this writes it and fails.
    #[test]
    fn the_table_of_settings_is_that_of_the_code() {
        const BEGIN: &str = "<!-- settings of model files: written by a test of stages/t5 -->\n";
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/models.md");
        let Ok(text) = std::fs::read_to_string(&path) else {
            // This crate's sources are also those of the libraries for other backends.
            return;
        };
        let mut table = "| file | followed, or refused by name | told once, unless it has its usual value | changes nothing |\n|---|---|---|---|\n".to_owned();
        for file in [&MODEL, &GENERATION, &TOKENIZER, &SPECIAL_TOKENS, &ADAPTER] {
            let list = |keys: &[&str]| {
                keys.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ")
            };
            let told: Vec<_> = file.told.iter().map(|(key, _)| *key).collect();
            let [followed, told, unused] = [file.followed, &told, file.unused].map(list);
            table += &format!("| `{}` | {followed} | {told} | {unused} |\n", file.name);
        }
        let (before, rest) = text.split_once(BEGIN).expect("the table has a place");
        let after = rest.split_once("\n\n").map_or("", |(_, after)| after);
        let expected = format!("{before}{BEGIN}{table}\n{after}");
        if text != expected {
            std::fs::write(&path, &expected).expect("the document can be written");
            panic!("docs/models.md was not up to date, and is now");
        }
    }
}
