"""Exports a model for OpenVINO, with a stateful decoder. Job: `model`, `to` (directories), `precision` (f32, int8: of the weights)."""

import common
from optimum.intel import OVModelForSeq2SeqLM

job = common.job()
model = OVModelForSeq2SeqLM.from_pretrained(job["model"], export=True, compile=False, load_in_8bit=job["precision"] == "int8")
model.save_pretrained(job["to"])
common.report()
