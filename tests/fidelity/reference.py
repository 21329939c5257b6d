"""What `transformers` computes with small T5 models, and how it is recorded.

A recording is a model directory with a `recorded.json` beside the weights; stages/t5-core/tests/fidelity.rs reads it and
compares. `make_fixtures.py` makes the small ones that are committed, `live.py` makes new ones and asks for more.
"""

import copy
import json
import shutil
import sys

import torch
from transformers import T5Config, T5ForConditionalGeneration, get_scheduler
from transformers.generation.logits_process import (
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.optimization import Adafactor

VOCABULARY = 61

MODELS = {
    # T5 1.0: ReLU, tied and scaled.
    "t5": dict(feed_forward_proj="relu", d_model=24, d_kv=8, d_ff=48, num_layers=2, num_heads=3),
    # T5 1.1 and Flan: gated GELU, a head of its own, no scaling.
    "t5-1.1": dict(feed_forward_proj="gated-gelu", d_model=16, d_kv=8, d_ff=40, num_layers=2, num_heads=2,
                   tie_word_embeddings=False),
    # Sizes that fill no register, unequal stacks, other buckets; in several files.
    "odd": dict(feed_forward_proj="gated-gelu", d_model=19, d_kv=5, d_ff=37, num_layers=3, num_decoder_layers=2,
                num_heads=3, relative_attention_num_buckets=12, relative_attention_max_distance=20),
}
SHARDS = {"odd": "24KB", "small": "100KB"}

SEARCHES = [
    dict(num_beams=1),
    dict(num_beams=1, repetition_penalty=1.3, no_repeat_ngram_size=2),
    dict(num_beams=2),
    dict(num_beams=4, length_penalty=0.6, num_return_sequences=2),
    dict(num_beams=4, length_penalty=2.0, early_stopping=True),
    dict(num_beams=8, early_stopping="never", length_penalty=1.4, num_return_sequences=8),
    dict(num_beams=4, repetition_penalty=1.2, no_repeat_ngram_size=3),
]

TRAININGS = [
    dict(optimizer="adamw", schedule="linear", warmup=5, rate=3e-3, decay=0.01, clip=1.0, batch=5, accumulate=3),
    dict(optimizer="adamw", schedule="constant", warmup=0, rate=1e-3, decay=0.0, clip=1e9, batch=8, accumulate=1),
    dict(optimizer="adafactor", schedule="constant", warmup=0, rate=1e-3, decay=0.0, clip=1.0, batch=8, accumulate=2),
    dict(optimizer="adafactor", schedule="linear", warmup=5, rate=3e-3, decay=0.01, clip=1.0, batch=8, accumulate=2),
    # As T5 was pre-trained: relative to the size of each weight, at a rate that the step alone decides.
    # That rate is high for models as small as these: few steps, before roundings grow.
    dict(optimizer="adafactor", schedule="relative_step", warmup=0, rate=None, decay=0.01, clip=1.0, batch=8, accumulate=2,
         scale_parameter=True, steps=10),
    dict(optimizer="adafactor", schedule="warmup_init", warmup=0, rate=None, decay=0.0, clip=1.0, batch=8, accumulate=2,
         scale_parameter=True),
]
STEPS = 30

SAMPLINGS = [
    dict(temperature=0.8, top_k=12, top_p=0.9),
    dict(temperature=1.3, top_k=0, top_p=0.7),
    dict(temperature=1.0, top_k=6, top_p=1.0),
]

# A run is only worth recording where the reference agrees with itself this much better than the bars, however its
# first weights are rounded: so many times they are nudged by about one rounding of f32.
SELF_AGREEMENT = dict(loss=1e-5, norm=1e-4, weights=1e-5)
NUDGES = 8

# The same for searches: a source is only worth recording where the reference writes the same with weights that are
# nudged by some roundings. Elsewhere two candidates are as good as each other.
SEARCH_NUDGES = 2
INPUTS, SPARE_INPUTS = 200, 60


def sentences(count, longest, seed):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, longest, (count,), generator=generator)
    return [torch.randint(3, VOCABULARY, (int(n),), generator=generator).tolist() + [1] for n in lengths]


