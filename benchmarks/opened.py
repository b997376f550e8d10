"""A case as the conversion sees it: planned steps, raw blocks as they are read, decoders."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from anamnesis.kernels import Window, decoder, preparer
from anamnesis.limits import GiB
from anamnesis.pipeline.config import job_from
from anamnesis.pipeline.decode import OUT
from anamnesis.pipeline.jobs import plan_job
from anamnesis.pipeline.plan import Plan, Spec, Step, make_plan
from anamnesis.pipeline.statistics import run_statistics_task, statistics_tasks, with_statistics
from anamnesis.readers.batch import BlockReader
from anamnesis.readers.files import Files
from anamnesis.readers.model import load_model
from benchmarks.cases import Case
from benchmarks.models import write_model


@dataclass(frozen=True, slots=True)
class Opened:
    """The weight of a case's only layer; `params` are what its kernel takes."""

    step: Step
    reader: BlockReader
    decode: Any
    params: dict[str, Any]

    @property
    def kind(self) -> Any:
        """numpy's type of the output."""
        return OUT[self.step.dtype]

    def views(self, window: Window) -> dict[str, Any]:
        """The raw blocks of a window as the kernel gets them; the next call overwrites them."""
        return self.reader.read(window).views


def plan_of(path: Path, out: Path, threads: int = 2, **settings: Any) -> Plan:
    """A plan with room for everything."""
    spec = Spec(str(out), **settings)
    return make_plan(load_model(str(path)), spec, memory_bytes=8 * GiB, threads=threads)


def encoding_plan_of(path: Path, out: Path, target: str, threads: int = 2) -> Plan:
    """The plan that `amn convert --encode TARGET` makes; its whole-tensor statistics are known."""
    job = job_from(
        inputs=[str(path)],
        output={
            "path": str(out),
            "format": "gguf" if target.startswith("gguf-") else "safetensors",
            "names": "stored",
            "encode": target,
        },
        run={"threads": threads, "memory": "8GiB"},
    )
    ((_, plan),) = plan_job(job)
    if isinstance(plan, BaseException):
        raise plan
    receipts = map(run_statistics_task, statistics_tasks(plan.tasks))
    return replace(plan, tasks=tuple(with_statistics(plan.tasks, receipts)))


@contextmanager
def opened(case: Case, folder: Path, rows: int, columns: int) -> Iterator[Opened]:
    """Write a case's layer into `folder` and open it; its encoding may be inside of another."""
    path = write_model(folder, case.make(rows, columns))
    plan = plan_of(path, folder / "out.safetensors", **case.settings)
    steps = {p.step.tensor.name: p.step for task in plan.tasks for p in task.pieces}
    found = [
        step
        for step in steps.values()
        if case.encoding in (step.tensor.encoding, step.tensor.params.get("inner"))
    ]
    if len(found) != 1:
        raise LookupError(f"{case.name}: {len(found)} tensors in {case.encoding!r}, not one")
    files = Files()
    try:
        reader = BlockReader(found[0].tensor, files, reuse=True)
        encoding = found[0].tensor.encoding
        prepare = preparer(encoding)
        params = dict(found[0].tensor.params)
        if prepare is not None:
            params |= prepare(found[0].tensor.params, reader.wholes())
        yield Opened(found[0], reader, decoder(encoding), params)
    finally:
        files.close()
