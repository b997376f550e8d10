"""A comparison as callers have it: as Python, as Arrow, as JSON, as files and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from anamnesis.analytics.diff.record import COUNTS, FIGURES, Findings, Row, decibels, finite, utf8
from anamnesis.analytics.rows import TensorRows
from anamnesis.kernels.diff import metrics
from anamnesis.keywords import PathLike, keywords
from anamnesis.pipeline.html import html_table

if TYPE_CHECKING:
    import pyarrow as pa

    from anamnesis.analytics.diff.drawing import Drawing

_SHOWN = 5  # tensors in a `repr`


@dataclass(frozen=True, slots=True)
class Diff(Findings, TensorRows[Row]):
    """Two checkpoints compared. `rows` begin with the compared tensors, worst first.

    For Arrow's tools it is a table with a row a tensor: see `to_arrow`.
    """

    def to_arrow(self) -> pa.Table:
        """A row a tensor, in the order of `rows`; columns in the order of `Row.to_dict`."""
        import pyarrow as pa

        return pa.Table.from_pylist([row.to_dict() for row in self.rows], schema=_schema())

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

    @keywords
    def write(self, path: PathLike, *, overwrite: bool = False) -> None:
        """Write the table as the suffix of `path` says: .parquet, .arrow, .csv or .json.

        The file is there whole or not at all. Raises UsageError for another suffix, or for a
        file that exists without `overwrite`.
        """
        from anamnesis.analytics.table_files import write_table
        from anamnesis.readers.paths import local_path

        shapes = {"shape": ["x".join(map(str, row.shape)) for row in self.rows]}
        write_table(local_path(path), self.to_arrow(), self.to_dict(), shapes, overwrite=overwrite)

    @keywords
    def plot(self, path: PathLike | None = None, *, overwrite: bool = False) -> Drawing:
        """Draw SQNR by layer and module type; a notebook shows what is returned (extra `plot`).

        With a `path` it is also written there, as its suffix says: .svg, .html or .png. Raises
        UsageError as `write` does, and without matplotlib.
        """
        from anamnesis.analytics.diff.drawing import Drawing
        from anamnesis.analytics.diff.plot import check_matplotlib, write_plot
        from anamnesis.readers.paths import local_path

        check_matplotlib("plot")
        if path is not None:
            write_plot(self, local_path(path), overwrite=overwrite)
        return Drawing(self)

    def _repr_html_(self) -> str:
        head = ["tensor", "SQNR", "max |error|", "cosine", "a", "b", "remark"]
        return html_table(
            f"{self.a} : {self.b}: {self.summary()}",
            head,
            map(_cells, self.rows),
            len(self.rows),
            self.notes,
        )

    def __repr__(self) -> str:
        lines = [f"<Diff {self.a!r} : {self.b!r}: {self.summary()}>"]
        width = max((len(row.tensor) for row in self.compared[:_SHOWN]), default=0)
        for row in self.compared[:_SHOWN]:
            lines.append(f"  {row.tensor!r:<{width + 2}}  {decibels(row.sqnr_db):>9}")
        if len(self.compared) > _SHOWN:
            lines.append(f"  and {len(self.compared) - _SHOWN} more, better ones")
        return "\n".join(lines)


def _cells(row: Row) -> tuple[str | None, ...]:
    """A row of the table for a notebook."""
    remark = row.why if row.status == "compared" else row.why or row.status
    if not row.sums:
        return row.tensor, "", "", "", row.scheme_a, row.scheme_b, remark
    figures = metrics(row.sums)
    worst, cosine = f"{figures['max_abs_error']:.3g}", f"{figures['cosine']:.6f}"
    return row.tensor, decibels(row.sqnr_db), worst, cosine, row.scheme_a, row.scheme_b, remark


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
