"""Holds the table of docs/models.md to the settings that the installed `transformers` and `peft` have.

    python tests/fidelity/keys.py

Every setting that they read from a model's files has to be in the table, as followed, told or without effect.
"""

import dataclasses
import inspect
import pathlib
import re
import sys

import peft
import transformers
from transformers import tokenization_utils_base, tokenization_utils_tokenizers

MODELS = pathlib.Path(__file__).parents[2] / "docs" / "models.md"
# Of Python alone: what a class says of all its models, or an argument that no file has.
OF_CLASSES = {
    "self", "kwargs", "attribute_map", "base_config_key", "base_model_ep_plan", "base_model_fsdp_plan", "base_model_pp_plan",
    "base_model_tp_plan", "extra_config_files", "extra_files", "sub_configs_defaults", "_auto_class", "vocab", "merges", "_spm_precompiled_charsmap",
    "_json_padding", "_json_truncation", "tokenizer", "tokenizer_object", "tokenizer_padding", "tokenizer_truncation", "post_processor", "unk_id",
}


def table():
    """The settings of each file, by the document."""
    rows = re.findall(r"^\| `(\w+\.json)` \|(.*)$", MODELS.read_text(), re.M)
    return {name: set(re.findall(r"`(\w+)`", row)) for name, row in rows}


def popped(function):
    """The names that a constructor takes out of its keyword arguments."""
    return set(re.findall(r'kwargs\.(?:pop|get)\(\s*"(\w+)"', inspect.getsource(function)))


def read():
    """The settings that the libraries read, for each file."""
    models = [transformers.T5Config, transformers.MT5Config, transformers.UMT5Config]
    config = {name for model in models for name in [*model().to_dict(), *inspect.signature(model.__init__).parameters]}
    config |= {name for model in models for kind in model.__mro__ for name in getattr(kind, "__annotations__", {})}
    generation = set(transformers.GenerationConfig().to_dict()) | popped(transformers.GenerationConfig.__init__)
    tokenizers = [transformers.T5Tokenizer, transformers.ByT5Tokenizer, transformers.RobertaTokenizer]
    tokens = {name for kind in tokenizers for name in inspect.signature(kind.__init__).parameters}
    tokens |= popped(tokenization_utils_base.PreTrainedTokenizerBase.__init__) | popped(tokenization_utils_tokenizers)
    special = set(tokenization_utils_base.PreTrainedTokenizerBase.SPECIAL_TOKENS_ATTRIBUTES)
    return {
        "config.json": config,
        "generation_config.json": generation,
        "tokenizer_config.json": tokens,
        "special_tokens_map.json": special,
        "adapter_config.json": {field.name for field in dataclasses.fields(peft.LoraConfig)},
    }


def main():
    known, failed = table(), False
    for name, settings in read().items():
        missing = sorted(settings - OF_CLASSES - known.get(name, set()))
        print(f"{name}: {len(settings)} settings of transformers {transformers.__version__} and peft {peft.__version__}, {len(missing)} not in the table {' '.join(missing)}")
        failed |= bool(missing)
    return failed


if __name__ == "__main__":
    sys.exit(main())
