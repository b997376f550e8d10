"""Tensors of Hugging Face that a GGUF has as arrays among its key/values, one number a layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from anamnesis.errors import FormatError
from anamnesis.limits import Limits
from anamnesis.readers.base import Stored, Tensor
from anamnesis.readers.gguf_fields import find_array
from anamnesis.readers.gguf_types import FLOAT32
from anamnesis.readers.llamafile import open_inside
from anamnesis.readers.model import Model
from anamnesis.readers.schemes.passthrough import dense

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
                yield dense(Stored(f"{key}.{layer}", "F32", shape, file, at, _ITEM_BYTES))
