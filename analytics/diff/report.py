"""What a comparison found: a row a tensor, as Python, as Arrow, as JSON."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from anamnesis.kernels.diff import Sums, metrics

if TYPE_CHECKING:
    import pyarrow as pa

Status = Literal["compared", "not compared", "only in a", "only in b"]
FIGURES = ("max_abs_error", "mean_abs_error", "rms_error", "relative_error", "sqnr_db", "cosine")
COUNTS = ("bits_equal", "nan_a", "nan_b", "nan_both", "inf_differs")
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Row:
    """One tensor. Only a row with status `compared` has sums; `why` says why another has none.

    `tensor` is A's name, or B's of one that only B has; `tensor_b` is B's where the two are a pair.
    """

    tensor: str
    tensor_b: str | None
    layer: int | None
    module: str
    shape: tuple[int, ...]
    scheme_a: str | None
    scheme_b: str | None
    status: Status = "compared"
    why: str | None = None
    sums: Sums | None = None

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def sqnr_db(self) -> float:
        """Signal to quantisation noise in dB, of the finite pairs; NaN where there are none."""
        return metrics(self.sums)["sqnr_db"] if self.sums else math.nan

    @property
    def rank(self) -> float:
        """What rows are sorted by: SQNR, and infinity where nothing was there to differ."""
        sqnr = self.sqnr_db
        return math.inf if math.isnan(sqnr) else sqnr

    @property
    def identical(self) -> bool:
        """Whether every element has the same BF16 bits on both sides (any two NaNs have)."""
        return self.sums is not None and self.sums.equal == self.sums.elems

    @property
    def broken(self) -> int:
        """Elements that are NaN or infinite on one side and something else on the other."""
        return self.sums.nan_a + self.sums.nan_b + self.sums.inf_differs if self.sums else 0

    def to_dict(self) -> dict[str, Any]:
        """The row as the table has it; figures are None where there are no sums."""
        figures: dict[str, Any] = metrics(self.sums) if self.sums else dict.fromkeys(FIGURES)
        counts: dict[str, Any] = dict.fromkeys(COUNTS)
        if self.sums:
            counts = {"bits_equal": self.sums.equal}
            counts |= {name: getattr(self.sums, name) for name in COUNTS[1:]}
        return {
            "tensor": utf8(self.tensor),
            "tensor_b": None if self.tensor_b is None else utf8(self.tensor_b),
            "status": self.status,
            "why": self.why,
            "layer": self.layer,
            "module": utf8(self.module),
            "shape": list(self.shape),
            "elements": self.elements,
            "scheme_a": self.scheme_a,
            "scheme_b": self.scheme_b,
            **figures,
            **counts,
        }


@dataclass(frozen=True, slots=True)
class Diff:
    """Two checkpoints compared. `rows` begin with the compared tensors, worst first.

    Polars, DuckDB, pandas and others take it as it is: it has `__arrow_c_stream__`.
    """

    a: str
    b: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()

    @property
    def compared(self) -> tuple[Row, ...]:
        """Rows with figures, worst first: what is broken, then by rising SQNR."""
        return tuple(row for row in self.rows if row.status == "compared")

    @property
    def others(self) -> tuple[Row, ...]:
        """Rows without figures: another shape or dtype, or no partner."""
        return tuple(row for row in self.rows if row.status != "compared")

    @property
    def total(self) -> Sums:
        """All compared tensors as if they were one."""
        return add_up(row for row in self.compared)

    def to_arrow(self) -> pa.Table:
        """A row a tensor, in the order of `rows`; columns in the order of `Row.to_dict`."""
        import pyarrow as pa

        return pa.Table.from_pylist([row.to_dict() for row in self.rows], schema=_schema())

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """The table by the Arrow PyCapsule interface, which Polars, DuckDB and others take."""
        return self.to_arrow().__arrow_c_stream__(requested_schema)

    def __arrow_c_schema__(self) -> object:
        """The table's schema, without its data."""
        return _schema().__arrow_c_schema__()

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __getitem__(self, tensor: str) -> Row:
        for row in self.rows:
            if row.tensor == tensor:
                return row
        raise KeyError(tensor)

    def to_dict(self) -> dict[str, Any]:
        """The JSON object of `amn diff --json`; figures that are not finite are None."""
        total = self.total
        return {
            "a": utf8(self.a),
            "b": utf8(self.b),
            "compared": len(self.compared),
            "identical": sum(row.identical for row in self.compared),
            "total": {"elements": total.elems, "bits_equal": total.equal, **finite(metrics(total))},
            "tensors": [finite(row.to_dict()) for row in self.rows],
            "notes": [utf8(note) for note in self.notes],
        }

    def write(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the table as the suffix of `path` says: .parquet, .arrow, .csv or .json.

        The file is there whole or not at all. Raises UsageError for another suffix, or for a
        file that exists without `overwrite`.
        """
        from anamnesis.analytics.table_files import write_table
        from anamnesis.readers.paths import local_path

        shapes = {"shape": ["x".join(map(str, row.shape)) for row in self.rows]}
        write_table(local_path(path), self.to_arrow(), self.to_dict(), shapes, overwrite=overwrite)

    def plot(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Draw SQNR by layer and module type: .svg, .html or .png (which needs matplotlib).

        Raises UsageError as `write` does.
        """
        from anamnesis.analytics.diff.plot import write_plot
        from anamnesis.readers.paths import local_path

        write_plot(self, local_path(path), overwrite=overwrite)

    def summary(self) -> str:
        """One sentence on the whole."""
        compared, total = self.compared, self.total
        same = sum(row.identical for row in compared)
        count = "all" if same == len(compared) else str(same) if same else "none"
        plural = "" if len(compared) == 1 else "s"
        text = f"{len(compared)} tensor{plural} compared, {count} with equal BF16 bits"
        if total.noise:
            text += f"; {decibels(metrics(total)['sqnr_db'])} over all"
        if self.others:
            text += f"; {len(self.others)} not compared"
        return text

    def __repr__(self) -> str:
        lines = [f"<Diff {self.a!r} : {self.b!r}: {self.summary()}>"]
        width = max((len(row.tensor) for row in self.compared[:_SHOWN]), default=0)
        for row in self.compared[:_SHOWN]:
            lines.append(f"  {row.tensor!r:<{width + 2}}  {decibels(row.sqnr_db):>9}")
        if len(self.compared) > _SHOWN:
            lines.append(f"  and {len(self.compared) - _SHOWN} more, better ones")
        return "\n".join(lines)


def add_up(rows: Iterable[Row]) -> Sums:
    """The sums of several rows together; NaN and infinities are left out, as in each."""
    total = Sums()
    for row in rows:
        total += row.sums or Sums()
    return total


def decibels(value: float) -> str:
    """`31.4 dB`; `no error` for infinity, as where both sides are equal."""
    if math.isnan(value):
        return "none"
    if math.isinf(value):
        return "no error" if value > 0 else "-inf dB"
    return f"{value:.1f} dB"


def utf8(text: str) -> str:
    """Text that UTF-8 can hold: what a file calls its things may be half of a surrogate pair."""
    return text.encode("utf-8", "backslashreplace").decode()


def finite(document: dict[str, Any]) -> dict[str, Any]:
    """JSON has no infinity and no NaN."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in document.items()
    }


def _schema() -> pa.Schema:
    import pyarrow as pa

    text, whole = pa.string(), pa.int64()
    kinds: Sequence[tuple[str, pa.DataType, bool]] = [
        ("tensor", text, False),
        ("tensor_b", text, True),
        ("status", text, False),
        ("why", text, True),
        ("layer", pa.int32(), True),
        ("module", text, False),
        ("shape", pa.list_(whole), False),
        ("elements", whole, False),
        ("scheme_a", text, True),
        ("scheme_b", text, True),
        *((name, pa.float64(), True) for name in FIGURES),
        *((name, whole, True) for name in COUNTS),
    ]
    return pa.schema([pa.field(name, kind, nullable=null) for name, kind, null in kinds])
