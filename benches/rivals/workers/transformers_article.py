"""The article's steps with `transformers`: to learn, to write, to judge, to choose, and to learn from what was chosen.

Job: `folder` (of inputs), `precision`, `batch`, `threads`, `rows`, `least` and `most` new tokens, `steps`, `out`.
"""

import pathlib

import common
from transformers_engine import Engine

TRAIN_BATCH = 8


def main():
    job = common.job()
    out = pathlib.Path(job["out"])
    with common.Clock() as clock:
        folder, settings = job["folder"], (job["precision"], job["threads"])
        writer = Engine(f"{folder}/model", *settings)
        pairs = common.read(f"{folder}/train.csv")[: job["steps"] * TRAIN_BATCH]
        writer.train([common.PREFIX + pair["source"] for pair in pairs], [pair["target"] for pair in pairs], TRAIN_BATCH)
        writer.save(out / "t5p")
        sources = [row["source"] for row in common.read(f"{folder}/rows.csv")[: job["rows"]]]
        prompts = [common.PREFIX + source for source in sources]
        texts = [text for [text] in writer.write(prompts, "article", job["batch"], job["least"], job["most"])]
        judge = Engine(f"{folder}/model", *settings)
        pairs = [common.STSB.format(source, text) for source, text in zip(sources, texts, strict=True)]
        similar = judge.score(pairs, common.STSB_LABELS, job["batch"])
        sound = judge.score([common.COLA.format(text) for text in texts], common.COLA_LABELS, job["batch"])
        # Random weights judge at random, so everything stays that was changed: so much work as with a model that does it all right.
        kept = [row for row, text in enumerate(texts) if text.lower() != sources[row].lower() and sum(similar[row].values()) + sound[row][1] > 0]
        common.write(out / "qualified.csv", ["source", "paraphrase"], [(sources[row], texts[row]) for row in kept])
        writer.train([common.PREFIX + sources[row] for row in kept], [texts[row] for row in kept], TRAIN_BATCH)
        writer.save(out / "custom")
    common.report(seconds=clock.seconds)


if __name__ == "__main__":
    main()
