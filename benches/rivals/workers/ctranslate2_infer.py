"""Writes and scores with CTranslate2.

Job: `work`, `folder` (of inputs), `model` (converted), `precision` (float32, int8), `batch`, `replicas` and `threads` (of each),
`new_tokens`, `out`, and of scores `way`: `logits` reads those of the labels after the tokens that all labels begin with, `score` has
one label's tokens scored, which is less than the others do.
"""

import math

import common
import ctranslate2
import numpy
from tokenizers import Tokenizer

SEARCHES = {
    "greedy": dict(beam_size=1),
    "sample": dict(beam_size=1, sampling_topk=120, sampling_topp=0.95),
    "beam": dict(beam_size=4),
}


class Engine:
    """A model with its tokenizer."""

    def __init__(self, job):
        self.job = job
        self.tokenizer = Tokenizer.from_file(f"{job['folder']}/model/tokenizer.json")
        self.translator = ctranslate2.Translator(job["model"], device="cpu", compute_type=job["precision"],
                                                 inter_threads=job["replicas"], intra_threads=job["threads"])
        self.batching = dict(max_batch_size=job["batch"], batch_type="examples")

    def sources(self, texts):
        """Lists of token texts. CTranslate2 sorts them by length, and divides them, by itself."""
        return [encoded.tokens for encoded in self.tokenizer.encode_batch(texts)]

    def write(self, texts, least, most):
        """A text for each text, of `least` to `most` tokens."""
        done = self.translator.translate_batch(
            self.sources(texts), min_decoding_length=least, max_decoding_length=most, return_scores=False,
            disable_unk=False, **SEARCHES[self.job["work"]], **self.batching)
        ids = [[self.tokenizer.token_to_id(token) for token in result.hypotheses[0]] for result in done]
        return [[text] for text in self.tokenizer.decode_batch(ids, skip_special_tokens=True)]

    def score(self, texts, labels):
        """The probability of each label for each text, by its index; where one label alone is scored, of that."""
        tokens = [self.tokenizer.encode(label, add_special_tokens=False).tokens for label in labels]
        if self.job["way"] == "score":
            middle = len(tokens) // 2
            target = tokens[middle]
            done = self.translator.score_batch(self.sources(texts), [target] * len(texts), **self.batching)
            return [{middle: math.exp(sum(result.log_probs[: len(target)]))} for result in done]
        begin, last = common.label_tokens(tokens)
        columns = [self.tokenizer.token_to_id(token) for _, token in last]
        done = self.translator.translate_batch(
            self.sources(texts), target_prefix=[begin] * len(texts), beam_size=1, max_decoding_length=1, min_decoding_length=1,
            return_logits_vocab=True, disable_unk=False, **self.batching)
        judged = []
        for result in done:
            logits = numpy.array(result.logits[0][-1], dtype=numpy.float64)[columns]
            shares = numpy.exp(logits - logits.max())
            judged.append({index: share for (index, _), share in zip(last, (shares / shares.sum()).tolist(), strict=True)})
        return judged


def main():
    job = common.job()
    work = job["work"]
    ctranslate2.set_random_seed(1)
    with common.Clock() as clock:
        texts = common.prompts(job)
        engine = Engine(job)
        load = clock.passed()
        if work in SEARCHES:
            common.write_texts(job["out"], engine.write(texts, job["least"], job["most"]))
        else:
            labels = common.labels_of(work)
            common.write_scores(job["out"], work, labels, engine.score(texts, labels))
    common.report(seconds=clock.seconds, load=load)


if __name__ == "__main__":
    main()
