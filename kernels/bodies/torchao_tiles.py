"""Bodies of `kernels/torchao_tiles.py`, which has the layout."""

from __future__ import annotations

import numpy as np

from anamnesis.kernels.bodies._jit import inline, jit
from anamnesis.kernels.types import Words

_LOW, _PAIRS, _BYTES = np.uint32(0x0F0F0F0F), np.uint32(0x00FF00FF), np.uint32(0xFF)
_HALF = np.uint32(0xFFFF)
_EIGHTS = np.uint32(0x88888888)  # what makes codes that have 8 added those of two's complement


@inline
def _spread(half: np.uint32) -> np.uint32:
    """Four codes of a half word, a byte each."""
    pairs = (half | half << np.uint32(8)) & _PAIRS
    return (pairs | pairs << np.uint32(4)) & _LOW


@inline
def _paired(word: np.uint32) -> np.uint32:
    """Bytes of two neighbouring codes, of a word: bits 4 j and 16 + 4 j are byte j."""
    return (_spread(word & _HALF) | _spread(word >> np.uint32(16)) << np.uint32(4)) ^ _EIGHTS


@inline
def _byte(words: tuple[np.uint32, ...], at: np.uint32) -> np.uint32:
    """Byte `at` of four words, in one."""
    a, b, c, d = words
    shift = np.uint32(8) * at
    return (
        (a >> shift & _BYTES)
        | (b >> shift & _BYTES) << np.uint32(8)
        | (c >> shift & _BYTES) << np.uint32(16)
        | (d >> shift & _BYTES) << np.uint32(24)
    )


@jit
def untile(data: Words, steps: int, words: int, amd: bool, codes: Words) -> None:
    """Steps of `words` words a lane to rows of `codes`, eight codes a word."""
    tile = 16 if amd else 8
    lane = words if not amd else 16 * words  # from a row's lane to its next
    at = 0
    for first in range(0, codes.shape[0], tile):
        for step in range(steps):
            for row in range(tile):
                begin = at + (row * words if amd else 4 * row * words)
                to = 4 * words * step
                for word in range(words):
                    # The four lanes of a row: 32 inputs, 16 bytes of pairs.
                    a = _paired(data[begin + word])
                    b = _paired(data[begin + lane + word])
                    c = _paired(data[begin + 2 * lane + word])
                    d = _paired(data[begin + 3 * lane + word])
                    line = codes[first + row]
                    if amd:
                        # A lane's bytes 0 and 1 are neighbours, and 2 and 3 eight bytes on.
                        line[to] = (a & _HALF) | b << np.uint32(16)
                        line[to + 1] = (c & _HALF) | d << np.uint32(16)
                        line[to + 2] = a >> np.uint32(16) | (b >> np.uint32(16)) << np.uint32(16)
                        line[to + 3] = c >> np.uint32(16) | (d >> np.uint32(16)) << np.uint32(16)
                    else:
                        # Byte j of lane q is byte 4 j + q.
                        lanes = (a, b, c, d)
                        line[to] = _byte(lanes, np.uint32(0))
                        line[to + 1] = _byte(lanes, np.uint32(1))
                        line[to + 2] = _byte(lanes, np.uint32(2))
                        line[to + 3] = _byte(lanes, np.uint32(3))
                    to += 4
            at += 4 * tile * words
