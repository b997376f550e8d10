"""`stats()`: figures of every tensor's values, from one streaming pass."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import xxhash

from anamnesis.analytics.reduction import Settings, reduce, settle
from anamnesis.analytics.rows import TensorRows
from anamnesis.analytics.stats.plan import StatsPlan, make_stats_plan
from anamnesis.analytics.stats.record import COLUMNS, Figures, TensorStats
from anamnesis.analytics.stats.scales import join
from anamnesis.analytics.stats.task import Leaf
from anamnesis.analytics.stats.values import reducer
from anamnesis.errors import UsageError
from anamnesis.keywords import (
    Dtype,
    Executor,
    Names,
    PathLike,
    Patterns,
    Size,
    Threads,
    keywords,
    wrong_word,
)
from anamnesis.limits import Limits, LimitsLike
from anamnesis.names.open import open_named
from anamnesis.pipeline.callback import ProgressLike, reporter
from anamnesis.pipeline.idle import Case, given_options, without_effect
from anamnesis.pipeline.progress import Progress
from anamnesis.readers.base import Tensor
from anamnesis.readers.schemes.base import Options
from anamnesis.readers.source import public_name

if TYPE_CHECKING:
    import pyarrow as pa

_SORTABLE = tuple(c for c in COLUMNS if c not in ("shape", "exponents"))


@dataclass(frozen=True, repr=False)
class Stats(Figures, TensorRows[TensorStats]):
    """The figures of a model's tensors, in file order unless sorted; a table for Arrow's tools.

    `notes` are remarks on the input; `value_bytes` were decoded in `seconds`.
    """

    @keywords
    def sort(self, column: str) -> Stats:
        """By a column: numbers from the largest, text from A; without a value last."""
        check_column(column)

        def key(row: TensorStats) -> tuple[bool, Any]:
            value = getattr(row, column)
            if value is None:
                return True, 0
            return False, value if isinstance(value, str) else -value

        return replace(self, rows=tuple(sorted(self.rows, key=key)))

    def to_arrow(self) -> pa.Table:
        """A `pyarrow.Table` with a row a tensor; columns as in `TensorStats`."""
        from anamnesis.analytics.stats.files import to_arrow

        return to_arrow(self)

    def to_dict(self) -> dict[str, Any]:
        """The object that `amn stats --json` prints."""
        from anamnesis.analytics.stats.files import to_dict

        return to_dict(self)

    @keywords
    def write(self, path: PathLike, *, overwrite: bool = False) -> None:
        """Write the table as the suffix of `path` says: .parquet, .arrow, .csv or .json.

        The file is there whole or not at all. Raises UsageError for another suffix, or for a
        file that exists without `overwrite`.
        """
        from anamnesis.analytics.stats.files import write
        from anamnesis.readers.paths import local_path

        write(self, local_path(path), overwrite=overwrite)

    def __repr__(self) -> str:
        from anamnesis.analytics.stats.table import as_text

        return as_text(self, width=100, most=20)

    def _repr_html_(self) -> str:
        from anamnesis.analytics.stats.table import as_html

        return as_html(self)


def check_column(column: str) -> None:
    """UsageError when rows cannot be sorted by a column."""
    if column not in _SORTABLE:
        raise UsageError(f"sort: {wrong_word(column, _SORTABLE)}")


@keywords
def stats(
    path: PathLike,
    include: Patterns = "*",
    *,
    exclude: Patterns = (),
    dtype: Dtype | None = None,
    names: Names = "stored",
    assume_unit_scale: bool = False,
    executor: Executor | None = None,
    scheduler: str | None = None,
    threads: Threads = "auto",
    memory: Size | None = None,
    follow_links: bool = False,
    leave_out_unknown: bool = False,
    limits: LimitsLike | None = None,
    progress: ProgressLike = False,
) -> Stats:
    """Figures of every tensor's values: one pass, nothing is written.

    path: a file, a model folder, a glob, an `ollama:` name or an fsspec URL.
    include, exclude: shell patterns on names, one or several; all tensors without them.
    dtype: of the values, as `remember` would write them; BF16 for quantised ones without it.
    names: `hf` for a GGUF's tensors under Hugging Face's names.
    assume_unit_scale: take FP8 tensors without a scale as a plain cast.
    executor: `threads` unless a `scheduler`, the address of Dask's, is given; the figures are
    the same from all of them.
    threads, memory: how many, and the budget of a process (`512MiB`).
    follow_links, leave_out_unknown, limits: what a file may ask for, as `open_model` has them.
    progress: True for a report on standard error, or a function that gets two numbers, the bytes
    that are done and the bytes of all.

    Raises the classes of `anamnesis.errors`, or OSError.
    """
    limits = Limits.of(limits).allowing(follow_links, leave_out_unknown)
    settings = settle(
        [path],
        select=(include, exclude),
        dtype=dtype,
        limits=limits,
        executor=executor,
        scheduler=scheduler,
        memory=memory,
        threads=threads,
    )
    options = Options(assume_unit_scale, names=names)
    chosen = settings.limits.choosing(settings.include, settings.exclude)
    model = open_named(settings.inputs[0], options, chosen)
    plan = make_stats_plan(
        model.select(settings.include, settings.exclude),
        dtype=dtype,
        memory_bytes=settings.memory_bytes,
        threads=settings.threads,
        limits=settings.limits,
    )
    given = given_options(options, settings.limits.allow)
    given += ["dtype"] * (dtype is not None) + ["threads"] * (threads != "auto")
    idle = without_effect(given, Case([model], scheduler=scheduler is not None))
    found = _run(plan, settings, reporter(progress))
    return replace(found, notes=(*found.notes, *idle))


def _run(plan: StatsPlan, settings: Settings, progress: Progress) -> Stats:
    """Run a plan and put together what its tasks found. Raises the first error of any task."""
    begin = time.perf_counter()
    model = plan.model
    path = public_name(model.path)
    leaves: dict[str, list[Leaf]] = defaultdict(list)
    for found in reduce(plan, settings, path, [model.members], progress):
        for leaf in found:
            leaves[leaf.tensor].append(leaf)
    rows = tuple(_row(tensor, leaves[tensor.name]) for tensor in plan.tensors)
    seconds = time.perf_counter() - begin
    return Stats(path, model.container, rows, model.notes, plan.work_bytes, seconds)


def _row(tensor: Tensor, leaves: list[Leaf]) -> TensorStats:
    partial, scales = reducer(tensor.out_dtype).take(), None
    for leaf in leaves:
        partial += leaf.partial
        scales = join(scales, leaf.scales)
    mean, std = (partial.sums.mean_std() if partial.sums else None) or (None, None)
    low, high = partial.low, partial.high
    digests = [leaf.xxh3 for leaf in leaves] or [xxhash.xxh3_128_digest(b"")]
    whole = digests[0] if len(digests) == 1 else xxhash.xxh3_128_digest(b"".join(digests))
    return TensorStats(
        tensor=tensor.name,
        shape=tensor.shape,
        scheme=tensor.scheme,
        dtype=tensor.out_dtype,
        elements=math.prod(tensor.shape),
        stored_bytes=tensor.stored_bytes,
        min=low,
        max=high,
        mean=mean,
        std=std,
        absmax=None if low is None or high is None else max(abs(low), abs(high)),
        zeros=partial.zeros,
        nans=partial.nans,
        infs=partial.infs,
        exponents=partial.exponents,
        scale_min=scales[0] if scales else None,
        scale_max=scales[1] if scales else None,
        xxh3=whole.hex(),
    )
