//! What other programs call our settings.

use serde_json::{Value, json};

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
        "stop_strings": "it is called `stop`",
        "stop_sequences": "it is called `stop`",
        "force_words_ids": "write `keep: { column: NAME }`, where the column has the words of each row",
        "constraints": "write `keep: { column: NAME }`, where the column has the words of each row",
        "output_scores": "write `token_scores: true`",
        "output_logits": "write `token_scores: true`, which adds the logarithms of the probabilities",
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
