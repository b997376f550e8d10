"""The Arrow contract: record batches of raw quantised blocks, as views over what was read.

A window's first column is the payload, one row a block (a GGUF block, a matrix row, 32 bytes of
NF4; a packed line, for layouts stored in columns), as `fixed_size_binary`; per-block parameters
that align with it row by row are further columns, those that do not make a batch of their own.
Whole-tensor parameters (scale grids, group indices, codebooks) are a one-row batch of
`large_binary`. Schema metadata names the tensor, its scheme, encoding, shape and orientation; field
metadata the stored tensor, its dtype and shape. Arrays share the memory that was read.

A conversion wants none of this, so pyarrow is imported here and not where blocks are read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from anamnesis.readers.base import Component, Tensor
from anamnesis.readers.batch import Blocks, Whole


def block_batches(tensor: Tensor, blocks: Blocks) -> tuple[pa.RecordBatch, ...]:
    """The batches of one window of `tensor`, read into `blocks`; the payload's is the first."""
    groups: dict[int, list[Component]] = {}
    for component in tensor.components:
        view = blocks.views.get(component.role)
        if view is not None:
            groups.setdefault(view.shape[0], []).append(component)
    batches = []
    for rows, components in groups.items():
        columns, fields = [], []
        for component in components:
            view = blocks.views[component.role]
            kind = pa.binary(view.shape[1])
            buffers = [None, pa.py_buffer(view.reshape(-1))]
            columns.append(pa.FixedSizeBinaryArray.from_buffers(kind, rows, buffers))
            fields.append(_field(component, kind))
        schema = pa.schema(fields, metadata=_metadata(tensor))
        batches.append(pa.RecordBatch.from_arrays(columns, schema=schema))
    return tuple(batches)


def whole_batch(tensor: Tensor, wholes: Mapping[str, Whole]) -> pa.RecordBatch | None:
    """The one-row batch of the whole-tensor parameters, if there are any."""
    columns, fields = [], []
    for component in tensor.components:
        whole = wholes.get(component.role)
        if whole is None:
            continue
        data = whole.array.reshape(-1).view(np.uint8)
        buffers = [None, pa.py_buffer(np.array([0, data.nbytes], np.int64)), pa.py_buffer(data)]
        columns.append(pa.LargeBinaryArray.from_buffers(pa.large_binary(), 1, buffers))
        fields.append(_field(component, pa.large_binary()))
    if not columns:
        return None
    schema = pa.schema(fields, metadata=_metadata(tensor))
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _field(component: Component, kind: pa.DataType) -> pa.Field:
    stored = component.stored
    about = {"name": stored.name, "dtype": stored.dtype, "shape": json.dumps(stored.shape)}
    return pa.field(component.role, kind, nullable=False, metadata=about)


def _metadata(tensor: Tensor) -> dict[str, str]:
    return {
        "anamnesis.tensor": tensor.name,
        "anamnesis.scheme": tensor.scheme,
        "anamnesis.encoding": tensor.encoding,
        "anamnesis.shape": json.dumps(tensor.shape),
        "anamnesis.orientation": tensor.orientation,
    }
