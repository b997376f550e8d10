"""A table of results as a file for other tools: Parquet, Arrow, CSV or JSON, by its suffix."""

from __future__ import annotations

import errno
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anamnesis import owned
from anamnesis.errors import UsageError
from anamnesis.writers.part import check_final, write_small

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIXES = (".arrow", ".csv", ".json", ".parquet")


def check_target(path: Path, overwrite: bool, suffixes: Sequence[str] = SUFFIXES) -> None:
    """UsageError or OSError when a file of one of these formats cannot be written to `path`."""
    if path.suffix not in suffixes:
        raise UsageError(f"{path}: the suffix says the format; allowed: {', '.join(suffixes)}")
    if not path.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path.parent))
    owned.check_place(path.parent)
    check_final(path, overwrite)


def write_table(
    path: Path,
    table: pa.Table,
    document: Mapping[str, Any],
    as_text: Mapping[str, Sequence[str]],
    *,
    overwrite: bool,
) -> None:
    """Write a file that is there whole or not at all.

    `document` is what goes into JSON; `as_text` are the columns that CSV cannot hold as they are.
    """
    check_target(path, overwrite)
    sink = io.BytesIO()
    if path.suffix == ".json":
        text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
        sink.write(text.encode() + b"\n")
    elif path.suffix == ".parquet":
        from pyarrow import parquet

        parquet.write_table(table, sink)
    elif path.suffix == ".arrow":
        from pyarrow import ipc

        with ipc.new_file(sink, table.schema) as file:
            file.write_table(table)
    else:
        _csv(table, as_text, sink)
    write_small(path, sink.getvalue())


def _csv(table: pa.Table, as_text: Mapping[str, Sequence[str]], sink: io.BytesIO) -> None:
    import pyarrow as pa
    from pyarrow import csv

    for name, values in as_text.items():
        at = table.schema.get_field_index(name)
        table = table.set_column(at, name, pa.array(values, pa.string()))
    csv.write_csv(table, sink)
