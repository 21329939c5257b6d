#!/usr/bin/env python3
"""Clients that exist against `paraloom serve`: run.sh installs them."""

import argparse
import collections
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request

import huggingface_hub.errors
import openai

PIPELINE = """
paraloom: 1
name: clients
seed: 11
nodes:
  texts: { stage: load, with: { from: texts.csv, columns: { text: source } } }
  blank:
    stage: model
    inputs: { texts: [texts] }
    with: { new: { vocabulary: 120, d_model: 16, d_ff: 32, layers: 1, heads: 2 } }
  written:
    stage: generate
    inputs: { model: blank, rows: texts }
    with: { prefix: 'paraphrase: ', sample: { top_k: 40 }, max_new_tokens: 8 }
  scored:
    stage: generate
    inputs: { model: blank, rows: texts }
    with: { prefix: 'paraphrase: ', max_new_tokens: 8, token_scores: true }
  other:
    stage: model
    inputs: { texts: [texts] }
    with: { new: { vocabulary: 140, d_model: 16, d_ff: 32, layers: 1, heads: 2 } }
  judged: { stage: score-cola, inputs: { model: blank, rows: written } }
  kept: { stage: threshold, inputs: { rows: judged }, with: { keep: 'cola_p > 0.0' } }
"""
TEXT = "sales rose 20 percent"


