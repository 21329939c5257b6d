//! What other programs call our settings, and what a model's own files ask for: users come with both.

use std::path::Path;

use serde_json::{Map, Value, json};

/// What `transformers` and its kin call the settings of `generate`, each with what to write here.
pub(super) fn of_generate() -> Value {
    let sample = "write it in `sample`: `sample: { temperature: 0.8, top_k: 50, top_p: 0.95 }`";
    let beam =
        "write it in `beam`: `beam: { beams: 4, length_penalty: 1.0, early_stopping: \"yes\" }`";
    let groups = "write it in `beam`: `beam: { beams: 4, groups: 2, diversity_penalty: 0.5 }`";
    let none = "`generate` has nothing of the kind";
    json!({
        "num_beams": "write `beam: { beams: 4 }`",
        "beams": beam,
        "length_penalty": beam,
        "early_stopping": beam,
        "num_beam_groups": groups,
        "diversity_penalty": groups,
        "num_return_sequences": "it is called `candidates`",
        "do_sample": "write `sample: {}` to sample; without it, the most likely text is written",
        "temperature": sample,
        "top_k": sample,
        "top_p": sample,
        "max_length": "it is called `max_new_tokens`",
        "max_target_length": "it is called `max_new_tokens`",
        "max_source_length": "it is called `max_source_tokens`",
        "max_input_length": "it is called `max_source_tokens`",
        "source_prefix": "it is called `prefix`",
        "min_length": "it is called `min_new_tokens`",
        "encoder_repetition_penalty": none,
        "bad_words_ids": "write the words themselves: `bad_words: [they, them]`",
        "forced_bos_token_id": "write the text of the token: `begin`",
        "typical_p": sample,
        "min_p": sample,
        "eta_cutoff": sample,
        "epsilon_cutoff": sample,
        "penalty_alpha": none,
        "batch_size": "there is none: texts of about one length are written side by side",
        "fp16": "T5 overflows in fp16; write `precision: bf16`",
        "bf16": "write `precision: bf16`",
        "torch_dtype": "it is called `precision`",
        "dtype": "it is called `precision`",
        "seed": "write `seed` at the top of the pipeline",
    })
}

/// The same for `finetune`.
pub(super) fn of_finetune() -> Value {
    let batch = "it is called `batch_size`";
    let source = "it is called `max_source_tokens`";
    let kept = "there is none: a run that was stopped goes on at its last checkpoint, and losses are in the table `metrics`";
    json!({
        "lr": "it is called `learning_rate`",
        "num_train_epochs": "it is called `epochs`",
        "num_epochs": "it is called `epochs`",
        "max_steps": "it is called `steps`",
        "per_device_train_batch_size": batch,
        "train_batch_size": batch,
        "max_tokens": "it is called `batch_tokens`",
        "group_by_length": "there is no need: shuffled examples of about one length are in a batch, and none is padded",
        "gradient_accumulation_steps": "it is called `accumulate`",
        "lr_scheduler_type": "it is called `schedule`",
        "max_grad_norm": "it is called `clip`",
        "label_smoothing_factor": "it is called `label_smoothing`",
        "dropout_rate": "it is called `dropout`",
        "optim": "it is called `optimizer`",
        "max_source_length": source,
        "max_input_length": source,
        "max_seq_length": source,
        "max_length": "they are called `max_source_tokens` and `max_target_tokens`",
        "max_target_length": "it is called `max_target_tokens`",
        "fp16": "T5 overflows in fp16; write `precision: bf16`",
        "bf16": "write `precision: bf16`",
        "eval_steps": "it is called `validate_every`",
        "metric_for_best_model": "write `keep_best: { metric: chrf }`; without it the model with the lowest loss is kept",
        "load_best_model_at_end": "there is no need: of several that were validated, the best model is kept",
        "predict_with_generate": "write `keep_best: { metric: chrf }`",
        "generation_max_length": "write it in `keep_best`: `keep_best: { metric: chrf, max_new_tokens: 128 }`",
        "early_stopping_patience": "it is called `patience`",
        "source_prefix": "it is called `prefix`",
        "text_column": "it is called `source`",
        "summary_column": "it is called `target`",
        "seed": "write `seed` at the top of the pipeline",
        "save_steps": kept,
        "logging_steps": kept,
        "output_dir": "there is none: `paraloom export PIPELINE NODE --to DIR` writes the model where you want it",
        "peft": "write `lora: { rank: 8, alpha: 16, targets: [q, v] }`",
        "lora_r": "write `lora: { rank: 8 }`",
        "lora_alpha": "write `lora: { alpha: 16 }`",
        "lora_dropout": "write `lora: { dropout: 0.05 }`",
        "target_modules": "write `lora: { targets: [q, v] }`",
    })
}