def pad(rows, value):
    width = max(map(len, rows))
    return torch.tensor([row + [value] * (width - len(row)) for row in rows])


def batch(sources, targets):
    ids = pad(sources, 0)
    return dict(input_ids=ids, attention_mask=(ids != 0).long(), labels=pad(targets, -100))


def without_dropout(model):
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "dropout", None), float):
            module.dropout = 0.0
    return model


def new_model(sizes, seed, vocabulary=VOCABULARY):
    """A model whose weights are all at work: norms differ from 1, position biases matter, and it writes ends."""
    torch.manual_seed(seed)
    config = T5Config(vocab_size=vocabulary, decoder_start_token_id=0, dropout_rate=0.1, initializer_factor=0.5, **sizes)
    model = T5ForConditionalGeneration(config).eval()
    untied = sizes.get("tie_word_embeddings") is False
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "norm" in key:
                parameter.copy_(1 + 0.3 * torch.randn_like(parameter))
            if "relative" in key:
                parameter.mul_(8)
        if untied:
            model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.shared.weight) * 0.4)
    model.config.tie_word_embeddings = not untied
    return model


def warm_up(model, sources, targets, steps=100, rate=1e-3):
    """Teaches a random model to write something like its targets, so that it writes ends at all.

    Gently: where AdamW at a high rate leaves a model, the loss is so curved that rounding errors grow tenfold a step.
    """
    data = batch(sources, targets)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    for _ in range(steps):
        optimizer.zero_grad()
        model(**data).loss.backward()
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return model


def optimizer_of(model, how):
    if how["optimizer"] == "adafactor":
        make = lambda groups: Adafactor(
            groups, lr=how["rate"], scale_parameter=how.get("scale_parameter", False), relative_step=how["rate"] is None,
            warmup_init=how["schedule"] == "warmup_init"
        )
    else:
        make = lambda groups: torch.optim.AdamW(groups, lr=how["rate"], eps=1e-8)
    # As the Trainer groups them: norms and biases do not decay.
    plain = [p for n, p in model.named_parameters() if "norm" in n or "bias" in n]
    decayed = [p for n, p in model.named_parameters() if not ("norm" in n or "bias" in n)]
    return make([dict(params=decayed, weight_decay=how["decay"]), dict(params=plain, weight_decay=0.0)])


def train(model, sources, targets, steps=STEPS, **how):
    """Trains a copy of the model; losses and gradient norms of every step, and the trained copy."""
    model = without_dropout(copy.deepcopy(model)).train()
    parameters = list(model.parameters())
    optimizer = optimizer_of(model, how)
    scheduler = None
    if how["rate"] is not None:
        scheduler = get_scheduler(how["schedule"], optimizer, num_warmup_steps=how["warmup"], num_training_steps=steps)
    losses, norms, position = [], [], 0
    for _ in range(steps):
        micro = []
        for _ in range(how["accumulate"]):
            if position < len(sources):
                micro.append(slice(position, min(position + how["batch"], len(sources))))
                position = micro[-1].stop
        total = sum(len(t) for part in micro for t in targets[part])
        loss = 0.0
        for part in micro:
            out = model(**batch(sources[part], targets[part]))
            share = sum(len(t) for t in targets[part]) / total
            (out.loss * share).backward()
            loss += out.loss.item() * share
        norms.append(torch.nn.utils.clip_grad_norm_(parameters, how["clip"]).item())
        optimizer.step()
        if scheduler:
            scheduler.step()
        optimizer.zero_grad()
        losses.append(loss)
        position = 0 if position >= len(sources) else position
    return losses, norms, model.eval()


def relative(ours, theirs):
    return max(abs(a - b) / abs(b) for a, b in zip(ours, theirs, strict=True))


