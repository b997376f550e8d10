"""`amn plan` against runs into S3: bytes, tasks and requests. Other stores: test_other_stores."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from buckets import KEYS, Bucket, Faults, billed, faulty, forget_clients

from anamnesis.pipeline.config import any_job
from anamnesis.pipeline.estimate import Assumed, amounts_of, estimate
from anamnesis.pipeline.jobs import rehearse_job, run_job
from anamnesis.pipeline.plan import Plan
from anamnesis.writers import lease, upload

SHARD = "6MB"


@pytest.fixture
def model(tmp_path: Path, write_safetensors: Callable[..., Path]) -> Path:
    """15 MB of float32 in tensors whose edges lie inside of parts."""
    rng, folder = np.random.default_rng(5), tmp_path / "model"
    folder.mkdir()
    shapes = [(1500, 1001), (7,), (2000, 1024), (1, 3), (0, 4)]
    tensors = {
        f"layer.{number}.weight": ("F32", shape, rng.standard_normal(shape, np.float32).tobytes())
        for number, shape in enumerate(shapes)
    }
    write_safetensors(folder / "model.safetensors", tensors)
    (folder / "config.json").write_text('{"model_type": "none"}')
    return folder


@pytest.fixture
def seen(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Bucket, list[str]]]:
    """A bucket, and the requests that the package makes of it."""
    monkeypatch.setattr(upload, "PART_BYTES", 5 << 20)
    monkeypatch.setattr(lease, "RENEW_SECONDS", 3600.0)  # not one more request of a slow machine
    faults = Faults()
    with faulty(endpoint, faults) as proxy:
        for key, value in {**KEYS, "AWS_ENDPOINT_URL": proxy}.items():
            monkeypatch.setenv(key, value)
        forget_clients()
        yield Bucket(endpoint, f"p{id(faults):x}"), faults.seen
        forget_clients()


@pytest.mark.parametrize(
    ("to", "settings"),
    [("safetensors", {"max_shard_size": SHARD}), ("hf", {"encode": "fp8-channel"})],
)
def test_a_run_makes_the_requests_that_were_planned(
    seen: tuple[Bucket, list[str]], model: Path, to: str, settings: dict[str, Any]
) -> None:
    """The first from the same bucket, block by block after its headers; the other from a disk."""
    (bucket, lines), source = seen, str(model)
    if to == "safetensors":
        source = f"s3://{bucket.name}/in"
        for path in model.iterdir():
            bucket.put(f"in/{path.name}", path.read_bytes())
    output = {"path": f"s3://{bucket.name}/out", "format": to, "dtype": "bf16", **settings}
    job = any_job({"inputs": [source], "output": output, "run": {"executor": "serial"}})
    ((_, plan),) = rehearse_job(job, None)
    assert isinstance(plan, Plan)
    lines.clear()
    (outcome,) = run_job(job, resume=True).outcomes
    said, counts = amounts_of(plan), Counter(map(billed, lines))
    planned = estimate(said, 1, Assumed())
    assert len([line for line in lines if re.search("PUT .*/task-", line)]) == said.tasks
    names = [*outcome.files, *(path for path, _ in plan.layout.extras)]
    assert sum(len(bucket.read(name.split("/", 3)[3])) for name in names) == said.put_bytes
    assert counts["put"] == planned.puts
    reads = [line for line in lines if re.search("(GET|HEAD) .*/in/", line)]
    opening = len(reads) - said.gets
    assert counts["get"] == planned.gets - said.opening + opening
    assert opening <= said.opening
    assert to == "hf" or outcome.read_bytes == said.get_bytes
