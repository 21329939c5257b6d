"""Writes greedily and scores with OpenVINO, whose models are driven directly: through `generate` of transformers they take a third longer.

Job: `work`, `folder` (of inputs), `model` (exported), `precision` (f32, bf16: what is computed in), `batch`, `streams` (batches side by
side, which share the `threads`), `least` and `most` new tokens, `out`, `cache` (of compiled models). Keys and values stay f32, since what is
written changes otherwise.
"""

import queue
import threading

import common
import numpy
import openvino
from tokenizers import Tokenizer

PAD, EOS = 0, 1


class Engine:
    """The two models of a T5. Ids and masks are [rows, tokens], hidden states [rows, tokens, d_model], logits [rows, tokens, vocabulary]."""

    def __init__(self, job):
        self.tokenizer = Tokenizer.from_file(f"{job['folder']}/model/tokenizer.json")
        core = openvino.Core()
        # Compiled once; a later process reads what came of it, which takes a fraction of the time.
        core.set_property({"CACHE_DIR": job["cache"]})
        settings = dict(INFERENCE_PRECISION_HINT=job["precision"], KV_CACHE_PRECISION="f32", INFERENCE_NUM_THREADS=job["threads"],
                        NUM_STREAMS=job["streams"])
        self.encoder, self.decoder = (
            core.compile_model(f"{job['model']}/openvino_{part}_model.xml", "CPU", settings) for part in ("encoder", "decoder"))
        self.job = job

    def padded(self, rows):
        """Ids and masks of lists of ids."""
        ids = numpy.zeros((len(rows), max(map(len, rows))), numpy.int64)
        for at, row in enumerate(rows):
            ids[at, : len(row)] = row
        return ids, (ids != PAD).astype(numpy.int64)

    def begin(self, requests, rows):
        """Reads the sources; gives what each step of the decoder is told."""
        encoder, decoder = requests
        ids, mask = self.padded(rows)
        hidden = encoder.infer({"input_ids": ids, "attention_mask": mask}, share_inputs=True)["last_hidden_state"].copy()
        decoder.reset_state()
        return {"encoder_hidden_states": hidden, "encoder_attention_mask": mask, "beam_idx": numpy.arange(len(rows), dtype=numpy.int32)}

    def write(self, requests, rows):
        """The text of the most probable tokens, for each row."""
        given, done = self.begin(requests, rows), []
        last = numpy.full((len(rows), 1), PAD, numpy.int64)
        ended = numpy.zeros(len(rows), bool)
        for step in range(self.job["most"]):
            logits = requests[1].infer({**given, "input_ids": last}, share_inputs=True, share_outputs=True)["logits"][:, -1]
            if step < self.job["least"]:
                logits = logits.copy()
                logits[:, EOS] = -numpy.inf
            last = numpy.where(ended, PAD, logits.argmax(-1))[:, None]
            done.append(last[:, 0])
            ended |= last[:, 0] == EOS
            if ended.all():
                break
        return [[text] for text in self.tokenizer.decode_batch(numpy.stack(done, 1).tolist(), skip_special_tokens=True)]

    def score(self, requests, rows, begin, last):
        """The probability of each label for each row, by its last token after those that the labels begin with."""
        given = self.begin(requests, rows)
        ids = numpy.array([[PAD, *begin]] * len(rows), numpy.int64)
        logits = requests[1].infer({**given, "input_ids": ids}, share_inputs=True, share_outputs=True)["logits"][:, -1]
        logits = logits[:, [token for _, token in last]].astype(numpy.float64)
        shares = numpy.exp(logits - logits.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        return [{index: share for (index, _), share in zip(last, row, strict=True)} for row in shares.tolist()]

    def all(self, texts, compute):
        """What `compute` makes of the rows of each batch; as many batches side by side as there are streams."""
        sources = [encoded.ids for encoded in self.tokenizer.encode_batch(texts)]
        waiting, results = queue.SimpleQueue(), [None] * len(texts)
        for batch in common.batches([len(source) for source in sources], self.job["batch"]):
            waiting.put(batch)

        def stream():
            requests = self.encoder.create_infer_request(), self.decoder.create_infer_request()
            while True:
                try:
                    batch = waiting.get_nowait()
                except queue.Empty:
                    return
                for row, result in zip(batch, compute(requests, [sources[row] for row in batch]), strict=True):
                    results[row] = result

        streams = [threading.Thread(target=stream) for _ in range(self.job["streams"])]
        for one in streams:
            one.start()
        for one in streams:
            one.join()
        return results


def main():
    job = common.job()
    with common.Clock() as clock:
        texts = common.prompts(job)
        engine = Engine(job)
        load = clock.passed()
        if job["work"] == "greedy":
            common.write_texts(job["out"], engine.all(texts, engine.write))
        else:
            labels = common.labels_of(job["work"])
            tokens = [engine.tokenizer.encode(label, add_special_tokens=False).ids for label in labels]
            begin, last = common.label_tokens(tokens)
            judged = engine.all(texts, lambda requests, rows: engine.score(requests, rows, begin, last))
            common.write_scores(job["out"], job["work"], labels, judged)
    common.report(seconds=clock.seconds, load=load)


if __name__ == "__main__":
    main()
