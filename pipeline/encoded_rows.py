"""What is recorded of tensors that were encoded: all that has to be known to do it again.

A row says what was chosen, with every setting, and not what was asked for: a policy, or a default,
that another version has changes nothing of what an output is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import msgspec

from anamnesis.errors import FormatError
from anamnesis.kernels.encoders import ENCODERS, Key, Setting, former
from anamnesis.pipeline.encoding import EncodedPiece
from anamnesis.pipeline.importance import weights_of
from anamnesis.pipeline.targets import ENCODABLE, Choice, Target
from anamnesis.pipeline.transcode import scale_dtype
from anamnesis.pipeline.work import Task
from anamnesis.readers.base import Tensor
from anamnesis.readers.imatrix_entry import Imatrix


class EncodedRow(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """How a tensor was encoded.

    `dtype` is that of the values that went in; `moved` and `requantize` are those of `Encoded`.
    `imatrix` is the digest of the importance matrix, where the tensor has weights.
    """

    tensor: str
    target: str
    dtype: str
    settings: dict[str, bool | int | str]
    moved: bool = False
    requantize: bool = False
    imatrix: str = ""

    def choice(self, tensor: Tensor, imatrix: Imatrix | None = None) -> Choice:
        """The choice that was made for a tensor, which has `dtype`; its loss is known already.

        Raises `kernels.encoders.Unfit` where the layout cannot hold a tensor of that shape.
        """
        held = scale_dtype(tensor) if self.moved else self.dtype
        form = former(self.target)(tensor.name, tensor.shape, held, self.settings)
        target = Target(self.target, self.settings)
        found = Choice(target, form, moved=self.moved, requantize=self.requantize, skip_loss=True)
        if self.imatrix and imatrix is not None:
            return replace(found, weights=weights_of(imatrix, tensor.name, tensor.shape))
        return found


def encoded_rows(tasks: Iterable[Task]) -> list[EncodedRow]:
    """A row for each tensor that the tasks encode, in their order."""
    found: dict[str, EncodedRow] = {}
    for task in tasks:
        for piece in task.pieces:
            if isinstance(piece, EncodedPiece) and piece.step.tensor.name not in found:
                found[piece.step.tensor.name] = _row(piece)
    return list(found.values())


def _row(piece: EncodedPiece) -> EncodedRow:
    encoded, step = piece.encoded, piece.step
    return EncodedRow(
        step.tensor.name,
        encoded.name,
        step.dtype,
        dict(encoded.settings),
        encoded.moved,
        encoded.requantize,
        encoded.weights.digest if encoded.weights else "",
    )


def check_rows(rows: Sequence[EncodedRow], what: str) -> None:
    """FormatError for a target or a setting that there is not, and for a tensor twice."""
    seen: set[str] = set()
    for number, row in enumerate(rows):
        field = f"{what}: encoded[{number}]: tensor {row.tensor!r:.200}"
        if row.tensor in seen:
            raise FormatError(f"{field}: is there twice")
        seen.add(row.tensor)
        if row.target not in ENCODERS:
            raise FormatError(
                f"{field}: target: found {row.target!r:.100}; allowed: {', '.join(ENCODERS)}"
            )
        if row.dtype not in ENCODABLE:
            allowed = ", ".join(ENCODABLE)
            raise FormatError(f"{field}: dtype: found {row.dtype!r:.100}; allowed: {allowed}")
        keys = ENCODERS[row.target].keys
        if row.settings.keys() != keys.keys():
            raise FormatError(
                f"{field}: settings: found {', '.join(sorted(row.settings)) or 'none':.200}; "
                f"{row.target} has {', '.join(sorted(keys)) or 'none'}"
            )
        for key, value in row.settings.items():
            if not _is_allowed(value, keys[key]):
                raise FormatError(f"{field}: settings: {key}: found {value!r:.100}")


def _is_allowed(value: Setting, key: Key) -> bool:
    if type(value) is not type(key.default):
        return False
    if key.allowed:
        return value in key.allowed
    return isinstance(value, int) and value >= 0 and key.holds(value)
