"""Quantised tensors that are to be encoded: moved as they are, or what is in the way of that.

`kernels.transcoders` has the table of what has numbers in common with what. Numbers are moved where
the target has all of them; a target of fewer bits is encoded anew from what was recovered, which is
what quantising is; anything else would only lose, and takes `allow_requantize`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from anamnesis.errors import UsageError
from anamnesis.kernels.encoders import Form
from anamnesis.kernels.transcoders import Source
from anamnesis.names.derived import Derived
from anamnesis.pipeline.row_sources import row_sources
from anamnesis.readers.base import Tensor
from anamnesis.readers.dtypes import DTYPES
from anamnesis.words import and_more
from anamnesis.writers.base import Item

_FLAG = "--allow-requantize (output.allow_requantize)"
_SCALES = ("scale", "scales", "weight_scale")
_HELD = ("BF16", "F16", "F32")
_TORCH = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}
_NOT_BY_ROW = ("bnb-4bit", "bnb-int8", "fp8-e4m3")  # whose scales are not read with the rows


def source_of(tensor: Tensor) -> Source:
    """What the table of transcoders asks of a tensor; of a derived one, of where its rows are."""
    if isinstance(tensor, Derived):
        rows = row_sources(tensor)
        if rows is not None and rows.sources[0].encoding not in _NOT_BY_ROW:
            return source_of(rows.sources[0])._replace(shape=tensor.shape)
    return Source(
        tensor.encoding,
        tensor.scheme,
        tensor.shape,
        tensor.params,
        {c.role: c.stored.dtype for c in tensor.components},
        frozenset(c.role for c in tensor.components if c.placement.windowed),
    )


def scale_dtype(tensor: Tensor) -> str:
    """The number format of a quantised tensor's scales, where a target may have it too.

    Of bitsandbytes' four bits, the one that the quant state names.
    """
    if isinstance(tensor, Derived):
        return scale_dtype(tensor.sources[0])
    if tensor.encoding.startswith("gguf-"):
        return "F16"
    if tensor.encoding == "bnb-4bit":
        return _TORCH[tensor.params["dtype"]]
    dtypes: Mapping[str, str] = {c.role: c.stored.dtype for c in tensor.components}
    found = next((dtypes[role] for role in _SCALES if role in dtypes), tensor.out_dtype)
    return found if found in _HELD else tensor.out_dtype


def loses(tensor: Tensor, form: Form) -> bool:
    """Whether a form has as many bits an element as a quantised tensor, or more: it only loses."""
    source = tensor.sources[0] if isinstance(tensor, Derived) else tensor
    bits = 8 * source.components[0].stored.nbytes // max(1, source.elems)
    part = form.parts[0]
    size = 8 * part.block_bytes / part.block_elems if part.block_bytes else DTYPES[part.dtype].bits
    return bits <= int(math.prod(part.shape) * size) // max(1, tensor.elems)


def refuse_lossy(path: str, chosen: Iterable[tuple[str, object, str]]) -> None:
    """UsageError where quantised tensors would be quantised again; one reason of each kind.

    `chosen` are their names, targets, and why it would be lossy: "" where it is not.
    """
    reasons: dict[str, list[str]] = {}
    for name, target, why in chosen:
        if why:
            reasons.setdefault(f"{target}: {why}", []).append(name)
    if reasons:
        said = "; ".join(
            f"{names[0]:.200}{and_more(len(names))} as {why}" for why, names in reasons.items()
        )
        raise UsageError(
            f"{path}: quantised already, and not exactly what is asked for: {said}. {_FLAG} "
            "encodes their recovered values, which adds a second loss to the first"
        )


def refuse_twice(path: str, encode: str, items: Iterable[Item]) -> None:
    """UsageError when what encoding adds has the name of another tensor."""
    seen: set[str] = set()
    for item in items:
        if item.name in seen:
            raise UsageError(
                f"{path}: {encode} stores a tensor {item.name!r:.200}, and so does the input; "
                "exclude one of them"
            )
        seen.add(item.name)


def not_exact(tensor: Tensor, target: str, why: object) -> UsageError:
    """The error for numbers that turn out to be none that a target has."""
    return UsageError(
        f"{tensor.components[0].stored.file.path}: tensor {tensor.name!r:.200}: its numbers are "
        f"not exactly those of {target}: {why}. {_FLAG} encodes its recovered values"
    )