def weights_apart(one, other):
    """The length of the difference of two models' weights, in units of their length; the worst of all tensors.

    Not weight by weight: AdamW moves a weight whose gradient is nothing but rounding noise by a full step, either way.
    """
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return max(((p.double() - q).norm() / q.norm()).item() for p, q in pairs)


def trained(model, sources, targets, every, **how):
    """A training run, and how far rounding moves it: the largest difference of the same run from nudged weights."""
    losses, norms, final = train(model, sources, targets, **how)
    own = dict.fromkeys(SELF_AGREEMENT, 0.0)
    for nudge in range(NUDGES):
        other_losses, other_norms, other = train(nudged(model, nudge), sources, targets, **how)
        apart = dict(loss=relative(other_losses, losses), norm=relative(other_norms, norms),
                     weights=weights_apart(other, final))
        own = {kind: max(own[kind], apart[kind]) for kind in own}
        if not within(own):
            break
    return dict(dict(steps=STEPS) | how, losses=losses, norms=norms, own_error=own, final=sample(final, every))


def within(own):
    return all(own[kind] <= SELF_AGREEMENT[kind] for kind in own)


def nudged(model, seed, by=2**-24):
    generator = torch.Generator().manual_seed(seed)
    model = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 + by * torch.randn(parameter.shape, generator=generator))
    return model


def sample(model, every):
    return {name: rounded(p.detach().flatten()[::every]) for name, p in model.named_parameters()}


def rounded(values):
    return [float(f"{value:.8g}") for value in values.tolist()]


def generated(model, inputs, **how):
    ids = pad(inputs, 0)
    result = model.generate(input_ids=ids, attention_mask=(ids != 0).long(), max_new_tokens=10, do_sample=False,
                            return_dict_in_generate=True, output_scores=True, **how)
    scores = getattr(result, "sequences_scores", None)
    return dict(how, rows=written(result.sequences), scores=None if scores is None else rounded(scores))


def clear_searches(model, sources, searches):
    """What the reference writes, and the numbers of the sources on which it agrees with itself."""
    recorded = [generated(model, sources, **how) for how in searches]
    clear = set(range(len(sources)))
    for nudge in range(SEARCH_NUDGES):
        other = nudged(model, nudge, by=2**-20)
        for how, search in zip(searches, recorded, strict=True):
            clear -= differing(search["rows"], generated(other, sources, **how)["rows"], len(sources))
    if passed_over := len(sources) - len(clear):
        print(f"{passed_over} of {len(sources)} sources passed over: some roundings change what transformers writes",
              file=sys.stderr)
    return recorded, sorted(clear)


def of_sources(recorded, sources, chosen):
    """Only what belongs to the sources of these numbers."""
    for search in recorded:
        for key in ("rows", "scores"):
            if search[key] is not None:
                search[key] = [value for index in chosen for value in of_source(search[key], index, len(sources))]
    return dict(inputs=[sources[index] for index in chosen], generated=recorded)


def searched(model, seed):
    """Sources on which the reference agrees with itself, and what it writes for them; none where they are too few."""
    sources = sentences(INPUTS + SPARE_INPUTS, 30, seed)
    recorded, clear = clear_searches(model, sources, SEARCHES)
    if len(clear) < INPUTS:
        return None
    return of_sources(recorded, sources, clear[:INPUTS])


def of_source(values, index, sources):
    """What belongs to one source, where there are several candidates for each."""
    each = len(values) // sources
    return values[index * each : (index + 1) * each]


def differing(ours, theirs, sources):
    return {index for index in range(sources) if of_source(ours, index, sources) != of_source(theirs, index, sources)}


def written(sequences):
    """Rows without the start token, up to their end."""
    rows = [row[1:] for row in sequences.tolist()]
    return [row[: row.index(1) + 1] if 1 in row else row for row in rows]


