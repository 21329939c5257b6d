"""What the workers share: their job, their clock, and tables. Needs Python alone."""

import csv
import json
import sys
import time

PREFIX = "paraphrase: "
STSB = "stsb sentence1: {} sentence2: {}"
COLA = "cola sentence: {}"
STSB_LABELS = [f"{step / 5:.1f}" for step in range(26)]
COLA_LABELS = ["unacceptable", "acceptable"]


def job():
    """The settings of this process."""
    return json.loads(sys.argv[1])


def report(**figures):
    """Says what was measured, as the last line of the process."""
    print(json.dumps(figures), flush=True)


def read(path):
    """The rows of a CSV file, as dictionaries."""
    with open(path, newline="") as lines:
        return list(csv.DictReader(lines))


def write(path, columns, rows):
    """Writes a CSV file, as the last thing that is counted."""
    with open(path, "w", newline="") as lines:
        file = csv.writer(lines)
        file.writerow(columns)
        file.writerows(rows)


def batches(sizes, count):
    """Indices by `count`, the longest first, so that a batch has little padding and the largest comes when memory is free."""
    order = sorted(range(len(sizes)), key=lambda index: -sizes[index])
    return [order[at : at + count] for at in range(0, len(order), count)]


def prompts(job):
    """The texts that the model of a job reads."""
    table = "pairs" if job["work"] == "stsb" else "rows"
    rows = read(f"{job['folder']}/{table}.csv")[: job["rows"]]
    if job["work"] == "stsb":
        return [STSB.format(row["source"], row["paraphrase"]) for row in rows]
    return [(COLA.format(row["source"]) if job["work"] == "cola" else PREFIX + row["source"]) for row in rows]


def write_texts(path, texts):
    """Writes a row for each text; `texts` has a list of them for each source."""
    write(path, ["row", "text"], [(row, text) for row, all_of in enumerate(texts) for text in all_of])


def write_scores(path, work, labels, judged):
    """Writes each row's most likely label and, as `score-stsb` and `score-cola` do, the expected value or the probability of `acceptable`.

    `judged` has, of each row, probabilities by the index of the label, of the labels that were looked at.
    """
    rows = []
    for row, probabilities in enumerate(judged):
        label = labels[max(probabilities, key=probabilities.get)]
        value = probabilities.get(1, 0.0) if work == "cola" else sum(p * float(labels[index]) for index, p in probabilities.items())
        rows.append((row, label, value))
    write(path, ["row", "label", "value"], rows)


def labels_of(work):
    """The labels of a score."""
    return STSB_LABELS if work == "stsb" else COLA_LABELS


def label_tokens(labels):
    """The tokens that most labels begin with, and of each label that begins so its index and its last token."""
    begins = [tuple(tokens[:-1]) for tokens in labels]
    begin = max(begins, key=begins.count)
    return list(begin), [(index, tokens[-1]) for index, tokens in enumerate(labels) if begins[index] == begin]


class Clock:
    """Counts from the loading of the model to the rows on disk; what a process imports is left out."""

    def __enter__(self):
        self.start = time.perf_counter()
        return self

    def __exit__(self, *_):
        self.seconds = self.passed()

    def passed(self):
        """Seconds since the start."""
        return time.perf_counter() - self.start
