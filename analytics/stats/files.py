"""Statistics as an Arrow table, as JSON, and as files.

| suffix | shape | exponents |
|---|---|---|
| .parquet, .arrow | list of int64 | list of struct (exponent int16, count int64) |
| .csv | `4096x4096`, `scalar` | `-7:1024 -6:2048` |
| .json | list | object, exponent to count |

A value that is not there is null, and nothing between two commas in CSV.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from anamnesis.analytics.stats.record import Figures, TensorStats
from anamnesis.analytics.table_files import write_table

_BIN = pa.struct(
    [
        pa.field("exponent", pa.int16(), nullable=False),
        pa.field("count", pa.int64(), nullable=False),
    ]
)
SCHEMA = pa.schema(
    [
        pa.field("tensor", pa.string(), nullable=False),
        pa.field("shape", pa.list_(pa.int64()), nullable=False),
        pa.field("scheme", pa.string(), nullable=False),
        pa.field("dtype", pa.string(), nullable=False),
        pa.field("elements", pa.int64(), nullable=False),
        pa.field("stored_bytes", pa.int64(), nullable=False),
        pa.field("min", pa.float64()),
        pa.field("max", pa.float64()),
        pa.field("mean", pa.float64()),
        pa.field("std", pa.float64()),
        pa.field("absmax", pa.float64()),
        pa.field("zeros", pa.int64(), nullable=False),
        pa.field("nans", pa.int64(), nullable=False),
        pa.field("infs", pa.int64(), nullable=False),
        pa.field("exponents", pa.list_(_BIN), nullable=False),
        pa.field("scale_min", pa.float64()),
        pa.field("scale_max", pa.float64()),
        pa.field("xxh3", pa.string(), nullable=False),
    ]
)


def to_arrow(found: Figures) -> pa.Table:
    """One row a tensor."""
    columns = []
    for field in SCHEMA:
        values = [getattr(row, field.name) for row in found.rows]
        if field.name == "tensor":
            values = [_utf8(value) for value in values]
        elif field.name == "exponents":
            values = [[{"exponent": e, "count": c} for e, c in value] for value in values]
        columns.append(pa.array(values, field.type))
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def to_dict(found: Figures) -> dict[str, Any]:
    """The JSON document."""
    return {
        "path": _utf8(found.path),
        "container": found.container,
        "tensors": len(found.rows),
        "elements": sum(row.elements for row in found.rows),
        "stored_bytes": sum(row.stored_bytes for row in found.rows),
        "entries": [_entry(row) for row in found.rows],
    }


def _entry(row: TensorStats) -> dict[str, Any]:
    entry: dict[str, Any] = {name: getattr(row, name) for name in SCHEMA.names}
    entry["tensor"] = _utf8(row.tensor)
    entry["shape"] = list(row.shape)
    entry["exponents"] = {str(e): count for e, count in row.exponents}
    return entry


def write(found: Figures, path: Path, *, overwrite: bool) -> None:
    """Write a file that is there whole or not at all; its suffix says the format."""
    as_text = {
        "shape": ["x".join(map(str, row.shape)) or "scalar" for row in found.rows],
        "exponents": [" ".join(f"{e}:{n}" for e, n in row.exponents) for row in found.rows],
    }
    write_table(path, to_arrow(found), to_dict(found), as_text, overwrite=overwrite)


def _utf8(text: str) -> str:
    """Text that UTF-8 can hold: what a file calls its things may be half of a surrogate pair."""
    return text.encode("utf-8", "backslashreplace").decode()
