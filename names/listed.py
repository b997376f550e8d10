"""Tensors that a GGUF has as arrays among its key/values, one number a layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from anamnesis.errors import FormatError
from anamnesis.limits import Limits
from anamnesis.readers.base import Stored, Tensor, View
from anamnesis.readers.gguf_fields import find_array
from anamnesis.readers.gguf_types import ARRAY, FLOAT32, KeyValue
from anamnesis.readers.llamafile import open_inside
from anamnesis.readers.model import Model
from anamnesis.readers.raw import open_raw
from anamnesis.readers.schemes.passthrough import dense
from anamnesis.readers.source import open_source

_ITEM_BYTES = 4


def listed_tensors(model: Model, arrays: Mapping[str, int]) -> Iterator[Tensor]:
    """Tensors `KEY.LAYER` of one number, of as many dimensions as `arrays` says of the key.

    They lie in the header of the file. Raises FormatError where an array is not of float32, or not
    of one number a layer; keys that are not there give none.
    """
    layers = model.metadata.get(f"{model.metadata.get('general.architecture')}.block_count")
    file = model.files[0]
    with open_inside(file.path, Limits()) as source:
        for key, rank in arrays.items():
            found = find_array(source, key, Limits())
            if found is None:
                continue
            if found.item_type != FLOAT32 or found.items != layers:
                raise FormatError(
                    f"{file.path}: {key}: {found.items:,} items of type {found.item_type}; it must "
                    f"have {layers} of float32 ({FLOAT32}), one a layer"
                )
            for layer in range(found.items):
                at = source.base + found.offset + layer * _ITEM_BYTES
                shape = (1,) * rank
                view = View(swap=_ITEM_BYTES) if found.big_endian else None
                yield dense(Stored(f"{key}.{layer}", "F32", shape, file, at, _ITEM_BYTES, view))


def listed_values(
    tensors: Sequence[Tensor], arrays: Mapping[str, int]
) -> tuple[list[Tensor], dict[str, KeyValue]]:
    """The way back: the tensors without those of `arrays`, and the arrays that these make.

    Raises FormatError for one that is not a number, or not stored as it is.
    """
    kept, numbers = [], dict[str, list[float]]()
    for tensor in tensors:
        key = tensor.name.rpartition(".")[0]
        if key in arrays:
            numbers.setdefault(key, []).append(_number(tensor))
        else:
            kept.append(tensor)
    return kept, {key: KeyValue(ARRAY, found, FLOAT32) for key, found in numbers.items()}


def _number(tensor: Tensor) -> float:
    """The one number of a tensor."""
    stored = tensor.components[0].stored
    width = {"BF16": 2, "F16": 2, "F32": 4}.get(stored.dtype)
    if tensor.elems != 1 or width != stored.nbytes:
        raise FormatError(
            f"{stored.file.path}: tensor {stored.name!r:.200}: {stored.dtype} of "
            f"{list(stored.shape)}; it must be one number of BF16, F16 or F32, which llama.cpp has "
            "among its key/values"
        )
    data = np.zeros(4, np.uint8)
    room = data[2:] if stored.dtype == "BF16" else data[:width]  # BF16 is the upper half of F32
    with open_source(stored.file.path) as file:
        open_raw(stored, file).read_into(0, room)
    return float(data[:2].view("<f2")[0] if stored.dtype == "F16" else data.view("<f4")[0])
