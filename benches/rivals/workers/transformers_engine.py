"""What `transformers` does with a T5: writing, scoring and training, as a script that minds its speed would.

Rows are sorted by length and padded to the longest of their batch; attention is `sdpa`, the default. All shapes below are
[rows, tokens] for ids and masks, and [rows, tokens, d_model] for hidden states.
"""

import contextlib

import common
import torch
import transformers
from transformers import AutoTokenizer, T5ForConditionalGeneration

SEARCHES = {
    "greedy": dict(do_sample=False, num_beams=1),
    "sample": dict(do_sample=True, top_k=120, top_p=0.95, num_beams=1),
    "article": dict(do_sample=True, top_k=120, top_p=0.98, num_beams=1),
    "beam": dict(do_sample=False, num_beams=4),
    "diverse": dict(do_sample=False, num_beams=4, num_beam_groups=4, diversity_penalty=1.0, num_return_sequences=4),
}


def padded(rows, value):
    """Lists of ids as a tensor, with `value` after the shorter ones."""
    width = max(map(len, rows))
    return torch.tensor([row + [value] * (width - len(row)) for row in rows])


class Engine:
    """A model with its tokenizer. `precision`: `f32`, `bf16` (all that is stored, too) or `autocast` (products in bf16, the rest in f32)."""

    def __init__(self, folder, precision, threads):
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        torch.set_num_threads(threads)
        torch.manual_seed(1)
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self.model = T5ForConditionalGeneration.from_pretrained(folder, dtype=dtype)
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.autocast = precision == "autocast"

    def precision(self):
        """The context that products are computed in."""
        return torch.autocast("cpu", torch.bfloat16) if self.autocast else contextlib.nullcontext()

    def batches(self, texts, count):
        """Indices, ids and masks of each batch."""
        sources = self.tokenizer(texts).input_ids
        for batch in common.batches([len(source) for source in sources], count):
            ids = padded([sources[index] for index in batch], 0)
            yield batch, ids, (ids != 0).long()

    def write(self, texts, search, batch, least, most):
        """What is written for each text: a list of texts, of `least` to `most` tokens each."""
        written, search = [None] * len(texts), SEARCHES[search]
        each = search.get("num_return_sequences", 1)
        self.model.eval()
        with torch.inference_mode(), self.precision():
            for rows, ids, mask in self.batches(texts, batch):
                done = self.model.generate(input_ids=ids, attention_mask=mask, min_new_tokens=least, max_new_tokens=most, **search)
                decoded = self.tokenizer.batch_decode(done, skip_special_tokens=True)
                for at, row in enumerate(rows):
                    written[row] = decoded[at * each : (at + 1) * each]
        return written

    def score(self, texts, labels, batch):
        """The probability of each label for each text, by its index.

        The decoder reads the tokens that most labels begin with, and gives the rows of the labels' last tokens alone: one pass. Labels
        that begin otherwise are left out, which is less than what the stages of Paraloom do.
        """
        begin, last = common.label_tokens([self.tokenizer(label, add_special_tokens=False).input_ids for label in labels])
        model, judged = self.model.eval(), [None] * len(texts)
        columns = torch.tensor([token for _, token in last])
        scale = model.model_dim**-0.5 if model.config.tie_word_embeddings else 1.0
        with torch.inference_mode(), self.precision():
            head = model.lm_head.weight[columns]
            for rows, ids, mask in self.batches(texts, batch):
                encoded = model.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
                begins = torch.tensor([[model.config.decoder_start_token_id, *begin]] * len(rows))
                decoded = model.decoder(input_ids=begins, encoder_hidden_states=encoded, encoder_attention_mask=mask, use_cache=False)
                logits = (decoded.last_hidden_state[:, -1] * scale) @ head.T
                for row, shares in zip(rows, logits.float().softmax(-1).tolist(), strict=True):
                    judged[row] = {index: share for (index, _), share in zip(last, shares, strict=True)}
        return judged

    def train(self, sources, targets, batch, lora=False, rate=1e-4):
        """Trains by AdamW on the pairs in their order, each once; gradients are clipped at 1. Gives the loss of each step."""
        if lora:
            from peft import LoraConfig, get_peft_model

            self.model = get_peft_model(self.model, LoraConfig(r=8, lora_alpha=8, lora_dropout=0.0, target_modules=["q", "v"]))
        model = self.model.train()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        sources, targets = self.tokenizer(sources).input_ids, self.tokenizer(targets).input_ids
        learnt = [weight for weight in model.parameters() if weight.requires_grad]
        optimizer = torch.optim.AdamW(learnt, lr=rate, fused=True)
        losses = []
        for at in range(0, len(sources), batch):
            ids = padded(sources[at : at + batch], 0)
            labels = padded(targets[at : at + batch], -100)
            with self.precision():
                loss = model(input_ids=ids, attention_mask=(ids != 0).long(), labels=labels).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(learnt, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        return losses

    def save(self, folder):
        """Writes the model as a directory; adapters are merged into it, as `finetune` does."""
        model = self.model.merge_and_unload() if hasattr(self.model, "merge_and_unload") else self.model
        model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
