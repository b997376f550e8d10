"""A comparison as a file that other tools read: Parquet, Arrow, CSV or JSON, by its suffix."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from anamnesis.errors import UsageError
from anamnesis.pipeline.diff_report import Diff
from anamnesis.writers.part import check_final, write_small

SUFFIXES = (".arrow", ".csv", ".json", ".parquet")


def check_target(path: Path, suffixes: Sequence[str], overwrite: bool) -> None:
    """UsageError when a file of one of these formats cannot be written to `path`."""
    if path.suffix not in suffixes:
        raise UsageError(f"{path}: the suffix says the format; allowed: {', '.join(suffixes)}")
    if not path.parent.is_dir():
        raise UsageError(f"{path}: the folder {path.parent} is not there")
    check_final(path, overwrite)


def write_table(found: Diff, path: Path, *, overwrite: bool) -> None:
    """Write a file that is there whole or not at all."""
    check_target(path, SUFFIXES, overwrite)
    write_small(path, _encode(found, path.suffix))


def _encode(found: Diff, suffix: str) -> bytes:
    if suffix == ".json":
        return (json.dumps(found.to_dict(), indent=2, ensure_ascii=False) + "\n").encode()
    table = found.to_arrow()
    sink = io.BytesIO()
    if suffix == ".parquet":
        import pyarrow.parquet as pq

        pq.write_table(table, sink)
    elif suffix == ".arrow":
        import pyarrow as pa

        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
    else:
        import pyarrow as pa
        import pyarrow.csv

        shapes: Any = ["x".join(map(str, shape)) for shape in table["shape"].to_pylist()]
        flat = table.set_column(
            table.schema.get_field_index("shape"), "shape", pa.array(shapes, pa.string())
        )
        pyarrow.csv.write_csv(flat, sink)
    return sink.getvalue()
