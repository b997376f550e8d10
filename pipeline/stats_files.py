"""Statistics as an Arrow table, as JSON, and as files.

| suffix | shape | exponents |
|---|---|---|
| .parquet, .arrow | list of int64 | list of struct (exponent int16, count int64) |
| .csv | `4096x4096`, `scalar` | `-7:1024 -6:2048` |
| .json | list | object, exponent to count |

A value that is not there is null, and nothing between two commas in CSV.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from anamnesis.errors import UsageError
from anamnesis.writers.part import check_final, write_small

if TYPE_CHECKING:
    from anamnesis.pipeline.stats import Stats, TensorStats

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


def to_arrow(found: Stats) -> pa.Table:
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


def to_dict(found: Stats) -> dict[str, Any]:
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


def check_target(path: Path, overwrite: bool) -> None:
    """UsageError or OSError when statistics cannot be written to `path`."""
    if path.suffix not in _FORMATS:
        raise UsageError(f"{path}: the suffix says the format; allowed: {', '.join(_FORMATS)}")
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path.parent))
    check_final(path, overwrite)


def write(found: Stats, path: Path, *, overwrite: bool) -> None:
    """Write a file that is there whole or not at all."""
    check_target(path, overwrite)
    write_small(path, _FORMATS[path.suffix](found))


def _arrow(found: Stats) -> bytes:
    sink = BytesIO()
    with pa.ipc.new_file(sink, SCHEMA) as file:
        file.write_table(to_arrow(found))
    return sink.getvalue()


def _parquet(found: Stats) -> bytes:
    from pyarrow import parquet

    sink = BytesIO()
    parquet.write_table(to_arrow(found), sink)
    return sink.getvalue()


def _csv(found: Stats) -> bytes:
    from pyarrow import csv

    table = to_arrow(found)
    shapes = ["x".join(map(str, row.shape)) or "scalar" for row in found.rows]
    bins = [" ".join(f"{e}:{count}" for e, count in row.exponents) for row in found.rows]
    for name, values in (("shape", shapes), ("exponents", bins)):
        at = table.schema.get_field_index(name)
        table = table.set_column(at, name, pa.array(values, pa.string()))
    sink = BytesIO()
    csv.write_csv(table, sink)
    return sink.getvalue()


def _json(found: Stats) -> bytes:
    return (
        json.dumps(to_dict(found), indent=2, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    )


def _utf8(text: str) -> str:
    """Text that UTF-8 can hold: what a file calls its things may be half of a surrogate pair."""
    return text.encode("utf-8", "backslashreplace").decode()


_FORMATS: dict[str, Callable[[Stats], bytes]] = {
    ".arrow": _arrow,
    ".csv": _csv,
    ".json": _json,
    ".parquet": _parquet,
}
