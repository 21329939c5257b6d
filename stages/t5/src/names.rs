//! What other programs call our settings.
//!
//! Tables of data, as a stage's schema has them under `x-paraloom-elsewhere`: each name with what to write here.

use serde_json::{Map, Value};

/// A name, and what to write in its place.
type Names = &'static [(&'static str, &'static str)];

const GENERATE_SAMPLE: &str =
    "write it in `sample`: `sample: { temperature: 0.8, top_k: 50, top_p: 0.95 }`";
const GENERATE_BEAM: &str =
    "write it in `beam`: `beam: { beams: 4, length_penalty: 1.0, early_stopping: \"yes\" }`";
const GENERATE_GROUPS: &str =
    "write it in `beam`: `beam: { beams: 4, groups: 2, diversity_penalty: 0.5 }`";
const GENERATE_NOTHING: &str = "`generate` has nothing of the kind";

/// What `transformers` and its kin call the settings of `generate`.
const GENERATE: Names = &[
    ("num_beams", "write `beam: { beams: 4 }`"),
    ("beams", GENERATE_BEAM),
    ("length_penalty", GENERATE_BEAM),
    ("early_stopping", GENERATE_BEAM),
    ("num_beam_groups", GENERATE_GROUPS),
    ("diversity_penalty", GENERATE_GROUPS),
    ("num_return_sequences", "it is called `candidates`"),
    ("do_sample", "write `sample: {}` to sample; without it, the most likely text is written"),
    ("temperature", GENERATE_SAMPLE),
    ("top_k", GENERATE_SAMPLE),
    ("top_p", GENERATE_SAMPLE),
    ("max_length", "it is called `max_new_tokens`"),
    ("max_target_length", "it is called `max_new_tokens`"),
    ("max_source_length", "it is called `max_source_tokens`"),
    ("max_input_length", "it is called `max_source_tokens`"),
    ("source_prefix", "it is called `prefix`"),
    ("min_length", "it is called `min_new_tokens`"),
    ("encoder_repetition_penalty", GENERATE_NOTHING),
    ("bad_words_ids", "write the words themselves: `bad_words: [they, them]`"),
    ("forced_bos_token_id", "write the text of the token: `begin`"),
    ("typical_p", GENERATE_SAMPLE),
    ("min_p", GENERATE_SAMPLE),
    ("eta_cutoff", GENERATE_SAMPLE),
    ("epsilon_cutoff", GENERATE_SAMPLE),
    ("penalty_alpha", GENERATE_NOTHING),
    ("stop_strings", "it is called `stop`"),
    ("stop_sequences", "it is called `stop`"),
    (
        "force_words_ids",
        "write `keep: { column: NAME }`, where the column has the words of each row",
    ),
    ("constraints", "write `keep: { column: NAME }`, where the column has the words of each row"),
    ("output_scores", "write `token_scores: true`"),
    ("output_logits", "write `token_scores: true`, which adds the logarithms of the probabilities"),
    ("batch_size", "there is none: texts of about one length are written side by side"),
    ("fp16", "T5 overflows in fp16; write `precision: bf16`"),
    ("bf16", "write `precision: bf16`"),
    ("torch_dtype", "it is called `precision`"),
    ("dtype", "it is called `precision`"),
    ("seed", "write `seed` at the top of the pipeline"),
];

const FINETUNE_BATCH: &str = "it is called `batch_size`";
const FINETUNE_SOURCE: &str = "it is called `max_source_tokens`";
const FINETUNE_KEPT: &str = "there is none: a run that was stopped goes on at its last checkpoint, and losses are in the table `metrics`";

/// What `transformers` and its kin call the settings of `finetune`.
const FINETUNE: Names = &[
    ("lr", "it is called `learning_rate`"),
    ("num_train_epochs", "it is called `epochs`"),
    ("num_epochs", "it is called `epochs`"),
    ("max_steps", "it is called `steps`"),
    ("per_device_train_batch_size", FINETUNE_BATCH),
    ("train_batch_size", FINETUNE_BATCH),
    ("max_tokens", "it is called `batch_tokens`"),
    (
        "group_by_length",
        "there is no need: shuffled examples of about one length are in a batch, and none is padded",
    ),
    ("gradient_accumulation_steps", "it is called `accumulate`"),
    ("lr_scheduler_type", "it is called `schedule`"),
    ("max_grad_norm", "it is called `clip`"),
    ("label_smoothing_factor", "it is called `label_smoothing`"),
    ("dropout_rate", "it is called `dropout`"),
    ("optim", "it is called `optimizer`"),
    ("max_source_length", FINETUNE_SOURCE),
    ("max_input_length", FINETUNE_SOURCE),
    ("max_seq_length", FINETUNE_SOURCE),
    ("max_length", "they are called `max_source_tokens` and `max_target_tokens`"),
    ("max_target_length", "it is called `max_target_tokens`"),
    ("fp16", "T5 overflows in fp16; write `precision: bf16`"),
    ("bf16", "write `precision: bf16`"),
    ("eval_steps", "it is called `validate_every`"),
    (
        "metric_for_best_model",
        "write `keep_best: { metric: chrf }`; without it the model with the lowest loss is kept",
    ),
    (
        "load_best_model_at_end",
        "there is no need: of several that were validated, the best model is kept",
    ),
    ("predict_with_generate", "write `keep_best: { metric: chrf }`"),
    (
        "generation_max_length",
        "write it in `keep_best`: `keep_best: { metric: chrf, max_new_tokens: 128 }`",
    ),
    ("early_stopping_patience", "it is called `patience`"),
    ("source_prefix", "it is called `prefix`"),
    ("text_column", "it is called `source`"),
    ("summary_column", "it is called `target`"),
    ("seed", "write `seed` at the top of the pipeline"),
    ("save_steps", FINETUNE_KEPT),
    ("logging_steps", FINETUNE_KEPT),
    (
        "output_dir",
        "there is none: `paraloom export PIPELINE NODE --to DIR` writes the model where you want it",
    ),
    ("peft", "write `lora: { rank: 8, alpha: 16, targets: [q, v] }`"),
    ("lora_r", "write `lora: { rank: 8 }`"),
    ("lora_alpha", "write `lora: { alpha: 16 }`"),
    ("lora_dropout", "write `lora: { dropout: 0.05 }`"),
    ("target_modules", "write `lora: { targets: [q, v] }`"),
];

pub(super) fn of_generate() -> Value {
    object(GENERATE)
}

pub(super) fn of_finetune() -> Value {
    object(FINETUNE)
}

fn object(names: Names) -> Value {
    let members = names.iter().map(|(name, hint)| ((*name).to_owned(), Value::from(*hint)));
    Value::Object(members.collect::<Map<_, _>>())
}
