"""Converts a model for CTranslate2. Job: `model` (directory), `to` (directory), `precision` (float32, int8)."""

import common
from ctranslate2.converters import TransformersConverter

job = common.job()
TransformersConverter(job["model"]).convert(job["to"], quantization=job["precision"], force=True)
common.report()
