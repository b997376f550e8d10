"""Small quantised layers that are alike, decoded as one stack: a model may have half a million.

What goes for each through the one loop (parameters that are prepared, buffers, a call of the
kernel) takes a hundred times as long as its numbers. Where an encoding's row says how, matrices
of one shape, dtype and layout become a stack of matrices, which its kernel takes anyway; each has
its own digest, place and receipt all the same, so that nothing shows by which way they went.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import xxhash

from anamnesis.kernels import stacker
from anamnesis.limits import KiB
from anamnesis.pipeline.windows import Inputs, at_once
from anamnesis.pipeline.work import Piece, PieceReceipt
from anamnesis.readers.base import Component, Tensor
from anamnesis.readers.batch import Whole
from anamnesis.readers.dtypes import DTYPES
from anamnesis.readers.placement import Contiguous

if TYPE_CHECKING:
    from anamnesis.writers.stores import Sink

SMALL_BYTES = 4 * KiB  # of a tensor, as stored and as written
RUN_BYTES = 64 * KiB  # of those that are read at once: no more than a sink holds of small writes


def most_together(piece: Piece) -> int:
    """How many such pieces may be decoded as one: 1 for what is not small, or has no stack."""
    tensor = piece.step.tensor
    if type(piece) is not Piece or type(tensor) is not Tensor or piece.step.slot is None:
        return 1
    stack = stacker(tensor.encoding)
    units, payload = tensor.units, tensor.components[0]
    if stack is None or piece.start or piece.stop != units or not tensor.elems:
        return 1
    nbytes = max(piece.value_bytes, tensor.stored_bytes)
    others = any(c.placement.windowed for c in tensor.components[1:])
    if nbytes > SMALL_BYTES or others or type(payload.placement) is not Contiguous:
        return 1
    plain = all(component.stored.view is None for component in tensor.components)
    whole = units * tensor.unit_elems == tensor.elems
    if not plain or not whole or stack(tensor.params, units, 1) is None:
        return 1
    return RUN_BYTES // nbytes


def is_alike(first: Piece, piece: Piece) -> bool:
    """Whether a piece is like the `first`, of which there may be several, but for its place."""
    one, other = first.step.tensor, piece.step.tensor
    return (
        type(piece) is Piece
        and type(other) is Tensor
        and other.params is one.params
        and (piece.start, piece.stop) == (first.start, first.stop)
        and (other.shape, other.encoding, piece.step.dtype, piece.step.slot is None)
        == (one.shape, one.encoding, first.step.dtype, False)
        and len(other.components) == len(one.components)
        and all(map(_are_alike, one.components, other.components))
    )


def _are_alike(one: Component, other: Component) -> bool:
    first, stored = one.stored, other.stored
    return (
        one.role == other.role
        and one.placement == other.placement
        and stored.view is None
        and stored.file is first.file
        and (stored.dtype, stored.shape, stored.nbytes) == (first.dtype, first.shape, first.nbytes)
    )


def write_layers(pieces: Sequence[Piece], inputs: Inputs, sink: Sink) -> Iterator[PieceReceipt]:
    """Decode alike pieces as one stack, and write the values of each at its place."""
    first, count = pieces[0].step, len(pieces)
    tensor, stack = first.tensor, stacker(first.tensor.encoding)
    assert stack is not None
    units, elems = tensor.units, tensor.elems
    params = stack(tensor.params, units, count)
    assert params is not None
    shape = count * units, tensor.unit_elems
    step = replace(first, tensor=replace(tensor, shape=shape, params=params), window_units=shape[0])
    payload, *wholes = tensor.components
    held = {}
    for number, whole in enumerate(wholes, 1):
        stored = [piece.step.tensor.components[number].stored for piece in pieces]
        kind = whole.stored.dtype
        numbers = inputs.read_all(stored, counted=False).view(DTYPES[kind].numpy)
        held[whole.role] = Whole(kind, numbers)
    codes = inputs.read_all([p.step.tensor.components[0].stored for p in pieces], counted=True)
    view = codes.reshape(payload.placement.view_shape(len(codes), shape[0]))
    values = at_once(step, held, {payload.role: view})
    digest = xxhash.xxh3_128_hexdigest
    for number, piece in enumerate(pieces):
        some, slot = values[number * elems : (number + 1) * elems], piece.step.slot
        assert slot is not None
        slot.write(sink, 0, some)
        yield PieceReceipt(piece.step.tensor.name, 0, elems, digest(some))


__all__ = ["RUN_BYTES", "SMALL_BYTES", "is_alike", "most_together", "write_layers"]
