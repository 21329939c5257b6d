"""Reads with the hub's own libraries what `paraloom push` has published, from the cache that a download of ours has filled.

    HF_HOME=CACHE python tests/fidelity/published.py OWNER/MODEL OWNER/DATASET SPLIT < ROWS

ROWS are JSON lines, as `paraloom show --json` prints the table that was published. Nothing is asked of a network.
"""

import json
import os
import sys

os.environ["HF_HUB_OFFLINE"] = "1"

import datasets
import huggingface_hub
import torch
import transformers


def main():
    model, dataset, split = sys.argv[1:]
    expected = [json.loads(line) for line in sys.stdin]

    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    network = transformers.AutoModelForSeq2SeqLM.from_pretrained(model)
    with torch.no_grad():
        text = tokenizer(expected[0]["paraphrase"], return_tensors="pt")
        written = network.generate(**text, max_new_tokens=4)
    assert torch.isfinite(network.shared.weight).all() and written.shape[0] == 1

    folder = huggingface_hub.snapshot_download(dataset, repo_type="dataset")
    table = datasets.load_dataset(folder, split=split)
    rows = [{name: row[name] for name in expected[0]} for row in table]
    assert rows == expected, (rows[:2], expected[:2])
    print(f"{len(rows)} rows and a model of {network.num_parameters()} weights: datasets {datasets.__version__}, huggingface_hub {huggingface_hub.__version__}")


if __name__ == "__main__":
    main()
