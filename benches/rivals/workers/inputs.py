"""Makes what all engines read: a T5 of random weights, and tables of sentences with the lengths of business texts.

Job: `tokenizer` and `to` (directories), `shape`, `rows`, `examples`. Writes to `to`: `model/`, `rows.csv` (source), `pairs.csv` (source,
paraphrase) and `train.csv` (source, target). Lengths are lognormal, in tokens with the prompt and `</s>`: 28 of `rows`, 60 of
`pairs`, 42 and 30 of the sources and targets of `train`.
"""

import csv
import math
import pathlib
import random
import shutil

import common
import torch
from tokenizers import Tokenizer
from transformers import T5Config, T5ForConditionalGeneration

SHAPES = {
    "small": dict(d_model=512, d_kv=64, d_ff=2048, num_layers=6, num_heads=8),
    "base": dict(d_model=768, d_kv=64, d_ff=3072, num_layers=12, num_heads=12),
}


def lengths(draw, count, mean, sigma, least, most):
    """Whole numbers of a lognormal distribution with this mean."""
    mu = math.log(mean) - sigma * sigma / 2
    return [min(max(round(draw.lognormvariate(mu, sigma)), least), most) for _ in range(count)]


class Writer:
    """Writes sentences of a given number of tokens from the words of a corpus."""

    def __init__(self, tokenizer, corpus, seed):
        self.tokenizer, self.draw = tokenizer, random.Random(seed)
        with corpus.open(newline="") as lines:
            words = sorted({word.strip('.,"()') for row in csv.DictReader(lines) for word in row["text"].split()} - {""})
        self.sizes = {word: self.count(word) for word in words}
        self.words = words

    def count(self, text):
        """Tokens of a text, without `</s>`."""
        return len(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def sentence(self, tokens):
        """A text of as many tokens as that, its full stop among them."""
        words, left = [], max(tokens - 1, 1)
        while left:
            word = self.draw.choice(self.words)
            if self.sizes[word] <= left:
                words.append(word)
                left -= self.sizes[word]
        return " ".join(words) + "."


def model(shape, vocabulary):
    """A T5 whose greedy output depends on its source, as that of a freshly made one does not."""
    torch.manual_seed(0)
    made = T5ForConditionalGeneration(T5Config(vocab_size=vocabulary, decoder_start_token_id=0, **SHAPES[shape]))
    # With tied embeddings of unit variance a random T5 repeats its last token: less of them, and more of attention.
    factors = {"SelfAttention.q.weight": 8, "EncDecAttention.q.weight": 8, "EncDecAttention.o.weight": 3,
               "SelfAttention.o.weight": 4, "relative_attention_bias.weight": 80, "wo.weight": 2}
    with torch.no_grad():
        made.shared.weight.mul_(0.3)
        for name, weight in made.named_parameters():
            for end, factor in factors.items():
                if name.endswith(end):
                    weight.mul_(factor)
    return made


def main():
    job = common.job()
    to = pathlib.Path(job["to"])
    tokenizer = Tokenizer.from_file(f"{job['tokenizer']}/tokenizer.json")
    # The rows of T5's embeddings, of which the tokenizer names a few less.
    vocabulary = (tokenizer.get_vocab_size() + 127) // 128 * 128
    model(job["shape"], vocabulary).save_pretrained(to / "model")
    for file in pathlib.Path(job["tokenizer"]).iterdir():
        if file.is_file() and file.name != "config.json":
            shutil.copy(file, to / "model")
    write = Writer(tokenizer, pathlib.Path(job["corpus"]), seed=1)
    draw = random.Random(2)

    def table(name, columns, rows):
        with (to / name).open("w", newline="") as lines:
            file = csv.writer(lines)
            file.writerow(columns)
            file.writerows(rows)

    overhead = write.count(common.PREFIX) + 1
    rows = [write.sentence(size - overhead) for size in lengths(draw, job["rows"], 28, 0.45, 8, 80)]
    table("rows.csv", ["source"], [[row] for row in rows])
    overhead = write.count(common.STSB.format("", "")) + 1
    sizes = [size - overhead for size in lengths(draw, job["rows"], 60, 0.35, 20, 160)]
    table("pairs.csv", ["source", "paraphrase"], [[write.sentence(size // 2), write.sentence(size - size // 2)] for size in sizes])
    overhead = write.count(common.PREFIX) + 1
    sources = [write.sentence(size - overhead) for size in lengths(draw, job["examples"], 42, 0.25, 20, 80)]
    targets = [write.sentence(size - 1) for size in lengths(draw, job["examples"], 30, 0.3, 8, 64)]
    table("train.csv", ["source", "target"], list(zip(sources, targets, strict=True)))
    mean = sum(write.count(common.PREFIX + row) + 1 for row in rows) / len(rows)
    common.report(tokens=round(mean, 2))


main()
