"""The Python API: what the command line does, as functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from anamnesis.limits import Allow, Limits
from anamnesis.model.lazy import Decode, LazyTensor, OpenModel
from anamnesis.names.open import open_named
from anamnesis.pipeline.report import Report, report
from anamnesis.readers.paths import output_path
from anamnesis.readers.schemes.base import Options

if TYPE_CHECKING:
    import pyarrow as pa

    from anamnesis.pipeline.config import Job
    from anamnesis.pipeline.run import Outcome

Rounding = Literal["exact", "reference"]


def inspect(path: str | Path, *, limits: Limits | None = None, **options: Any) -> Report:
    """What a model holds, from its headers alone: container, schemes, stored and BF16 bytes.

    `limits.max_total_bytes` is held against the BF16 bytes. Raises FormatError, UnsupportedError,
    LimitError, SecurityError or OSError.
    """
    limits = limits or Limits()
    limits = _permitted(limits, options)
    found = report(open_named(str(path), Options(**options), limits))
    limits.total(found.bf16_bytes, f"{path}: as BF16")
    return found


def open_model(path: str | Path, *, limits: Limits | None = None, **options: Any) -> OpenModel:
    """A lazy mapping of names to tensors; nothing but headers is read until one is used.

    With `names="hf"`, a GGUF's tensors are those of a Hugging Face folder: renamed, split, joined
    and in its order of rows (docs/gguf-and-hf.md).
    """
    limits = _permitted(limits, options)
    return OpenModel(open_named(str(path), Options(**options), limits), limits)


def _permitted(limits: Limits | None, options: dict[str, Any]) -> Limits:
    """The limits with `follow_links` and `leave_out_unknown`, which are taken out of `options`."""
    limits = limits or Limits()
    allow = Allow(
        options.pop("follow_links", False) is True, options.pop("leave_out_unknown", False) is True
    )
    return replace(limits, allow=limits.allow | allow)


def scan(
    path: str | Path,
    tensors: str | Sequence[str] = ("*",),
    *,
    columns: str | Sequence[str] | None = None,
    decode: Decode = None,
    memory: int | str | None = None,
    limits: Limits | None = None,
    **options: Any,
) -> pa.RecordBatchReader:
    """The matching tensors (shell patterns) as one Arrow stream: raw blocks, or decoded rows.

    Without `decode` a row is a block: `tensor`, `scheme`, `component`, `block`, `row`, `col`,
    `elems`, `scale`, `minimum`, `zero`, `scales`, `minimums`, `payload`. With `"f32"` or `"bf16"`
    it is a matrix row: `tensor`, `scheme`, `row`, `col`, `values`; `analytics.scan.run` has
    their types. Only the bytes that `columns` need are read, and `memory` (64 MiB) is held.

    Raises UsageError for an unknown column, LimitError when one row does not fit in `memory`, and
    what `open_model` raises; while it is read, IntegrityError and OSError.
    """
    model = open_model(path, limits=limits, **options)
    return model.scan(tensors, columns=columns, decode=decode, memory=memory)


def remember(
    path: str | Path,
    out: str | Path,
    *,
    to: str | None = None,
    dtype: str | None = None,
    rounding: Rounding = "exact",
    threads: int | Literal["auto"] = "auto",
    memory: int | str | None = None,
    overwrite: bool = False,
    limits: Limits | None = None,
    **settings: Any,
) -> Outcome:
    """Recover the precision of `path` into `out`: a file (by its suffix) or a folder.

    `to` is the format (`safetensors`, `arrow`); without one the suffix of `out` says it, and a
    folder gets safetensors. `dtype` is `bf16`, `f16` or `f32`; without one, recovered tensors
    become BF16 and the others keep their dtype. Raises the classes of `anamnesis.errors`, or
    OSError.
    """
    from anamnesis.pipeline.jobs import job_for, run_job

    job = job_for(
        str(path),
        str(out),
        to=to,
        dtype=dtype,
        rounding=rounding,
        threads=threads,
        memory=memory,
        overwrite=overwrite,
        **settings,
    )
    return run_job(job, limits=limits, resume=True).outcomes[0]


def convert(path: str | Path, out: str | Path, *, to: str, **settings: Any) -> Outcome:
    """Any input to any target; `remember` with the target named."""
    return remember(path, out, to=to, **settings)


def run(job: Job | str | Path) -> Sequence[Outcome]:
    """Run a job file, or a job made in Python; one outcome an input. Run again, it resumes.

    The first error of any input is raised after all of them were tried.
    """
    from anamnesis.pipeline.config import load_job
    from anamnesis.pipeline.jobs import run_job

    loaded = load_job(str(job)) if isinstance(job, str | Path) else job
    summary = run_job(loaded, resume=True)
    if summary.failures:
        raise summary.failures[0][1]
    return summary.outcomes


def verify(
    out: str | Path, *, against: str | Path | None = None, sample: float = 1.0
) -> dict[str, int]:
    """Compare an output with its recorded checksums; IntegrityError names what differs.

    Weights in the folder that the record does not list are named as well.

    With `against`, that input is decoded again, a `sample` (a share) of the pieces or all, and
    compared with the checksums too.
    """
    from anamnesis.pipeline.journal import verify_output
    from anamnesis.pipeline.place import refuse_foreign_weights

    out = Path(output_path(str(out)))
    refuse_foreign_weights(out)
    counts = verify_output(out)
    if against is not None:
        from anamnesis.pipeline.against import decode_again

        counts |= decode_again(out, str(against), sample)
    return counts


__all__ = [
    "LazyTensor",
    "OpenModel",
    "convert",
    "inspect",
    "open_model",
    "remember",
    "run",
    "scan",
    "verify",
]
