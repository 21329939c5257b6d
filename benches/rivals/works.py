"""The works that are measured: what is counted, and the bar that Paraloom is held to."""

import dataclasses

# Of every text that is written; no more and no less.
NEW_TOKENS = 32
# Of the article's first training.
STEPS = 200
# Of the trainings whose batches have other sizes too; the article's.
TRAIN_BATCH = 8
# Requests whose median counts.
REQUESTS = 60


@dataclasses.dataclass(frozen=True)
class Work:
    """A kind of work.

    `unit` is what a figure counts: `rows/s` and `examples/s` (more is better), `ms` and `s` (less is better).
    `bar` is how many times as fast as the rival Paraloom is to be. `by`: `best` compares the fastest mode of each side, and f32 with f32;
    `precision` compares each precision with the same, and peak memory; `latency` compares the fastest modes by `ms`; `before` has no rival
    but an earlier Paraloom.
    """

    name: str
    title: str
    unit: str
    bar: float
    by: str = "best"
    batch: int = 8


WORKS = {
    work.name: work
    for work in [
        Work("greedy", "greedy", "rows/s", 1.5),
        Work("sample", "sampling, top-k 120, top-p 0.95", "rows/s", 1.5),
        Work("beam", "beam 4", "rows/s", 1.5),
        Work("diverse", "diverse beams, 4 groups, 4 texts a row", "rows/s", 1.5),
        Work("stsb", "score-stsb", "rows/s", 1.5),
        Work("cola", "score-cola", "rows/s", 1.5),
        Work("finetune8", "finetune, batch 8", "examples/s", 1.8, "precision", 8),
        Work("finetune16", "finetune, batch 16", "examples/s", 1.8, "precision", 16),
        Work("lora", "LoRA, rank 8, batch 8", "examples/s", 1.8, "precision", 8),
        Work("serve", "one sentence, p50", "ms", 1 / 0.7, "latency"),
        Work("article", "the article's pipeline", "s", 3.0),
        Work("quickstart", "quickstart, cold", "s", 2.0, "before"),
    ]
}
# What `--work` takes for several of them.
GROUPS = {"finetune": ["finetune8", "finetune16"]}


def chosen(names):
    """The works of these names, and of these groups of them."""
    works = [work for name in names for work in GROUPS.get(name, [name])]
    unknown = [name for name in works if name not in WORKS]
    if unknown:
        raise SystemExit(f"no work is called {', '.join(unknown)}; there are {', '.join([*GROUPS, *WORKS])}")
    return [WORKS[name] for name in works]
