"""Bodies of `kernels/exl2.py`, which has the layout."""

from __future__ import annotations

import numpy as np

from anamnesis.kernels.bodies._codes import to_half
from anamnesis.kernels.bodies._jit import jit, put
from anamnesis.kernels.types import Array, Bytes, Floats


@jit
def rows(
    words: Array,
    packed: Bytes,
    scales: Floats,
    codes: tuple[Array, ...],
    narrow: bool,
    out: Array,
) -> None:
    """An input of all rows after the other; `narrow` rounds each number to binary16.

    `codes` are the inputs' bits, lines of words, first bits in them, groups and places in a row.
    """
    bits, word, shift, group, place = codes
    inputs, units = bits.shape[0], words.shape[1]
    for k in range(inputs):
        width, down = np.uint64(bits[k]), np.uint64(shift[k])
        mask = (np.uint64(1) << width) - np.uint64(1)
        # Codes of `bits[k]` bits stand for -middle to middle - 1.
        middle = np.int64(1) << np.int64(bits[k] - 1)
        line, over = word[k], shift[k] + bits[k] > 32
        for unit in range(units):
            # Bits of an input run down its column of words: the lowest from `shift` on in `line`,
            # and on into the next line.
            both = np.uint64(words[line, unit])
            if over:
                both |= np.uint64(words[line + 1, unit]) << np.uint64(32)
            code = np.int64(both >> down & mask) - middle
            # q_scale: four bits a unit, the even unit in the low half.
            nibble = packed[group[k], unit >> 1] >> 4 * (unit & 1) & 15
            value = np.float32(code) * scales[group[k], nibble]
            if narrow:
                value = to_half(value)
            put(out, unit * inputs + place[k], value)
