"""The Python API: what the command line does, as functions (`conversion` has two more)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from anamnesis.keywords import Names, PathLike, Patterns, Rounding, Size, keywords
from anamnesis.limits import Limits, LimitsLike
from anamnesis.model.lazy import Decode, LazyTensor, OpenModel
from anamnesis.names.open import open_named
from anamnesis.pipeline.idle import Case, given_options, without_effect
from anamnesis.pipeline.report import Report, report
from anamnesis.readers.paths import output_path
from anamnesis.readers.schemes.base import Options

if TYPE_CHECKING:
    import pyarrow as pa

    from anamnesis.pipeline.callback import ProgressLike
    from anamnesis.pipeline.config import Job
    from anamnesis.pipeline.outcome import Outcome


@keywords
def inspect(
    path: PathLike,
    *,
    names: Names = "stored",
    rounding: Rounding = "exact",
    assume_unit_scale: bool = False,
    follow_links: bool = False,
    leave_out_unknown: bool = False,
    limits: LimitsLike | None = None,
) -> Report:
    """What a model holds, from its headers alone: container, schemes, stored and BF16 bytes.

    The keywords are those of `open_model`. `limits.max_total_bytes` is held against the BF16
    bytes. Raises FormatError, UnsupportedError, LimitError, SecurityError or OSError.
    """
    limits = Limits.of(limits).allowing(follow_links, leave_out_unknown)
    options = Options(assume_unit_scale, rounding, names)
    model = open_named(os.fsdecode(path), options, limits)
    idle = without_effect(given_options(options, limits.allow), Case([model]))
    found = report(replace(model, notes=(*model.notes, *idle)))
    limits.total(found.bf16_bytes, f"{os.fsdecode(path)}: as BF16")
    return found


@keywords
def parse(
    path: PathLike,
    *,
    names: Names = "stored",
    rounding: Rounding = "exact",
    assume_unit_scale: bool = False,
    follow_links: bool = False,
    leave_out_unknown: bool = False,
    limits: LimitsLike | None = None,
) -> Report:
    """As `inspect`, for the sake of the tensors: `entries`, and `to_arrow` with a row a tensor."""
    return inspect(
        path,
        names=names,
        rounding=rounding,
        assume_unit_scale=assume_unit_scale,
        follow_links=follow_links,
        leave_out_unknown=leave_out_unknown,
        limits=limits,
    )


@keywords
def open_model(
    path: PathLike,
    *,
    names: Names = "stored",
    rounding: Rounding = "exact",
    assume_unit_scale: bool = False,
    follow_links: bool = False,
    leave_out_unknown: bool = False,
    limits: LimitsLike | None = None,
) -> OpenModel:
    """A lazy mapping of names to tensors; nothing but headers is read until one is used.

    path: a file, a model folder, a glob, an `ollama:` name or an fsspec URL.
    names: with `hf`, a GGUF's tensors are those of a Hugging Face folder: renamed, split, joined
    and in its order of rows (docs/gguf-and-hf.md).
    rounding: `exact` rounds once, `reference` replays the library's own order.
    assume_unit_scale: take FP8 tensors without a scale as a plain cast.
    follow_links: follow links out of the model's folder that are yours, to files of yours.
    leave_out_unknown: leave pickled objects of unknown classes out, of which nothing is run.
    limits: what a file may make this program allocate (`Limits`).
    """
    limits = Limits.of(limits).allowing(follow_links, leave_out_unknown)
    options = Options(assume_unit_scale, rounding, names)
    return OpenModel(open_named(os.fsdecode(path), options, limits), limits)


@keywords
def scan(
    path: PathLike,
    tensors: Patterns = "*",
    *,
    columns: str | Sequence[str] | None = None,
    decode: Decode = None,
    memory: Size | None = None,
    names: Names = "stored",
    rounding: Rounding = "exact",
    assume_unit_scale: bool = False,
    follow_links: bool = False,
    leave_out_unknown: bool = False,
    limits: LimitsLike | None = None,
) -> pa.RecordBatchReader:
    """The matching tensors (shell patterns) as one Arrow stream: raw blocks, or decoded rows.

    Without `decode` a row is a block: `tensor`, `scheme`, `component`, `block`, `row`, `col`,
    `elems`, `scale`, `minimum`, `zero`, `scales`, `minimums`, `payload`. With `"f32"` or `"bf16"`
    it is a matrix row: `tensor`, `scheme`, `row`, `col`, `values`; `analytics.scan.run` has
    their types. Only the bytes that `columns` need are read, and `memory` (64 MiB) is held. The
    other keywords are those of `open_model`.

    Raises UsageError for an unknown column, LimitError when one row does not fit in `memory`, and
    what `open_model` raises; while it is read, IntegrityError and OSError.
    """
    model = open_model(
        path,
        names=names,
        rounding=rounding,
        assume_unit_scale=assume_unit_scale,
        follow_links=follow_links,
        leave_out_unknown=leave_out_unknown,
        limits=limits,
    )
    return model.scan(tensors, columns=columns, decode=decode, memory=memory)


@keywords
def run(
    job: Job | Mapping[str, Any] | PathLike,
    *,
    set: Mapping[str, Any] | str | Sequence[str] = (),  # noqa: A002 - the flag's name
    scheduler: str | None = None,
    keep_going: bool | None = None,
    limits: LimitsLike | None = None,
    progress: ProgressLike = False,
) -> Sequence[Outcome]:
    """Run a job; one outcome an input. Run again, it goes on where it was stopped.

    job: the path of a job file, or its contents as a mapping, or a `Job`.
    set: what comes before the job's settings: `{"output.dtype": "f32"}`, or one or several texts
    `"output.dtype=f32"`.
    scheduler: run on the Dask scheduler of that address.
    keep_going: convert what can be had of models with broken shards.
    limits: in place of the job's.
    progress: as `remember` has it, anew for each input.

    The first error of any input is raised after all of them were tried.
    """
    from anamnesis.pipeline.callback import reporter
    from anamnesis.pipeline.config import Override, any_job
    from anamnesis.pipeline.jobs import run_job

    given = [set] if isinstance(set, str) else set
    overrides: list[Override] = [*(given.items() if isinstance(given, Mapping) else given)]
    if scheduler is not None:
        overrides += [("run.executor", "distributed"), ("run.scheduler", scheduler)]
    if keep_going is not None:
        overrides.append(("run.keep_going", keep_going))
    reports = reporter(progress)
    own = None if limits is None else Limits.of(limits)
    summary = run_job(any_job(job, overrides), limits=own, progress=reports, resume=True)
    if summary.failures:
        raise summary.failures[0][1]
    return summary.outcomes


@keywords
def verify(
    out: PathLike,
    *,
    against: PathLike | None = None,
    sample: float = 1.0,
    imatrix: PathLike | None = None,
    memory: Size | None = None,
) -> dict[str, int]:
    """Compare an output with its recorded checksums; IntegrityError names what differs.

    Weights in the folder that the record does not list are named as well.

    against: decode this input again, and compare with the checksums too.
    sample: a share of its pieces, above 0; 1 is all of them.
    imatrix: the importance matrix with which the output was encoded, if there was one.
    memory: the budget of the process (`512MiB`); what it leaves is fetched ahead from behind URLs.

    Returns counts: `files`, `tensors`, `bytes`, and with `against` `pieces`, `pieces_decoded`.
    """
    from anamnesis.pipeline.journal import verify_output
    from anamnesis.pipeline.place import refuse_foreign_weights
    from anamnesis.pipeline.sections import Run
    from anamnesis.sizes import memory_bytes
    from anamnesis.writers.stores import located

    budget = memory_bytes(Run().memory if memory is None else memory)
    place = located(output_path(os.fsdecode(out)))
    refuse_foreign_weights(place)
    counts = verify_output(place, budget)
    if against is not None:
        from anamnesis.pipeline.against import decode_again

        weights = None if imatrix is None else os.fsdecode(imatrix)
        counts |= decode_again(place, os.fsdecode(against), sample, weights, memory_bytes=budget)
    return counts


__all__ = [
    "LazyTensor",
    "OpenModel",
    "inspect",
    "open_model",
    "parse",
    "run",
    "scan",
    "verify",
]
