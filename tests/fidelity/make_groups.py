"""Records what diverse beam search writes, for the fixtures that make_fixtures.py has made.

    pip install "transformers<4.57" torch
    python tests/fidelity/make_groups.py stages/t5/tests/fixtures

Later versions of `transformers` leave this search to code of others.
"""

import json
import pathlib
import sys

import torch
from transformers import T5ForConditionalGeneration

from reference import SEARCH_NUDGES, differing, generated, nudged, of_source

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
        searches = [generated(model, sources, **how) for how in SEARCHES]
        clear = set(range(len(sources)))
        for nudge in range(SEARCH_NUDGES):
            other = nudged(model, nudge, by=2**-20)
            for how, search in zip(SEARCHES, searches, strict=True):
                clear -= differing(search["rows"], generated(other, sources, **how)["rows"], len(sources))
        for search in searches:
            for key in ("rows", "scores"):
                search[key] = [value for at in sorted(clear) for value in of_source(search[key], at, len(sources))]
        print(f"{recorded.parent.name}: {len(clear)} of {len(sources)} sources")
        inputs = [sources[at] for at in sorted(clear)]
        text = json.dumps(dict(inputs=inputs, generated=searches), separators=(",", ":"))
        (recorded.parent / "groups.json").write_text(text + "\n")
