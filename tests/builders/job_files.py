"""Job files of tests, whole and small."""

from __future__ import annotations

from typing import Any

import pytest

from anamnesis.errors import UsageError
from anamnesis.pipeline.config import load_job

FULL = """
inputs:
  - models/llama-fp8
output:
  path: out/llama-bf16
  format: safetensors
  dtype: bf16
  max_shard_size: 5GB
  overwrite: false
select: {include: ["*"], exclude: []}
numbers: {rounding: exact, passthrough: keep, assume_unit_scale: false}
run: {executor: threads, threads: auto, memory: 512MiB, scheduler: null}
limits:
  {max_items: 2000000, max_single_alloc: 8GiB, max_total_bytes: null, max_expansion_ratio: 1000}
"""


SMALL = "inputs: [a]\noutput: {path: o}\n"


def message(job_file: Any, text: str, *overrides: str) -> str:
    path = job_file(text)
    with pytest.raises(UsageError) as caught:
        load_job(path, overrides).resolve()
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(path, "job.yaml")
