"""Writes stages/text/tests/fixtures/metrics.json: texts, and what sacreBLEU, rouge-score and scikit-learn say of them.

    pip install sacrebleu rouge-score scikit-learn
    python tests/fidelity/make_metrics.py
"""

import json
import pathlib
import random

import sacrebleu
from rouge_score import rouge_scorer
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

WORDS = ["profit", "fell", "by", "12.5", "percent,", "because", "demand", "was", "weak.", "The", "the", "(new)", "plan", "R&D", "&amp;",
         "3-4", "$1,000.50", "don't", "don’t", "naïve", "Ünal", "日本", "A.B.C.", "well-known", "--", "…", "e.g.,", "5%", "\"quoted\"",
         "x_y", "[1]", "10:30", "<skipped>", "<b>", "ß", "И", "a", "a", "of", "of", "1.", ".5", "1,", ",5", "end-\nof", "tab\tbed", "\u00a0", "\x1c", "😀😀"]

def text(draw, longest=14):
    return " ".join(draw.choice(WORDS) for _ in range(draw.randint(0, longest)))

def changed(draw, words):
    words = words.split(" ")
    for _ in range(draw.randint(0, 4)):
        at = draw.randrange(len(words) + 1)
        words[at:at + draw.randint(0, 2)] = [draw.choice(WORDS) for _ in range(draw.randint(0, 2))]
    return " ".join(words)

def case(draw, count, longest):
    gold = [text(draw, longest) for _ in range(count)]
    predicted = [changed(draw, words) if draw.random() < 0.8 else text(draw, longest) for words in gold]
    rouge = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"])
    scores = [rouge.score(reference, words) for words, reference in zip(predicted, gold)]
    bleu = sacrebleu.metrics.BLEU(effective_order=True)
    others = [predicted[:at] + predicted[at + 1:] for at in range(count)]
    alike = [bleu.sentence_score(words, rest).score for words, rest in zip(predicted, others)] if count > 1 else []
    metrics = {
        "bleu": sacrebleu.corpus_bleu(predicted, [gold]).score,
        "chrf": sacrebleu.corpus_chrf(predicted, [gold]).score,
        **{name: sum(score[name].fmeasure for score in scores) / count for name in ["rouge1", "rouge2", "rougeL"]},
        "self-bleu": sum(alike) / count if alike else None,
    }
    return {"predicted": predicted, "gold": gold, "metrics": metrics}

def labels(draw, count, names):
    gold = [draw.choice(names) for _ in range(count)]
    predicted = [draw.choice(names) if draw.random() < 0.4 else label for label in gold]
    metrics = {
        "accuracy": accuracy_score(gold, predicted),
        "matthews": matthews_corrcoef(gold, predicted),
        "macro f1": f1_score(gold, predicted, average="macro", zero_division=0),
    }
    return {"predicted": predicted, "gold": gold, "metrics": metrics}

def main():
    draw = random.Random(7)
    texts = [case(draw, count, longest) for count in [1, 2, 5, 20] for longest in [3, 14] for _ in range(4)]

    sets = [labels(draw, count, names) for count in [1, 10, 50] for names in [["yes", "no"], list("abcd")]]
    here = pathlib.Path(__file__).parent
    path = here / "../../stages/text/tests/fixtures/metrics.json"
    path.parent.mkdir(exist_ok=True)
    made_by = f"sacrebleu {sacrebleu.__version__}, rouge-score, scikit-learn; tests/fidelity/make_metrics.py"
    path.write_text(json.dumps({"made_by": made_by, "texts": texts, "labels": sets}, ensure_ascii=False, indent=0) + "\n")

main()
