"""The schema of the Arrow sink: the columns that dtypes need, and what the metadata lists.

BF16 is the extension type that Lance registers: `lance.bfloat16`, stored as 2 bytes of
fixed_size_binary, without metadata (https://github.com/lance-format/lance, python/python/lance/
_arrow/bf16.py). A reader that does not know the name sees the storage.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from anamnesis.errors import UnsupportedError
from anamnesis.readers.dtypes import DTYPES
from anamnesis.words import and_more
from anamnesis.writers.base import Item

if TYPE_CHECKING:
    import pyarrow as pa

BFLOAT16 = "lance.bfloat16"


def dtypes_of(items: Sequence[Item]) -> list[str]:
    """The dtypes of all items in order of appearance; BF16 when there are none.

    Raises UnsupportedError for one that Arrow has no type for.
    """
    names: dict[str, list[str]] = {}
    for item in items:
        names.setdefault(item.dtype, []).append(item.name)
    for dtype, tensors in names.items():
        if DTYPES[dtype].kind == "complex" or not DTYPES[dtype].numpy:
            more = and_more(len(tensors), 3)
            raise UnsupportedError(
                f"{', '.join(tensors[:3])}{more}: Arrow has no type for {dtype}; write "
                "safetensors, or leave these tensors out (select.exclude)"
            )
    return list(names) or ["BF16"]


def serialised(dtypes: Sequence[str], bf16: str, tensors: str) -> bytes:
    """The schema as an IPC message.

    With one dtype its column is `values`; with several they are `values_bf16`, `values_f32`, …,
    and null in the rows of tensors of another dtype.
    """
    import pyarrow as pa  # noqa: PLC0415

    one = len(dtypes) == 1
    names = pa.dictionary(pa.int32(), pa.utf8())
    fields = [
        pa.field("tensor", names, nullable=False),
        pa.field("row", pa.int64(), nullable=False),
    ]
    for dtype in dtypes:
        kind = pa.large_list(_item(dtype, bf16))
        name = "values" if one else f"values_{dtype.lower()}"
        fields.append(pa.field(name, kind, nullable=not one, metadata={"dtype": dtype}))
    schema = pa.schema(fields, metadata={"anamnesis.tensors": tensors})
    return bytes(schema.serialize().to_pybytes())


def listing(items: Sequence[Item], batches: Sequence[int], groups: Sequence[Sequence[int]]) -> str:
    """The JSON list of all tensors of all files, in their order; `batches` are their counts."""
    entries = []
    for number, group in enumerate(groups):
        first = 0
        for i in group:
            item = items[i]
            entry = {
                "name": item.name,
                "shape": item.shape,
                "dtype": item.dtype,
                "scheme": item.scheme,
                "shard": number + 1,
                "batches": (first, batches[i]),
            }
            entries.append(entry)
            first += batches[i]
    return json.dumps(entries, separators=(",", ":"), ensure_ascii=False)


def _item(dtype: str, bf16: str) -> pa.Field:
    import pyarrow as pa  # noqa: PLC0415

    if dtype != "BF16":
        kind = pa.from_numpy_dtype(np.dtype(DTYPES[dtype].numpy))
        return pa.field("item", kind, nullable=False)
    if bf16 == "uint16":
        return pa.field("item", pa.uint16(), nullable=False)
    # By its metadata, whether or not this process has the type registered.
    about = {"ARROW:extension:name": BFLOAT16, "ARROW:extension:metadata": ""}
    return pa.field("item", pa.binary(2), nullable=False, metadata=about)
