"""Records the small fixtures that are committed, for the ordinary test command.

    python tests/fidelity/make_fixtures.py stages/t5-core/tests/fixtures

needs torch and transformers; `tests/fidelity/venv.sh` makes such an environment.
"""

import pathlib
import sys

import torch

from reference import MODELS, record

if __name__ == "__main__":
    torch.set_num_threads(1)
    for name, sizes in MODELS.items():
        # The files stay small: every 37th value, and of the logits the first positions, say enough.
        record(name, sizes, pathlib.Path(sys.argv[1]), seed=len(name), every=37, positions=8)
