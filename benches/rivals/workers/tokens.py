"""Makes tokens of texts. Job: `tokenizer` (file), `texts` (JSON: lists of texts by name), `to` (the same with lists of ids)."""

import json
import pathlib

import common
from tokenizers import Tokenizer

job = common.job()
tokenizer = Tokenizer.from_file(job["tokenizer"])
texts = json.loads(pathlib.Path(job["texts"]).read_text())
ids = {name: [one.ids for one in tokenizer.encode_batch(of, add_special_tokens=False)] for name, of in texts.items()}
pathlib.Path(job["to"]).write_text(json.dumps(ids))
common.report()
