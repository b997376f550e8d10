"""What an encoder's parts decode to: a window of them, as a tensor of its own.

An encoder's `blocks_X` makes the blocks and parameters of a decoder from the arrays that `encode_X`
filled. A window is whole rows (of bitsandbytes' blocks, a run
of elements), which is what a tensor of as many rows would be: so the decoders need to know nothing
of encoders.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from anamnesis.kernels import Window, decoder, preparer
from anamnesis.kernels.encoders import ENCODERS, function_of
from anamnesis.kernels.types import Array

Parts = Mapping[str, Any]


class Stored(NamedTuple):
    """A whole component, as `prepare` functions take it."""

    dtype: str
    array: Array


class Blocks(NamedTuple):
    """The arguments of a decoder: views by role, scalars and wholes of `prepare`, and units.

    `transposed` where the decoder gives columns of the window as its rows.
    """

    views: dict[str, Any]
    scalars: dict[str, Any]
    wholes: dict[str, Stored]
    units: int
    transposed: bool = False


class Facts(NamedTuple):
    """What a form needs besides the parts: the target and its settings, and the window's shape.

    `dtype` is the one that scales are stored in, `columns` the elements of an encoder's unit, of
    which there are `rows`.
    """

    target: str
    settings: Mapping[str, Any]
    dtype: str
    columns: int
    rows: int


class Readback:
    """Decodes the windows of one encoded tensor."""

    def __init__(self, facts: Facts) -> None:
        """`facts` of any number of rows."""
        self._facts = facts
        encoding = ENCODERS[facts.target].reads_back
        self._decode, self._prepare = decoder(encoding), preparer(encoding)
        self._blocks = function_of(facts.target, "blocks")

    def into(self, parts: Parts, out: Array) -> None:
        """What `parts` hold, into a flat array of the window's elements: float32 or BF16 bits."""
        rows = -(-len(out) // self._facts.columns)
        with np.errstate(all="ignore"):
            blocks: Blocks = self._blocks(parts, self._facts._replace(rows=rows))
            params = dict(blocks.scalars)
            if self._prepare is not None:
                params |= self._prepare(blocks.scalars, blocks.wholes)
            window = Window(0, blocks.units)
            if not blocks.transposed:
                self._decode(blocks.views, params, window, out)
                return
            turned = np.empty(len(out), out.dtype)
            self._decode(blocks.views, params, window, turned)
            out.reshape(rows, -1)[:] = turned.reshape(-1, rows).T


def lines(array: Array, rows: int) -> Array:
    """The bytes of `rows` rows, uint8 `[rows, bytes]`."""
    return array.view(np.uint8).reshape(rows, -1)