/// What `transformers` follows in a model's `generation_config.json`, or in its `config.json` where there is none, and what
/// says nothing there.
const GENERATION: [(&str, &str); 26] = [
    ("num_beams", "1"),
    ("num_beam_groups", "1"),
    ("diversity_penalty", "0"),
    ("do_sample", "false"),
    ("temperature", "1"),
    ("top_k", "50"),
    ("top_p", "1"),
    ("min_p", "0"),
    ("typical_p", "1"),
    ("epsilon_cutoff", "0"),
    ("eta_cutoff", "0"),
    ("penalty_alpha", "0"),
    ("length_penalty", "1"),
    ("early_stopping", "false"),
    ("no_repeat_ngram_size", "0"),
    ("encoder_no_repeat_ngram_size", "0"),
    ("repetition_penalty", "1"),
    ("encoder_repetition_penalty", "1"),
    ("min_length", "0"),
    ("min_new_tokens", "0"),
    ("max_length", "20"),
    ("max_new_tokens", "20"),
    ("num_return_sequences", "1"),
    ("bad_words_ids", "[]"),
    ("forced_bos_token_id", "null"),
    ("forced_eos_token_id", "null"),
];
/// Tokens that both files may name; here those of `config.json` count.
const TOKENS: [&str; 3] = ["eos_token_id", "pad_token_id", "decoder_start_token_id"];

/// What the files of a model ask for and `generate` does not follow, in sentences.
pub(super) fn not_followed(directory: &Path) -> Vec<String> {
    let read = |name: &str| -> Option<Map<String, Value>> {
        serde_json::from_str(&std::fs::read_to_string(directory.join(name)).ok()?).ok()
    };
    let model = read("config.json").unwrap_or_default();
    let own = read("generation_config.json");
    let (name, asked) = match &own {
        Some(own) => ("generation_config.json", own),
        None => ("config.json", &model),
    };
    let says = |(key, nothing): &(&str, &str)| {
        let value = asked.get(*key).filter(|value| !value.is_null())?;
        let nothing: Value = serde_json::from_str(nothing).unwrap_or_default();
        let same = match (value.as_f64(), nothing.as_f64()) {
            (Some(value), Some(nothing)) => (value - nothing).abs() < f64::EPSILON,
            _ => *value == nothing,
        };
        (!same).then(|| format!("{key} {value}"))
    };
    let mut told = Vec::new();
    let settings: Vec<_> = GENERATION.iter().filter_map(says).collect();
    if !settings.is_empty() {
        told.push(format!(
            "{name} asks for {}; `generate` takes its settings from the pipeline alone",
            settings.join(", ")
        ));
    }
    let one = |value: &Value| match value.as_array().map(Vec::as_slice) {
        Some([one]) => one.clone(),
        _ => value.clone(),
    };
    for key in TOKENS {
        let [ours, theirs] = [Some(&model), own.as_ref()].map(|file| file?.get(key).map(one));
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

#[cfg(test)]
mod tests {
    use super::*;

    fn told(files: &[(&str, Value)]) -> Vec<String> {
        let directory = tempfile::tempdir().expect("a directory");
        for (name, json) in files {
            std::fs::write(directory.path().join(name), json.to_string()).expect("it is ours");
        }
        not_followed(directory.path())
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
}