def first_token(model, source, temperature, top_k, top_p):
    """The exact distribution that sampling draws the first token from."""
    warpers = LogitsProcessorList([TemperatureLogitsWarper(temperature)])
    if top_k > 0:
        warpers.append(TopKLogitsWarper(top_k))
    if top_p < 1:
        warpers.append(TopPLogitsWarper(top_p))
    start = torch.zeros((1, 1), dtype=torch.long)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([source]), decoder_input_ids=start).logits[:, 0]
    return rounded(warpers(start, logits)[0].double().softmax(-1))


def forward(model, sources, targets, every, positions):
    """Logits, loss and gradients of a batch."""
    data = batch(sources, targets)
    result = model(**data)
    result.loss.backward()
    gradients = {key: p.grad.norm().item() for key, p in model.named_parameters()}
    norm = torch.stack([p.grad.norm() for p in model.parameters()]).norm().item()
    model.zero_grad(set_to_none=True)
    rows = zip(result.logits.detach(), targets, strict=True)
    logits = [rounded(row[: min(positions, len(target))].flatten()[::every]) for row, target in rows]
    return dict(logits=logits, loss=result.loss.item(), gradient_norm=norm, gradients=gradients)


def agrees(run):
    """Whether a run is worth recording; says why not."""
    own = run["own_error"]
    if within(own):
        return True
    told = ", ".join(f"{kind} {error:.0e}" for kind, error in own.items())
    print(f"another seed: in {run['optimizer']} at {run['rate']} one rounding moves transformers itself by {told}",
          file=sys.stderr)
    return False


def recording(model, seed, every, positions, examples):
    """Everything that is compared about a model, or None where the reference does not agree with itself."""
    sources, targets = sentences(examples, 24, seed + 1), sentences(examples, 12, seed + 2)
    recorded = dict(every=every, sources=sources, targets=targets, trained=[])
    for how in TRAININGS:
        recorded["trained"].append(trained(model, sources, targets, every, **how))
        if not agrees(recorded["trained"][-1]):
            return None
    recorded |= forward(model, sources[:8], targets[:8], every, positions)
    searches = searched(model, seed + 3)
    if searches is None:
        return None
    recorded |= searches
    recorded["sampled"] = [
        dict(how, row=row, probabilities=first_token(model, searches["inputs"][row], **how))
        for row, how in enumerate(SAMPLINGS)
    ]
    return recorded


def record(name, sizes, folder, seed, every=1, positions=100, examples=48):
    """Makes and records a model; moves on to the next seed until there is something to be measured against."""
    for seed in range(seed, seed + 20_000, 1000):
        texts = sentences(64, 12, seed + 4)
        model = warm_up(new_model(sizes, seed), texts, [row[len(row) // 2 :] for row in texts])
        if recorded := recording(model, seed, every, positions, examples):
            break
    else:
        raise SystemExit(f"{name}: no seed gives a run in which the reference agrees with itself")
    target = folder / name
    shutil.rmtree(target, ignore_errors=True)
    model.save_pretrained(target, max_shard_size=SHARDS.get(name, "5GB"))
    (target / "recorded.json").write_text(json.dumps(recorded, separators=(",", ":")) + "\n")


def record_exported(source, target, seed):
    """Records what `transformers` makes of a model that Paraloom wrote: forward pass and searches."""
    shutil.copytree(source, target)
    # Weights are computed with in f32, whatever they are stored as.
    model = T5ForConditionalGeneration.from_pretrained(target, dtype=torch.float32).eval()
    sources, targets = sentences(8, 24, seed + 1), sentences(8, 12, seed + 2)
    recorded = dict(every=1, sources=sources, targets=targets, trained=[], sampled=[])
    recorded |= forward(model, sources, targets, 1, 100)
    searches = searched(model, seed + 3)
    if searches is None:
        raise SystemExit(f"{target.name}: too few sources on which the reference agrees with itself")
    recorded |= searches
    (target / "recorded.json").write_text(json.dumps(recorded, separators=(",", ":")) + "\n")
