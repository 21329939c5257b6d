//! What a model's own files ask for: every setting in them is followed, refused by name, told once, or known to change nothing.

use std::path::Path;

use serde_json::{Map, Value};

/// What becomes of a setting.
enum Fate {
    /// It decides what is computed, or is an error where it cannot.
    Followed,
    /// It is told once, unless it has one of these values (in JSON), or is null or empty.
    Told(&'static [&'static str]),
    /// It changes no result here.
    Unused,
}
use Fate::{Followed, Told, Unused};

/// A file and its settings.
struct File {
    name: &'static str,
    keys: &'static [(&'static str, Fate)],
    /// Where the settings are that count instead.
    instead: &'static str,
}

const GENERATION: File = File {
    name: "generation_config.json",
    instead: "`generate` takes its settings from the pipeline alone",
    keys: &[
        ("eos_token_id", Followed),
        ("pad_token_id", Followed),
        ("decoder_start_token_id", Followed),
        ("bos_token_id", Unused),
        ("num_beams", Told(&["1"])),
        ("num_beam_groups", Told(&["1"])),
        ("diversity_penalty", Told(&["0"])),
        ("do_sample", Told(&["false"])),
        ("temperature", Told(&["1"])),
        ("top_k", Told(&["50"])),
        ("top_p", Told(&["1"])),
        ("top_h", Told(&[])),
        ("min_p", Told(&["0"])),
        ("typical_p", Told(&["1"])),
        ("epsilon_cutoff", Told(&["0"])),
        ("eta_cutoff", Told(&["0"])),
        ("penalty_alpha", Told(&["0"])),
        ("dola_layers", Told(&[])),
        ("guidance_scale", Told(&["1"])),
        ("length_penalty", Told(&["1"])),
        ("exponential_decay_length_penalty", Told(&[])),
        ("early_stopping", Told(&["false"])),
        ("no_repeat_ngram_size", Told(&["0"])),
        ("encoder_no_repeat_ngram_size", Told(&["0"])),
        ("repetition_penalty", Told(&["1"])),
        ("encoder_repetition_penalty", Told(&["1"])),
        ("min_length", Told(&["0"])),
        ("min_new_tokens", Told(&["0"])),
        ("max_length", Told(&["20"])),
        ("max_new_tokens", Told(&["20"])),
        ("max_time", Told(&[])),
        ("stop_strings", Told(&[])),
        ("num_return_sequences", Told(&["1"])),
        ("bad_words_ids", Told(&[])),
        ("force_words_ids", Told(&[])),
        ("constraints", Told(&[])),
        ("forced_bos_token_id", Told(&[])),
        ("forced_eos_token_id", Told(&[])),
        ("force_bos_token_to_be_generated", Told(&["false"])),
        ("suppress_tokens", Told(&[])),
        ("begin_suppress_tokens", Told(&[])),
        ("sequence_bias", Told(&[])),
        ("watermarking_config", Told(&[])),
        ("renormalize_logits", Told(&["false"])),
        ("remove_invalid_values", Told(&["false"])),
        ("token_healing", Told(&["false"])),
        ("assistant_confidence_threshold", Unused),
        ("assistant_early_exit", Unused),
        ("assistant_ensemble_weight", Unused),
        ("assistant_lookbehind", Unused),
        ("is_assistant", Unused),
        ("target_lookbehind", Unused),
        ("num_assistant_tokens", Unused),
        ("num_assistant_tokens_schedule", Unused),
        ("prompt_lookup_num_tokens", Unused),
        ("max_matching_ngram_size", Unused),
        ("speculation_type", Unused),
        ("use_mtp", Unused),
        ("cache_config", Unused),
        ("cache_implementation", Unused),
        ("continuous_batching_config", Unused),
        ("compile_config", Unused),
        ("disable_compile", Unused),
        ("low_memory", Unused),
        ("max_cache_len", Unused),
        ("prefill_chunk_size", Unused),
        ("use_cache", Unused),
        ("output_attentions", Unused),
        ("output_hidden_states", Unused),
        ("output_logits", Unused),
        ("output_scores", Unused),
        ("return_dict_in_generate", Unused),
        ("transformers_version", Unused),
        ("_from_model_config", Unused),
        ("_commit_hash", Unused),
    ],
};

