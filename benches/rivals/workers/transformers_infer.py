"""Writes, scores and trains with `transformers`.

Job: `work`, `folder` (of inputs), `precision`, `batch`, `threads`, `out`; of writing `least` and `most` new tokens; of training `examples`.
"""

import common
from transformers_engine import SEARCHES, Engine


def main():
    job = common.job()
    work = job["work"]
    with common.Clock() as clock:
        engine = Engine(f"{job['folder']}/model", job["precision"], job["threads"])
        load = clock.passed()
        if work.startswith("finetune") or work == "lora":
            rows = common.read(f"{job['folder']}/train.csv")[: job["examples"]]
            engine.train([common.PREFIX + row["source"] for row in rows], [row["target"] for row in rows], job["batch"], work == "lora")
            engine.save(job["out"])
        else:
            texts = common.prompts(job)
            if work in SEARCHES:
                common.write_texts(job["out"], engine.write(texts, work, job["batch"], job["least"], job["most"]))
            else:
                labels = common.labels_of(work)
                common.write_scores(job["out"], work, labels, engine.score(texts, labels, job["batch"]))
    common.report(seconds=clock.seconds, load=load)


if __name__ == "__main__":
    main()
