"""A model as one stream of record batches: raw blocks with their scales, or decoded rows.

| raw blocks | type | |
|---|---|---|
| `tensor`, `scheme` | dictionary of utf8 | name; `gguf-q4-k`, `fp8-block`, `passthrough`, … |
| `component` | dictionary of utf8 | the stored part: `payload`, or as the format calls it |
| `block` | int64 | number of the row among those of tensor and component |
| `row`, `col` | int64 | where its first element is, in a matrix of `shape[-1]` columns |
| `elems` | int64 | elements it stands for |
| `scale`, `minimum`, `zero` | float32 | what is stored once a block: d, absmax, …; m or dmin |
| `scales`, `minimums` | list of float32 | what run j of equal length is made with |
| `payload` | large_binary | its bytes, views over what was read |

    value = scales[j] * (code - zero) + minimums[j]

What a format lacks is null. GPTQ, and AWQ by outputs, keep codes of many blocks in one word: their
blocks are rows of the component `scales`, without a payload, and the lines of words are rows of
`qweight`, without numbers and a place.

Decoded rows are `tensor`, `scheme`, `row`, `col` and `values`, a large_list: float32, or the bits
of BF16 as uint16, since no engine has that type and all of them compute with integers. A row is one
of the tensor seen as a matrix, cut after 262,144 elements (then `col` is not 0). Lists beat one
value a row: a fifth of the memory, statistics of a row without a GROUP BY, and `unnest` still gives
the long form.

Names are dictionary-encoded with one dictionary for the scan; Polars refuses run-end encoding.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import ml_dtypes
import numpy as np
import pyarrow as pa

from anamnesis.analytics.scan.rows import LONGEST, NUMBERS, Columns, Parts, Section
from anamnesis.analytics.scan.sections import sections
from anamnesis.errors import LimitError, UnsupportedError, UsageError
from anamnesis.keywords import wrong_word
from anamnesis.limits import Limits, MiB
from anamnesis.pipeline.ahead import Ahead
from anamnesis.pipeline.plan import Step, charge_tensor, step_for, with_dtype
from anamnesis.pipeline.reading import MOST_BYTES, reading
from anamnesis.pipeline.values import Values
from anamnesis.pipeline.windows import files_of
from anamnesis.pipeline.work import Loosely, Task, pack
from anamnesis.readers.base import Tensor
from anamnesis.readers.batch import OpenFile
from anamnesis.readers.dtypes import DTYPES
from anamnesis.readers.files import Files
from anamnesis.sizes import enough
from anamnesis.words import did_you_mean, meant

MEMORY = 64 * MiB  # what a scan holds by itself
BATCH_BYTES = 16 * MiB  # at most; larger ones are no faster

_NAME = pa.dictionary(pa.int32(), pa.utf8())
_FLOATS = pa.list_(pa.field("item", pa.float32(), nullable=False))
RAW = pa.schema(
    [
        pa.field("tensor", _NAME, nullable=False),
        pa.field("scheme", _NAME, nullable=False),
        pa.field("component", _NAME, nullable=False),
        pa.field("block", pa.int64(), nullable=False),
        pa.field("row", pa.int64()),
        pa.field("col", pa.int64()),
        pa.field("elems", pa.int64()),
        *(pa.field(name, pa.float32()) for name in ("scale", "minimum", "zero")),
        *(pa.field(name, _FLOATS) for name in ("scales", "minimums")),
        pa.field("payload", pa.large_binary()),
    ]
)
_ITEMS = {"F32": pa.float32(), "BF16": pa.uint16()}


def decoded_schema(dtype: str) -> pa.Schema:
    """The columns of decoded rows; `dtype` is `F32` or `BF16`."""
    item = pa.field("item", _ITEMS[dtype], nullable=False)
    values = pa.field("values", pa.large_list(item), nullable=False, metadata={"dtype": dtype})
    place = [pa.field(name, pa.int64(), nullable=False) for name in ("row", "col")]
    return pa.schema([RAW.field("tensor"), RAW.field("scheme"), *place, values])


def scan_reader(
    tensors: Sequence[Tensor],
    columns: Sequence[str] | None = None,
    decode: str | None = None,
    memory: int | None = None,
    limits: Limits | None = None,
) -> pa.RecordBatchReader:
    """The tensors of a model as one stream; nothing is read that no column needs.

    `memory` bytes are what the stream holds: buffers, the batch being made and the one before, and
    what is fetched ahead from behind URLs, for which half of it is (of more than 128 MiB, 64 MiB).
    Raises UsageError for columns that do not exist, LimitError when a tensor is over `limits` or a
    row of it does not fit, UnsupportedError for complex numbers to decode; all before any reading.
    """
    if decode not in (None, "bf16", "f32"):
        raise UsageError(f"decode: {wrong_word(decode, ('bf16', 'f32'))}; None is raw blocks")
    schema = RAW if decode is None else decoded_schema(decode.upper())
    schema = _project(schema, columns)
    budget = MEMORY if memory is None else memory
    for tensor in tensors:
        charge_tensor(tensor, limits or Limits())
    make: _Stream
    if decode is None:
        make = _Raw(tensors, schema, budget)
    else:
        make = _Decoded(tensors, schema, budget, decode.upper())
    make.check()
    return pa.RecordBatchReader.from_batches(schema, make.batches())


def _project(schema: pa.Schema, columns: Sequence[str] | None) -> pa.Schema:
    if columns is None:
        return schema
    unknown = [name for name in columns if name not in schema.names]
    if unknown or not columns or len(set(columns)) < len(columns):
        decoded = (
            "; 'values' come with decode='f32'" if schema is RAW and "values" in unknown else ""
        ) or did_you_mean(meant(unknown[0], schema.names) if unknown else [], "; ")
        raise UsageError(
            f"columns: {', '.join(map(repr, unknown or columns)) or 'none'}; allowed is each of "
            f"{', '.join(schema.names)} once{decoded}"
        )
    return pa.schema([schema.field(name) for name in columns])


class _Stream:
    """What both kinds of stream share: files, names and the budget."""

    def __init__(self, tensors: Sequence[Tensor], schema: pa.Schema, memory: int) -> None:
        self._tensors, self._schema, self._memory = tensors, schema, memory
        self._remote = reading(c.stored.file.path for t in tensors for c in t.components).each > 0
        self._wanted = frozenset(schema.names)
        self._names: dict[str, dict[str, int]] = {
            "tensor": {t.name: i for i, t in enumerate(tensors)},
            "scheme": {s: i for i, s in enumerate(sorted({t.scheme for t in tensors}))},
            "component": {
                r: i for i, r in enumerate(sorted({c.role for t in tensors for c in t.components}))
            },
        }
        self._dictionaries = {key: pa.array(d, pa.utf8()) for key, d in self._names.items()}

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The whole stream; files are open while it runs, or a part of it from behind URLs."""
        if self._ahead_bytes:
            yield from self._fetched_ahead()
            return
        files = Files()
        try:
            for tensor in self._tensors:
                yield from self.of_tensor(tensor, files)
            files.check_unchanged()
        finally:
            files.close()

    def _fetched_ahead(self) -> Iterator[pa.RecordBatch]:
        pieces = (Loosely(step_for(tensor), 0, tensor.units) for tensor in self._tensors)
        groups = enumerate(pack(pieces, BATCH_BYTES))
        most = self._ahead_bytes
        tasks = [Task(f"scan-{n:06d}", group, 0, 0, ahead_bytes=most) for n, group in groups]
        ahead = Ahead(tasks, 1)
        left = iter(self._tensors)
        try:
            for task in tasks:
                with files_of(task, ahead) as files:
                    for tensor in islice(left, len(task.pieces)):
                        yield from self.of_tensor(tensor, files)
        finally:
            ahead.blocks.close()

    @property
    def _ahead_bytes(self) -> int:
        """Of `memory`, what is fetched ahead."""
        return min(MOST_BYTES, self._memory // 2) if self._remote and self.reads_all else 0

    @property
    def reads_all(self) -> bool:
        """Whether the columns that are wanted need about all that is stored."""
        raise NotImplementedError

    def of_tensor(self, tensor: Tensor, open_file: OpenFile) -> Iterator[pa.RecordBatch]:
        raise NotImplementedError

    def _repeated(self, key: str, value: str, count: int) -> Any:
        indices = pa.array(np.full(count, self._names[key][value], np.int32))
        return pa.DictionaryArray.from_arrays(indices, self._dictionaries[key])

    def check(self) -> None:
        """Raise what can be known before reading."""
        raise NotImplementedError

    def _rows(self, tensor: Tensor, row_bytes: int, held: int, multiple: int) -> int:
        """Rows a batch: two batches and the `held` bytes are within seven eighths of the budget.

        The last eighth is for what the allocator does not give back at once.
        """
        memory = self._memory - self._ahead_bytes
        room = (memory - memory // 8 - held) // 2
        if row_bytes > room:
            least = held + 2 * row_bytes
            need = least + (least - 1) // 7
            need += min(need, MOST_BYTES) if self._ahead_bytes else 0
            raise LimitError(
                f"{tensor.name}: a row and what it is made of need {need:,} bytes, scan's memory "
                f"is {self._memory:,}: set it to at least {enough(need)}",
                limit="memory",
                need=need,
                have=self._memory,
            )
        rows = max(1, min(room, BATCH_BYTES) // row_bytes)
        return rows // multiple * multiple or rows


class _Raw(_Stream):
    @property
    def reads_all(self) -> bool:
        return "payload" in self._wanted

    def check(self) -> None:
        for tensor in self._tensors:
            for section in sections(Parts(tensor, Files())):
                self._rows_of(tensor, section)

    def of_tensor(self, tensor: Tensor, open_file: OpenFile) -> Iterator[pa.RecordBatch]:
        parts = Parts(tensor, open_file)
        for section in sections(parts):
            rows = self._rows_of(tensor, section)
            for start, stop in _ranges(section.rows, rows, section.multiple):
                found = self._columns(section, start, stop)
                named = {
                    "tensor": tensor.name,
                    "scheme": tensor.scheme,
                    "component": section.component,
                }
                for key in self._wanted & named.keys():
                    found[key] = self._repeated(key, named[key], stop - start)
                arrays = [_array(found.get(f.name), f.type, stop - start) for f in self._schema]
                yield pa.RecordBatch.from_arrays(arrays, schema=self._schema)
        parts.check()

    def _rows_of(self, tensor: Tensor, section: Section) -> int:
        # Numbers are made in a few steps, so they are counted twice.
        row_bytes = 2 * section.row_bytes(self._wanted) + 12 * len(self._wanted)
        return self._rows(tensor, row_bytes, 0, section.multiple)

    def _columns(self, section: Section, start: int, stop: int) -> Columns:
        found: Columns = {}
        if self._wanted & {"row", "col", "elems"}:
            found |= section.place(start, stop)
        if self._wanted & {"payload", *NUMBERS}:
            found |= section.read(start, stop, self._wanted)
        if "scales" in self._wanted and "scale" in found and "scales" not in found:
            found["scales"] = found["scale"][:, None]
        if "block" in self._wanted:
            found["block"] = np.arange(start, stop, dtype=np.int64)
        return found


class _Decoded(_Stream):
    def __init__(
        self, tensors: Sequence[Tensor], schema: pa.Schema, memory: int, dtype: str
    ) -> None:
        super().__init__(tensors, schema, memory)
        self._dtype = dtype
        self._values = schema.field("values").type if "values" in schema.names else None

    @property
    def reads_all(self) -> bool:
        return self._values is not None

    def check(self) -> None:
        for tensor in self._tensors:
            if DTYPES[tensor.out_dtype].kind not in ("float", "int", "bool"):
                raise UnsupportedError(f"{tensor.name}: {tensor.out_dtype} is no real number")
            if tensor.elems:
                self._rows_of(tensor, self._step(tensor))

    def of_tensor(self, tensor: Tensor, open_file: OpenFile) -> Iterator[pa.RecordBatch]:
        if not tensor.elems:
            return
        columns = tensor.shape[-1] if tensor.shape else 1
        pieces = -(-columns // LONGEST)
        total = tensor.elems // columns * pieces
        step = self._step(tensor)
        rows = self._rows_of(tensor, step)
        values = Values(step.tensor, open_file, step) if step else None
        for start in range(0, total, rows):
            stop = min(start + rows, total)
            row, piece = np.divmod(np.arange(start, stop + 1, dtype=np.int64), pieces)
            first = row * columns + piece * LONGEST
            found: Columns = {"row": row[:-1], "col": piece[:-1] * LONGEST}
            if values is not None:
                out = self._fill(values, int(first[0]), int(first[-1] - first[0]))
                found["values"] = pa.LargeListArray.from_arrays(
                    pa.array(first - first[0]), pa.array(out), type=self._values
                )
            for key, text in (("tensor", tensor.name), ("scheme", tensor.scheme)):
                if key in self._wanted:
                    found[key] = self._repeated(key, text, stop - start)
            arrays = [_array(found[f.name], f.type, stop - start) for f in self._schema]
            yield pa.RecordBatch.from_arrays(arrays, schema=self._schema)
        if values is not None:
            values.check()

    def _rows_of(self, tensor: Tensor, step: Step | None) -> int:
        columns = tensor.shape[-1] if tensor.shape else 1
        # A whole number of units a batch, if it fits: nothing is then decoded twice.
        span = tensor.unit_elems * tensor.unit_multiple
        multiple = -(-columns // LONGEST) * (span // math.gcd(span, columns))
        row_bytes = min(columns, LONGEST) * (2 if self._dtype == "BF16" else 4) + 64
        return self._rows(tensor, row_bytes, step.memory_bytes if step else 0, multiple)

    def _step(self, tensor: Tensor) -> Step | None:
        """The window sizes, with buffers of at most half the budget where that can be."""
        if self._values is None:
            return None
        if DTYPES[tensor.out_dtype].kind == "float":
            tensor = with_dtype(tensor, self._dtype)
        step = step_for(tensor)
        windows = step.batch_units // max(1, step.window_units)
        excess = step.memory_bytes - (self._memory - self._ahead_bytes) // 2
        if excess <= 0 or windows < 2:
            return step
        each = sum(c.window_bytes(step.window_units) for c in tensor.components)
        fewer = max(1, windows - -(-excess // max(1, each)))
        held = step.memory_bytes - (windows - fewer) * each
        return replace(step, batch_units=fewer * step.window_units, memory_bytes=held)

    def _fill(self, values: Values, first: int, count: int) -> Any:
        out = np.empty(count, values.dtype)
        values.fill(first, out)
        if DTYPES[values.tensor.out_dtype].kind == "float":
            return out
        numbers = out.astype(np.float32)
        if self._dtype == "BF16":
            return numbers.astype(ml_dtypes.bfloat16).view(np.uint16)
        return numbers


def _ranges(total: int, rows: int, multiple: int) -> Iterator[tuple[int, int]]:
    """Batches of `rows` rows; where they are shorter than `multiple`, none goes over one."""
    whole = max(rows, multiple)
    for first in range(0, total, whole):
        for start in range(first, min(first + whole, total), rows):
            yield start, min(start + rows, first + whole, total)


def _array(found: Any, kind: pa.DataType, count: int) -> Any:
    """A column: nulls, an Arrow array as it is, or a view over numpy's memory."""
    if found is None:
        return pa.nulls(count, kind)
    if isinstance(found, pa.Array):
        return found
    if not pa.types.is_list(kind):
        return pa.array(found, kind)
    flat = np.ascontiguousarray(found, np.float32).reshape(-1)
    offsets = np.arange(count + 1, dtype=np.int32) * np.int32(found.shape[1])
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat), type=kind)


__all__ = ["RAW", "decoded_schema", "scan_reader"]
