"""Importance matrices in a run that encodes: which tensors have weights, and who has to.

The rules are those of llama.cpp's `llama-quantize` (src/llama-quant.cpp): a tensor without an entry
is encoded without weights, but for types so small that nothing good comes of it; an entry of
another size is an error, but for token embeddings.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from anamnesis.errors import UsageError
from anamnesis.kernels.encoders import ENCODERS
from anamnesis.pipeline.mixtures import EMBEDDINGS
from anamnesis.readers.gguf_types import STRING, KeyValue
from anamnesis.readers.imatrix_entry import Entry, Imatrix
from anamnesis.readers.source import public_name
from anamnesis.words import and_more

if TYPE_CHECKING:
    from anamnesis.readers.batch import OpenFile

_UINT32 = 4
_TEXT_BYTES = 127  # of a text that llama.cpp writes
_FLAG = "--imatrix (output.imatrix)"


@dataclass(frozen=True, slots=True)
class Weights:
    """What the columns of a tensor's matrices count: `columns` for each of them, from a file.

    `digest` is that of the whole file, by which a run is known.
    """

    entry: Entry
    columns: int
    digest: str


class OpenWeights:
    """The weights of one matrix after another, of which one is held."""

    def __init__(self, weights: Weights, open_file: OpenFile) -> None:
        self._weights, self._open = weights, open_file
        self._number, self._held = -1, None

    def __call__(self, matrix: int) -> Any:
        """The weights of the columns of a matrix: float32."""
        if matrix != self._number:
            entry, columns = self._weights.entry, self._weights.columns
            self._held = entry.means(self._open(entry.file), matrix * columns, columns)
            self._number = matrix
        return self._held


def weights_of(imatrix: Imatrix, name: str, shape: tuple[int, ...]) -> Weights | None:
    """The weights of a tensor of a GGUF's name and shape; None where there are none for it.

    Raises UsageError for an entry of another size.
    """
    entry = imatrix.entries.get(name)
    if entry is None:
        return None
    wanted = shape[-1] * math.prod(shape[:-2])
    if entry.count == wanted and len(shape) > 1:
        return Weights(entry, shape[-1], imatrix.digest)
    if name in EMBEDDINGS:
        return None
    raise UsageError(
        f"{imatrix.path}: importance matrix: {name!r:.200} has {entry.count:,} numbers, and a "
        f"tensor of shape {list(shape)} takes {wanted:,}; it is of another model"
    )


def takes_weights(target: str) -> bool:
    """Whether an encoder has a use for weights."""
    return bool(ENCODERS[target].weights)


def needs_weights(target: str, name: str, mixture: str) -> bool:
    """Whether a tensor is not to be encoded without weights, under a mixture or none."""
    kind = ENCODERS[target].weights
    if name in (*EMBEDDINGS, "output.weight"):
        return kind == "needed"
    return kind in ("needed", "wanted") or (target == "gguf-q2-k" and mixture == "Q2_K_S")


def refuse_unweighted(
    path: str, imatrix: Imatrix | None, needing: Iterable[tuple[str, str]]
) -> None:
    """UsageError where tensors, names with their targets, have no weights and need them."""
    found = list(needing)
    if not found:
        return
    (name, target), count = found[0], len(found)
    others = and_more(count)
    where = f"{imatrix.path} has none for it" if imatrix else f"give one, {_FLAG}"
    raise UsageError(
        f"{path}: {name!r:.200}{others}: {target} requires an importance matrix, without which the "
        f"result is of no use: {where}"
    )


def unweighted_note(imatrix: Imatrix, names: Iterable[str]) -> str:
    """The remark on tensors that an importance matrix has nothing of; empty for none."""
    found = list(names)
    if not found:
        return ""
    return (
        f"{len(found)} tensor(s), {found[0]} first, are encoded without weights: "
        f"{public_name(imatrix.path)} has none for them"
    )


def key_values_of(imatrix: Imatrix) -> dict[str, KeyValue]:
    """What llama.cpp writes into a GGUF that was made with an importance matrix."""
    found = {"quantize.imatrix.file": KeyValue(STRING, _short(public_name(imatrix.path)))}
    if imatrix.datasets:
        found["quantize.imatrix.dataset"] = KeyValue(STRING, _short(imatrix.datasets[0]))
    found["quantize.imatrix.entries_count"] = KeyValue(_UINT32, len(imatrix.entries))
    if imatrix.chunks:
        found["quantize.imatrix.chunks_count"] = KeyValue(_UINT32, imatrix.chunks)
    return found


def _short(text: str) -> str:
    return text.encode()[:_TEXT_BYTES].decode(errors="ignore")
