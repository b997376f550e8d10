"""A tensor's values in memory, and its raw blocks as record batches, outside of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pyarrow as pa

from anamnesis.limits import MiB
from anamnesis.pipeline.decode import OUT, decode_function
from anamnesis.pipeline.members import check_tensor
from anamnesis.pipeline.plan import step_for
from anamnesis.readers.base import Tensor
from anamnesis.readers.batch import BlockReader, OpenFile, iter_windows
from anamnesis.readers.dtypes import DTYPES
from anamnesis.readers.files import Files
from anamnesis.readers.model import Model

SCAN_SCHEMA = pa.schema(
    [
        pa.field("tensor", pa.string(), nullable=False),
        pa.field("scheme", pa.string(), nullable=False),
        pa.field("component", pa.string(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("data", pa.large_binary(), nullable=False),
    ]
)


def to_numpy(tensor: Tensor, open_file: OpenFile) -> Any:
    """All values of a tensor in one owned array of its output shape."""
    step = step_for(tensor)
    out = np.empty(tensor.elems, OUT.get(step.dtype) or DTYPES[step.dtype].numpy)
    reader = BlockReader(tensor, open_file, reuse=True)
    decode = decode_function(step, reader)
    for batch in iter_windows(tensor, step.batch_units):
        blocks = reader.read(batch)
        for window in iter_windows(tensor, step.window_units, batch.start, batch.stop):
            values = decode(reader.within(blocks, batch, window), window).view(out.dtype)
            first = window.start * tensor.unit_elems
            out[first : first + len(values)] = values
    check_tensor(tensor, reader.spans(), open_file)
    if step.dtype == "BF16":
        out = out.view(ml_dtypes.bfloat16)
    if step.dtype == "BOOL":
        out = out.view(np.bool_)
    return out.reshape(tensor.shape)


def raw_batches(tensor: Tensor, open_file: OpenFile, max_bytes: int) -> Iterator[pa.RecordBatch]:
    """The raw blocks of a tensor; every batch owns its memory."""
    reader = BlockReader(tensor, open_file, reuse=False)
    wholes, _ = reader.wholes()
    if wholes is not None:
        yield wholes
    step = step_for(tensor)
    per_unit = max(1, tensor.stored_bytes // max(1, tensor.units))
    units = max(1, max_bytes // per_unit // tensor.unit_multiple) * tensor.unit_multiple
    for window in iter_windows(tensor, min(units, step.batch_units)):
        yield from reader.read(window).batches
    check_tensor(tensor, reader.spans(), open_file)


def scan_reader(model: Model) -> pa.RecordBatchReader:
    """The raw blocks of a model's tensors as one stream under one schema."""

    def generate() -> Iterator[pa.RecordBatch]:
        files = Files()
        try:
            for tensor in model.tensors:
                rows: dict[str, int] = {}
                for batch in raw_batches(tensor, files, MiB):
                    for column, field in zip(batch.columns, batch.schema, strict=True):
                        first = rows.get(field.name, 0)
                        rows[field.name] = first + len(column)
                        yield _scan_batch(tensor, field.name, column, first)
            files.check_unchanged()
        finally:
            files.close()

    return pa.RecordBatchReader.from_batches(SCAN_SCHEMA, generate())


def _scan_batch(tensor: Tensor, component: str, column: pa.Array, first: int) -> pa.RecordBatch:
    count = len(column)
    if pa.types.is_large_binary(column.type):
        data = column
    else:
        width = column.type.byte_width
        offsets = pa.py_buffer(np.arange(0, (count + 1) * width, width, dtype=np.int64))
        buffers = [None, offsets, column.buffers()[1]]
        data = pa.LargeBinaryArray.from_buffers(pa.large_binary(), count, buffers)
    repeat: Callable[[str], pa.Array] = lambda text: pa.repeat(pa.scalar(text), count)  # noqa: E731
    return pa.RecordBatch.from_arrays(
        [
            repeat(tensor.name),
            repeat(tensor.scheme),
            repeat(component),
            pa.array(np.arange(first, first + count, dtype=np.int64)),
            data,
        ],
        schema=SCAN_SCHEMA,
    )
