"""Tasks that are sent by reference: small on their way, and what is meant or nothing."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anamnesis.errors import IntegrityError
from anamnesis.limits import KiB, MiB
from anamnesis.pipeline.plan import Spec, make_plan
from anamnesis.pipeline.referred import ReferredTask, by_reference
from anamnesis.pipeline.task import WriteReceipt, run_task
from anamnesis.readers.model import load_model
from anamnesis.writers.stores import located, store_of

COUNT = 2000


@pytest.fixture
def memory() -> Iterator[Any]:
    fsspec = pytest.importorskip("fsspec")
    fs = fsspec.filesystem("memory")
    fs.store.clear()
    yield fs
    fs.store.clear()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Very many tensors of eight numbers."""
    header = {
        f"model.layers.{n}.mlp.down_proj.weight": {
            "dtype": "BF16",
            "shape": [2, 4],
            "data_offsets": [16 * n, 16 * n + 16],
        }
        for n in range(COUNT)
    }
    text = json.dumps(header).encode()
    data = np.random.default_rng(1).bytes(16 * COUNT)
    path = tmp_path / "m.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def test_a_large_task_is_sent_by_reference(memory: Any, model: Path) -> None:
    spec = Spec("memory://bucket/out.parquet", "parquet")
    plan = make_plan(load_model(str(model)), spec, memory_bytes=512 * MiB, threads=1)
    (task,) = plan.tasks
    final = located(spec.path)
    store = store_of(final)
    part = store.part(final, "0123456789")
    task = replace(task, part=str(part))
    store.create(plan.layout.files[0], part, overwrite=False)
    assert len(pickle.dumps(task)) > 64 * KiB
    sent = by_reference(task)
    assert isinstance(sent, ReferredTask)
    assert len(pickle.dumps(sent)) < KiB
    receipt = run_task(pickle.loads(pickle.dumps(sent)))
    assert isinstance(receipt, WriteReceipt)
    assert receipt.key == task.key
    assert len(receipt.pieces) == COUNT
    few = replace(task, pieces=task.pieces[:50])
    assert by_reference(few) is few

    class Evil:
        def __reduce__(self) -> Any:
            return pytest.fail, ("was unpickled",)

    for data in (pickle.dumps(Evil()), pickle.dumps(few)):
        store.keep(part, f"plan-{task.key}", data)
        with pytest.raises(IntegrityError, match="is not the task that was sent"):
            run_task(sent)
