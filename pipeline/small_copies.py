"""Small dense tensors that lie one behind the other, read at once: a model may have a million.

What goes for each through the one loop (a reader, a buffer, a window, a call for each) takes longer
than a thousand of its bytes. Here the bytes of many are read by one call, and each has its own
digest, place and receipt all the same, so that nothing shows by which way they went.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import xxhash

from anamnesis.pipeline.small_layers import RUN_BYTES, SMALL_BYTES, is_alike, most_together
from anamnesis.pipeline.work import Piece, PieceReceipt
from anamnesis.readers.base import Stored, Tensor, View
from anamnesis.readers.placement import Contiguous
from anamnesis.readers.source import is_url

if TYPE_CHECKING:
    from anamnesis.pipeline.windows import Inputs
    from anamnesis.writers.stores import Sink

GAP_BYTES = 64  # less than that may lie between two, to align them


class Run(NamedTuple):
    """Small copied pieces of `nbytes` in the file, one behind the other.

    Or no bytes, and small layers that are decoded together (`small_layers`), or one piece of any
    kind, which has to go through the loop.
    """

    pieces: list[Piece]
    nbytes: int


def runs(pieces: Iterable[Piece]) -> Iterator[Run]:
    """The pieces in their order, those together that may be read at once."""
    some: list[Piece] = []
    layers: list[Piece] = []
    most = start = end = 0
    last: Stored | None = None
    for piece in pieces:
        stored = _copied(piece)
        if some and not (last and stored and _follows(last, stored, end - start)):
            yield Run(some, end - start)
            some = []
        if layers and not (stored is None and len(layers) < most and is_alike(layers[0], piece)):
            yield Run(layers, 0)
            layers = []
        if stored is None:
            most = most if layers else most_together(piece)
            layers.append(piece)
            continue
        if not some:
            start = stored.offset
        some.append(piece)
        end = stored.offset + stored.nbytes
        last = stored
    if some:
        yield Run(some, end - start)
    if layers:
        yield Run(layers, 0)


def write_run(run: Run, inputs: Inputs, sink: Sink) -> Iterator[PieceReceipt]:
    """Read the stored bytes of a run, and write those of each of its tensors at its place."""
    first = run.pieces[0].step.tensor.components[0].stored
    whole = replace(first, dtype="U8", shape=(run.nbytes,), nbytes=run.nbytes)
    data = memoryview(inputs.read(whole))
    digest = xxhash.xxh3_128_hexdigest
    for piece in run.pieces:
        tensor, slot = piece.step.tensor, piece.step.slot
        if slot is None:
            raise ValueError(f"{tensor.name}: a step without a place in a file")
        stored = tensor.components[0].stored
        begin = stored.offset - first.offset
        values = data[begin : begin + stored.nbytes]
        slot.write(sink, 0, values)
        yield PieceReceipt(tensor.name, 0, tensor.elems, digest(values))


def _follows(last: Stored, stored: Stored, nbytes: int) -> bool:
    """Whether a tensor lies behind the `last` of a run of `nbytes`, and may be read with it."""
    gap = stored.offset - last.offset - last.nbytes
    if gap and not (0 < gap < GAP_BYTES and not is_url(last.file.path)):
        return False  # behind a URL nothing is asked for that nobody wants
    fits = nbytes + gap + stored.nbytes <= RUN_BYTES
    return fits and stored.file is last.file and stored.view is last.view


def _copied(piece: Piece) -> Stored | None:
    """The stored tensor that a piece copies as it is, all of it, if that is small."""
    tensor = piece.step.tensor
    if type(piece) is not Piece or type(tensor) is not Tensor or tensor.encoding != "copy":
        return None
    component = tensor.components[0]
    stored, placement = component.stored, component.placement
    whole = piece.start == 0 and type(placement) is Contiguous
    if not whole or not 0 < stored.nbytes <= SMALL_BYTES or len(tensor.components) > 1:
        return None
    plain = stored.view is None or _is_plain(stored.view)
    return stored if plain and placement.span_bytes(piece.stop) == stored.nbytes else None


def _is_plain(view: View) -> bool:
    """Whether bytes lie in the file as they are, one after the other."""
    deflated = view.member is not None and view.member.deflated
    return view.strides is None and view.rows is None and view.swap < 2 and not deflated


__all__ = ["RUN_BYTES", "SMALL_BYTES", "Run", "runs", "write_run"]