const MODEL: File = File {
    name: "config.json",
    instead: "it is not known here",
    keys: &[
        ("model_type", Followed),
        ("architectures", Followed),
        ("vocab_size", Followed),
        ("d_model", Followed),
        ("d_kv", Followed),
        ("d_ff", Followed),
        ("num_layers", Followed),
        ("num_decoder_layers", Followed),
        ("num_heads", Followed),
        ("relative_attention_num_buckets", Followed),
        ("relative_attention_max_distance", Followed),
        ("dropout_rate", Followed),
        ("layer_norm_epsilon", Followed),
        ("initializer_factor", Followed),
        ("feed_forward_proj", Followed),
        ("dense_act_fn", Followed),
        ("is_gated_act", Followed),
        ("tie_word_embeddings", Followed),
        ("scale_decoder_outputs", Followed),
        ("pad_token_id", Followed),
        ("eos_token_id", Followed),
        ("decoder_start_token_id", Followed),
        ("is_encoder_decoder", Followed),
        ("quantization_config", Followed),
        ("tie_encoder_decoder", Followed),
        ("pruned_heads", Followed),
        ("is_decoder", Unused),
        ("use_cache", Unused),
        ("bos_token_id", Unused),
        ("dtype", Unused),
        ("torch_dtype", Unused),
        ("classifier_dropout", Unused),
        ("chunk_size_feed_forward", Unused),
        ("id2label", Unused),
        ("label2id", Unused),
        ("num_labels", Unused),
        ("problem_type", Unused),
        ("output_attentions", Unused),
        ("output_hidden_states", Unused),
        ("output_past", Unused),
        ("return_dict", Unused),
        ("torchscript", Unused),
        ("gradient_checkpointing", Unused),
        // Lengths of pre-training, and settings for pipelines of transformers 4.
        ("n_positions", Unused),
        ("max_position_embeddings", Unused),
        ("task_specific_params", Unused),
        ("finetuning_task", Unused),
        ("tokenizer_class", Unused),
        ("base_config_key", Unused),
        ("transformers_version", Unused),
        ("_name_or_path", Unused),
        ("_commit_hash", Unused),
        ("_attn_implementation_autoset", Unused),
    ],
};

const TOKENIZER: File = File {
    name: "tokenizer_config.json",
    instead: "it is not followed",
    keys: &[
        ("tokenizer_class", Followed),
        ("extra_ids", Followed),
        ("additional_special_tokens", Followed),
        ("extra_special_tokens", Followed),
        ("added_tokens_decoder", Followed),
        ("add_prefix_space", Followed),
        ("clean_up_tokenization_spaces", Followed),
        ("clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output", Followed),
        ("bos_token", Told(&["\"<s>\""])),
        ("eos_token", Told(&["\"</s>\""])),
        ("unk_token", Told(&["\"<unk>\""])),
        ("pad_token", Told(&["\"<pad>\""])),
        ("sep_token", Told(&["\"</s>\""])),
        ("cls_token", Told(&["\"<s>\""])),
        ("mask_token", Told(&["\"<mask>\""])),
        ("errors", Told(&["\"replace\""])),
        ("add_bos_token", Told(&["false"])),
        ("add_eos_token", Told(&["true"])),
        ("split_special_tokens", Told(&["false"])),
        ("truncation_side", Told(&["\"right\""])),
        ("sp_model_kwargs", Told(&[])),
        // How long texts are, `max_source_tokens` says.
        ("model_max_length", Unused),
        ("max_len", Unused),
        ("padding_side", Unused),
        ("legacy", Unused),
        ("trim_offsets", Unused),
        ("chat_template", Unused),
        ("response_template", Unused),
        ("response_schema", Unused),
        ("chat_control_tokens", Unused),
        ("sanitize_control_tokens", Unused),
        ("model_specific_special_tokens", Unused),
        ("fix_mistral_regex", Unused),
        ("gguf_file", Unused),
        ("model_input_names", Unused),
        ("processor_class", Unused),
        ("name_or_path", Unused),
        ("backend", Unused),
        ("is_local", Unused),
        ("local_files_only", Unused),
        ("use_fast", Unused),
        ("use_source_tokenizer", Unused),
        ("verbose", Unused),
        ("files_loaded", Unused),
        ("vocab_file", Unused),
        ("merges_file", Unused),
        ("tokenizer_file", Unused),
        ("added_tokens_file", Unused),
        ("special_tokens_map_file", Unused),
        ("repo_id", Unused),
        ("commit_message", Unused),
        ("token", Unused),
        ("_commit_hash", Unused),
    ],
};

const SPECIAL_TOKENS: File = File {
    name: "special_tokens_map.json",
    instead: "it is not followed",
    keys: &[
        ("additional_special_tokens", Followed),
        ("extra_special_tokens", Followed),
        ("bos_token", Told(&["\"<s>\""])),
        ("eos_token", Told(&["\"</s>\""])),
        ("unk_token", Told(&["\"<unk>\""])),
        ("pad_token", Told(&["\"<pad>\""])),
        ("sep_token", Told(&["\"</s>\""])),
        ("cls_token", Told(&["\"<s>\""])),
        ("mask_token", Told(&["\"<mask>\""])),
    ],
};

