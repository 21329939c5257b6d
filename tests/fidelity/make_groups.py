"""Records what diverse beam search writes, for the fixtures that make_fixtures.py has made.

    pip install "transformers<4.57" torch
    python tests/fidelity/make_groups.py stages/t5-core/tests/fixtures

Later versions of `transformers` leave this search to code of others.
"""

import json
import pathlib
import sys

import torch
from transformers import T5ForConditionalGeneration

from reference import clear_searches, of_sources

SEARCHES = [
    dict(num_beams=4, num_beam_groups=2, diversity_penalty=1.0, num_return_sequences=4),
    dict(num_beams=6, num_beam_groups=3, diversity_penalty=0.4, num_return_sequences=3, length_penalty=0.6),
    dict(num_beams=3, num_beam_groups=3, diversity_penalty=2.0, num_return_sequences=3, early_stopping=True),
    dict(num_beams=6, num_beam_groups=2, diversity_penalty=0.7, repetition_penalty=1.3, no_repeat_ngram_size=2,
         early_stopping="never", length_penalty=1.4, num_return_sequences=6),
]

if __name__ == "__main__":
    torch.set_num_threads(1)
    for recorded in sorted(pathlib.Path(sys.argv[1]).glob("*/recorded.json")):
        model = T5ForConditionalGeneration.from_pretrained(recorded.parent).eval()
        sources = json.loads(recorded.read_text())["inputs"][:60]
        searches, clear = clear_searches(model, sources, SEARCHES)
        text = json.dumps(of_sources(searches, sources, clear), separators=(",", ":"))
        (recorded.parent / "groups.json").write_text(text + "\n")