class Server:
    """A server of a node, until the end of a `with`."""

    def __init__(self, paraloom, folder, node, *options):
        command = [paraloom, "serve", "p.yaml", node, "--bind", "127.0.0.1:0", *options]
        self.process = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True)
        for line in self.process.stderr:
            if " at http://" in line:
                self.url = line.strip().split(" at ")[1]
                return
        sys.exit("the server did not start")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.communicate()

    def ask(self, path, body=None, **headers):
        """Status, content type and text of an answer."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        if data is not None:
            headers.setdefault("Content-Type", "application/json")
        request = urllib.request.Request(self.url + path, data, headers)
        try:
            with urllib.request.urlopen(request) as answer:
                return answer.status, answer.headers["content-type"], answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.headers["content-type"], error.read().decode()


def equal(found, expected, what):
    if found != expected:
        sys.exit(f"{what}: {found!r}, not {expected!r}")


def holds(condition, what):
    if not condition:
        sys.exit(f"it does not hold: {what}")


def refused(what, call, words):
    """What the server refuses by name, and the client tells."""
    try:
        call()
    except (openai.BadRequestError, openai.NotFoundError, huggingface_hub.errors.HfHubHTTPError) as error:
        text = str(error) + getattr(getattr(error, "response", None), "text", "")
        holds(words in text, f"{what}: {words!r} in {text!r}")
        return
    sys.exit(f"{what} was not refused")


def openai_client(server, node):
    client = openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)
    equal([model.id for model in client.models.list()], [node], "models")
    equal(client.models.retrieve(node).owned_by, "paraloom", "model")

    def complete(**settings):
        settings = {"model": node, "prompt": TEXT, **settings}
        return client.completions.create(**settings)

    one = complete()
    holds(one.object == "text_completion" and len(one.choices) == 1, "one choice")
    equal(one.choices[0].text, complete().choices[0].text, "the same again")
    many = complete(n=4, temperature=1.5, top_p=0.9, seed=3, max_tokens=5)
    equal([choice.index for choice in many.choices], [0, 1, 2, 3], "choices")
    holds(len({choice.text for choice in many.choices}) > 1, "choices differ")
    again = complete(n=4, temperature=1.5, top_p=0.9, seed=3, max_tokens=5)
    equal([c.text for c in again.choices], [c.text for c in many.choices], "the same seed")
    other = complete(n=4, temperature=1.5, top_p=0.9, seed=4, max_tokens=5)
    holds([c.text for c in other.choices] != [c.text for c in many.choices], "another seed")
    short = complete(max_tokens=1)
    equal(short.choices[0].finish_reason, "length", "an end for length")
    equal(short.usage.completion_tokens, 1, "the tokens of an answer")
    holds(short.usage.prompt_tokens > 1, "the tokens of a prompt")
    equal(short.usage.total_tokens, short.usage.prompt_tokens + 1, "the tokens of both")
    equal(len(complete(prompt=[TEXT, "costs fell", TEXT]).choices), 3, "several prompts")
    greedy = complete(temperature=0, top_p=1)
    equal(greedy.choices[0].text, complete(temperature=0, seed=9).choices[0].text, "greedy")
    letter = next((letter for letter in greedy.choices[0].text if letter.isalpha()), None)
    if letter:
        cut = complete(temperature=0, stop=letter).choices[0]
        equal(cut.text, greedy.choices[0].text.split(letter)[0], "a stop")
        equal(cut.finish_reason, "stop", "the reason")
    events = list(complete(n=2, temperature=1.5, seed=3, stream=True))
    whole = complete(n=2, temperature=1.5, seed=3)
    equal([e.choices[0].text for e in events], [c.text for c in whole.choices], "a stream")
    equal(len(complete(extra_body={"top_k": 5, f"{WRITTEN}.repetition_penalty": 1.2}).choices), 1, "own settings")
    for name, value in {
        "logprobs": 1, "echo": True, "suffix": "x", "best_of": 3, "presence_penalty": 1.0, "frequency_penalty": 0.5,
        "logit_bias": {"50256": -100},
    }.items():
        refused(name, lambda name=name, value=value: complete(**{name: value}), name)
    refused("a model", lambda: complete(model="gpt-4"), "there is no model")
    refused("tokens", lambda: complete(prompt=[1, 2, 3]), "`prompt` is a text")
    refused("too hot", lambda: complete(temperature=1000), "too large")
    refused("a name", lambda: complete(extra_body={"temprature": 1}), "did you mean")


WRITTEN = "written"


def hub_client(server):
    client = huggingface_hub.InferenceClient(model=server.url)
    text = client.text_generation(TEXT)
    holds(isinstance(text, str), "a text")
    equal(client.text_generation(TEXT, max_new_tokens=8), text, "the same again")
    drawn = [client.text_generation(TEXT, do_sample=True, temperature=1.5, top_k=100, top_p=0.9, seed=seed) for seed in (1, 2, 3, 1)]
    holds(drawn[0] == drawn[3] and len(set(drawn)) > 1, "seeds")
    equal(client.text_generation(TEXT, do_sample=False), client.text_generation(TEXT, do_sample=False, seed=5), "greedy")
    equal("".join(client.text_generation(TEXT, stream=True)), text, "a stream")
    holds(isinstance(client.text_generation(TEXT, do_sample=True, typical_p=0.5), str), "typical sampling")
    letter = next((letter for letter in text if letter.isalpha()), None)
    if letter:
        equal(client.text_generation(TEXT, stop=[letter]), text.split(letter)[0], "a stop")
    refused("details of a stream", lambda: client.text_generation(TEXT, stream=True, details=True), "details")
    equal(client.translation(TEXT).translation_text, text, "a translation")
    equal(client.summarization(TEXT).summary_text, text, "a summary")
    refused("`do_sample`", lambda: client.text_generation(TEXT, do_sample=False, temperature=0.5), "send true, or leave `temperature` out")
    for name, value in {"details": True, "watermark": True, "best_of": 2, "return_full_text": True}.items():
        refused(name, lambda name=name, value=value: client.text_generation(TEXT, **{name: value}), name)
    status, _, text = server.ask("/models/any/name", {"inputs": [TEXT, "costs fell"], "parameters": {"num_return_sequences": 2}})
    equal(status, 200, text)
    equal([[list(text)[0] for text in texts] for texts in json.loads(text)], [["generated_text"] * 2] * 2, "several inputs")


def several_models(server):
    """Clients choose among models, and what they choose is what they get."""
    client = openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)
    equal([model.id for model in client.models.list()], ["blank", "other"], "models")
    equal(client.models.retrieve("other").id, "other", "a model")

    def complete(model):
        answer = client.completions.create(model=model, prompt=TEXT, n=4, temperature=1.5, seed=3)
        equal(answer.model, model, "the model of an answer")
        return [choice.text for choice in answer.choices]

    texts = {model: complete(model) for model in ("blank", "other")}
    holds(texts["blank"] != texts["other"], f"models differ: {texts}")
    equal(complete("blank"), texts["blank"], "the same again")
    try:
        complete("gpt-4")
        sys.exit("a model that is not there was not refused")
    except openai.NotFoundError as error:
        equal((error.code, error.param, error.type), ("model_not_found", "model", "invalid_request_error"), "the error")
        holds("`blank`, `other`" in str(error), f"the models that are there: {error}")
    def hub(model):
        client = huggingface_hub.InferenceClient(model=f"{server.url}/models/{model}")
        return client.text_generation(TEXT, do_sample=True, temperature=1.5, seed=3)
    # Its parameters are not quite the same, but a model is.
    holds(hub("blank") != hub("other") and hub("other") == hub("other"), "models by their address")
    refused("a model", lambda: hub("gpt-4"), "there is no model")
    csv = lambda model: server.ask(f"/v1/rows?model={model}", b"source\nsales rose\n", Content_Type="text/csv", Accept="text/csv")
    equal([csv(model)[0] for model in ("blank", "other", "gpt-4")], [200, 200, 404], "models in the address")
    status, _, text = server.ask("/v1/rows", {"rows": [{"source": TEXT}], "model": "other"})
    equal(status, 200, text)


def logprobs(server):
    client = openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)
    choice = client.completions.create(model="scored", prompt=TEXT, logprobs=0).choices[0]
    found = choice.logprobs
    equal(len(found.tokens), len(found.token_logprobs), "a logarithm for each token")
    holds("".join(found.tokens).replace("\u2581", " ").strip() == choice.text.strip(), "the tokens are those of the text")
    holds(all(logprob <= 1e-5 for logprob in found.token_logprobs), "logarithms of probabilities")
    refused("others", lambda: client.completions.create(model="scored", prompt=TEXT, logprobs=2), "logprobs")
    told = huggingface_hub.InferenceClient(model=server.url).text_generation(TEXT, details=True)
    equal([token.logprob for token in told.details.tokens], found.token_logprobs, "the same as details")
    equal("".join(token.text for token in told.details.tokens).strip(), told.generated_text.strip(), "the tokens of details")
    holds(told.details.finish_reason in ("length", "eos_token"), "the reason of details")


def formats(server):
    rows = b"source\nsales rose\n\"costs, too\"\n"
    status, kind, text = server.ask("/v1/rows?candidates=2", rows, Content_Type="text/csv", Accept="text/csv")
    equal((status, kind.split(";")[0], len(text.splitlines())), (200, "text/csv", 5), text)
    lines = b'{"source": "sales rose"}\n{"source": "costs fell"}\n'
    status, kind, text = server.ask("/v1/rows", lines, Content_Type="application/x-ndjson", Accept="application/x-ndjson")
    equal((status, kind, len([json.loads(line) for line in text.splitlines()])), (200, "application/x-ndjson", 2), text)
    status, _, text = server.ask("/v1/rows?output=rejected", lines, Content_Type="application/jsonl", Accept="text/csv")
    equal(status, 200, text)
    status, _, text = server.ask("/", {"inputs": TEXT, "parameters": {"keep": "cola_p > 2.0"}})
    equal((status, json.loads(text)["error"]["code"]), (422, "nothing_kept"), text)
    status, _, text = server.ask("/v1/rows", {"rows": [{"source": TEXT}], "parameters": {"keep": "cola_p > 2.0"}})
    holds(status == 200 and "2" in json.loads(text)["rejected"][0]["reason"], text)
    status, kind, text = server.ask("/docs")
    holds(status == 200 and "<script" not in text and "max_new_tokens" in text, "the documentation")


def fuzz(python, server, folder):
    """Requests made up from the description: none may make the server fail, and answers are as described."""
    command = [
        str(pathlib.Path(python).parent / "schemathesis"), "run", server.url + "/openapi.json",
        "--max-examples", os.environ.get("PARALOOM_FUZZ", "40"),
        "--checks", "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance",
        "--phases", "examples,coverage,fuzzing", "--seed", os.environ.get("PARALOOM_SEED", "5"), "--no-color", "--generation-allow-x00", "true",
    ]
    before = asked(server)
    # In this folder it leaves what it has found.
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if ran.returncode != 0:
        sys.exit(f"schemathesis:\n{ran.stdout[-6000:]}{ran.stderr[-2000:]}")
    # As the server has counted them: a run that asked next to nothing has shown nothing.
    counts = asked(server) - before
    failed = [name for name in counts if name[1].startswith("5")]
    holds(not failed, f"answers of 5xx: {failed}")
    holds(counts.total() >= 1000, f"a thousand requests: {counts}")
    silent = [path for path in WORK if not counts[path, "200"] or not counts[path, "400"]]
    holds(not silent, f"each path for work takes some requests and refuses some, but {silent}: {counts}")


# Paths that take work.
WORK = ["/", "/generate_stream", "/v1/rows", "/v1/completions"]


def asked(server):
    """How often each path has answered with each status."""
    found = re.findall(r'^paraloom_requests_total{path="(.*?)",code="(\d+)"} (\d+)$', server.ask("/metrics")[2], re.MULTILINE)
    return collections.Counter({(path, code): int(count) for path, code, count in found})


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--paraloom", required=True)
    paraloom = str(pathlib.Path(parser.parse_args().paraloom).resolve())
    os.environ["NO_PROXY"] = "127.0.0.1"
    with tempfile.TemporaryDirectory() as folder:
        texts = [f"{noun} {verb} {number} percent" for noun in ("sales", "costs") for verb in ("rose", "fell") for number in (20, 40)]
        pathlib.Path(folder, "texts.csv").write_text("text\n" + "\n".join(texts) + "\n")
        pathlib.Path(folder, "p.yaml").write_text(PIPELINE)
        subprocess.run([paraloom, "run", "p.yaml", "--until", "blank"], cwd=folder, check=True, capture_output=True)
        with Server(paraloom, folder, "written", "--log", "off") as server:
            openai_client(server, "written")
            hub_client(server)
        subprocess.run([paraloom, "run", "p.yaml", "--until", "other"], cwd=folder, check=True, capture_output=True)
        with Server(paraloom, folder, "kept", "--model", "blank,other", "--log", "off") as server:
            several_models(server)
            fuzz(sys.executable, server, folder)
        with Server(paraloom, folder, "scored", "--log", "off") as server:
            logprobs(server)
        with Server(paraloom, folder, "kept", "--log", "off") as server:
            openai_client(server, "kept")
            hub_client(server)
            formats(server)
            fuzz(sys.executable, server, folder)
    print("openai, huggingface_hub and schemathesis get what they expect")


if __name__ == "__main__":
    main()