const ADAPTER: File = File {
    name: "adapter_config.json",
    instead: "it is not known here",
    keys: &[
        ("peft_type", Followed),
        ("lora_alpha", Followed),
        ("alpha_pattern", Followed),
        ("use_rslora", Followed),
        ("use_dora", Followed),
        ("use_qalora", Followed),
        ("use_bdlora", Followed),
        ("fan_in_fan_out", Followed),
        ("bias", Followed),
        ("lora_bias", Followed),
        ("init_lora_weights", Followed),
        ("layer_replication", Followed),
        ("alora_invocation_tokens", Followed),
        ("trainable_token_indices", Followed),
        ("target_parameters", Followed),
        ("arrow_config", Followed),
        ("kasa_config", Followed),
        ("monteclora_config", Followed),
        // The tensors of the file say these.
        ("r", Followed),
        ("rank_pattern", Followed),
        ("target_modules", Followed),
        ("exclude_modules", Followed),
        ("layers_to_transform", Followed),
        ("layers_pattern", Followed),
        ("modules_to_save", Followed),
        ("lora_dropout", Unused),
        ("velora_config", Unused),
        ("qalora_group_size", Unused),
        ("corda_config", Unused),
        ("eva_config", Unused),
        ("loftq_config", Unused),
        ("lora_ga_config", Unused),
        ("ensure_weight_tying", Unused),
        ("megatron_config", Unused),
        ("megatron_core", Unused),
        ("runtime_config", Unused),
        ("inference_mode", Unused),
        ("task_type", Unused),
        ("auto_mapping", Unused),
        ("base_model_name_or_path", Unused),
        ("revision", Unused),
        ("peft_version", Unused),
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
    // Without a file for them, settings of searches are in that of the model.
    let (of_search, of_model): (Map<_, _>, Map<_, _>) =
        config.clone().into_iter().partition(|(key, _)| {
            own.is_none() && MODEL.fate(key).is_none() && GENERATION.fate(key).is_some()
        });
    let mut told = Vec::new();
    match &own {
        Some(own) => told.extend(GENERATION.told(GENERATION.name, own)),
        None => told.extend(GENERATION.told(MODEL.name, &of_search)),
    }
    let is_of_search = |key: &str| GENERATION.fate(key).is_some() && MODEL.fate(key).is_none();
    let of_model = of_model.into_iter().filter(|(key, _)| !is_of_search(key)).collect();
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
    fn fate(&self, key: &str) -> Option<&Fate> {
        self.keys.iter().find(|(known, _)| *known == key).map(|(_, fate)| fate)
    }

    /// What `settings` of the file called `name` ask for in vain: those that are known, and those that are not.
    fn told(&self, name: &str, settings: &Map<String, Value>) -> Vec<String> {
        let asks = |(key, value): &(&String, &Value)| match self.fate(key) {
            Some(Told(usual)) => !says_nothing(value, usual),
            _ => false,
        };
        let list = |found: Vec<(&String, &Value)>| {
            let found = found.into_iter().map(|(key, value)| format!("{key} {}", short(value)));
            found.collect::<Vec<_>>().join(", ")
        };
        // In the order of the table.
        let mut asked: Vec<_> = settings.iter().filter(asks).collect();
        asked.sort_by_key(|(key, _)| self.keys.iter().position(|(known, _)| known == key));
        let is_unknown = |(key, value): &(&String, &Value)| {
            self.fate(key).is_none() && !says_nothing(value, &[])
        };
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

/// Whether a setting is null or empty, or has one of its usual values.
fn says_nothing(value: &Value, usual: &[&str]) -> bool {
    // A token may be written with all its properties.
    let value = value.get("content").unwrap_or(value);
    let is = |usual: &&str| {
        let usual: Value = serde_json::from_str(usual).unwrap_or_default();
        match (value.as_f64(), usual.as_f64()) {
            (Some(value), Some(usual)) => (value - usual).abs() < f64::EPSILON,
            _ => *value == usual,
        }
    };
    match value {
        Value::Null => true,
        Value::Array(items) if items.is_empty() => true,
        Value::Object(fields) if fields.is_empty() => true,
        _ => usual.iter().any(is),
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
            let of = |wanted: fn(&Fate) -> bool| {
                let keys = file.keys.iter().filter(|(_, fate)| wanted(fate));
                keys.map(|(key, _)| format!("`{key}`")).collect::<Vec<_>>().join(", ")
            };
            let [followed, told, unused] = [
                of(|fate| matches!(fate, Followed)),
                of(|fate| matches!(fate, Told(_))),
                of(|fate| matches!(fate, Unused)),
            ];
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
