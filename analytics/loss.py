"""The loss of encoding runs as a file: a table, or the picture that `diff` draws.

Nothing is read again: the figures are those that a run found of its windows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from anamnesis.analytics.diff.names import place
from anamnesis.analytics.diff.plot import SUFFIXES as PICTURES
from anamnesis.analytics.diff.plot import check_plot, write_plot
from anamnesis.analytics.diff.record import Findings, Row
from anamnesis.analytics.table_files import SUFFIXES, check_target, write_table
from anamnesis.pipeline.loss import TensorLoss
from anamnesis.pipeline.outcome import Outcome

_FIGURES = ("sqnr_db", "relative_error", "clipped", "clipped_share", "not_finite")
_COUNTS = ("clipped", "not_finite")


def check_loss(path: Path, overwrite: bool) -> None:
    """UsageError when no report can be written to `path`."""
    if path.suffix in PICTURES:
        check_plot(path, overwrite)
    else:
        check_target(path, overwrite, (*SUFFIXES, *PICTURES))


def write_loss(outcomes: Sequence[Outcome], path: Path, *, overwrite: bool) -> None:
    """Write the loss of runs into a file that is there whole or not at all."""
    rows = [(outcome.path, row) for outcome in outcomes for row in outcome.loss]
    if path.suffix in PICTURES:
        write_plot(findings(outcomes), path, overwrite=overwrite)
        return
    import pyarrow as pa

    text, number = pa.string(), pa.float64()
    columns: dict[str, tuple[pa.DataType, list[Any]]] = {
        "path": (text, [where for where, _ in rows]),
        "tensor": (text, [row.tensor for _, row in rows]),
        "target": (text, [row.target for _, row in rows]),
        "source": (text, [row.source for _, row in rows]),
        "shape": (pa.list_(pa.int64()), [list(row.shape) for _, row in rows]),
        "elements": (pa.int64(), [row.counts[0] for _, row in rows]),
    }
    for name in _FIGURES:
        kind = pa.int64() if name in _COUNTS else number
        columns[name] = (kind, [getattr(row, name) for _, row in rows])
    table = pa.table({name: pa.array(values, kind) for name, (kind, values) in columns.items()})
    document = {"tensors": [_as_json(where, row) for where, row in rows]}
    shapes = ["x".join(map(str, row.shape)) for _, row in rows]
    write_table(path, table, document, {"shape": shapes}, overwrite=overwrite)


def _as_json(where: str, row: TensorLoss) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(row)
    return {"path": where, **fields, "not_finite": row.not_finite}


def findings(outcomes: Iterable[Outcome]) -> Findings:
    """The loss as a comparison of what went in with what came out, worst first."""
    outcomes = tuple(outcomes)
    rows = sorted((_row(row) for outcome in outcomes for row in outcome.loss), key=_worst)
    path = outcomes[0].path if len(outcomes) == 1 else f"{len(outcomes)} outputs"
    return Findings("before", path, tuple(rows))


def _row(found: TensorLoss) -> Row:
    where = place(found.tensor)
    return Row(
        tensor=found.tensor,
        tensor_b=found.tensor,
        layer=where.layer,
        module=where.kind,
        shape=found.shape,
        scheme_a=found.source,
        scheme_b=found.target,
        sums=found.compared,
    )


def _worst(row: Row) -> tuple[bool, float, str]:
    return not row.broken, row.rank, row.tensor
