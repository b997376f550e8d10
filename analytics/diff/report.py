"""A comparison as callers have it: as Python, as Arrow, as JSON, as files and pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anamnesis.analytics.diff.record import COUNTS, FIGURES, Findings, Row, decibels, finite, utf8
from anamnesis.kernels.diff import metrics

if TYPE_CHECKING:
    import pyarrow as pa

_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Diff(Findings):
    """Two checkpoints compared. `rows` begin with the compared tensors, worst first.

    Polars, DuckDB, pandas and others take it as it is: it has `__arrow_c_stream__`.
    """

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
        """Draw SQNR by layer and module type: .svg, .html or .png (extra `plot`).

        Raises UsageError as `write` does.
        """
        from anamnesis.analytics.diff.plot import write_plot
        from anamnesis.readers.paths import local_path

        write_plot(self, local_path(path), overwrite=overwrite)

    def __repr__(self) -> str:
        lines = [f"<Diff {self.a!r} : {self.b!r}: {self.summary()}>"]
        width = max((len(row.tensor) for row in self.compared[:_SHOWN]), default=0)
        for row in self.compared[:_SHOWN]:
            lines.append(f"  {row.tensor!r:<{width + 2}}  {decibels(row.sqnr_db):>9}")
        if len(self.compared) > _SHOWN:
            lines.append(f"  and {len(self.compared) - _SHOWN} more, better ones")
        return "\n".join(lines)


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
