"""Bodies of `kernels/fp6.py`, which has the layout."""

from __future__ import annotations

import numpy as np

from anamnesis.kernels.bodies._codes import spread
from anamnesis.kernels.bodies._fp8_vector import has_lanes, to_reals
from anamnesis.kernels.bodies._jit import jit, local, put, stack
from anamnesis.kernels.bodies._vector import load32, store
from anamnesis.kernels.fp6 import BLOCK, BLOCK_BYTES
from anamnesis.kernels.types import Array, Bytes, Floats

_SPREAD = spread(6)
_RUN = 128  # blocks whose codes are spread at a time

_codes = stack(_RUN * BLOCK)


@jit
def mx(
    data: Bytes,
    exponents: Bytes,
    powers: Floats,
    values: Floats,
    code: tuple[int, ...],
    factor: np.float32,
    out: Array,
) -> None:
    """Blocks of 32 six-bit codes, a stream with the lowest bits first, under a power of two."""
    shift, mask, keep, nan = code
    codes = local(_codes(), _RUN * BLOCK, np.uint8)
    for first in range(0, exponents.shape[0], _RUN):
        last = min(first + _RUN, exponents.shape[0])
        # Code k is bits 6 k to 6 k + 5 of a block's 24 bytes.
        _SPREAD(data[first * BLOCK_BYTES : last * BLOCK_BYTES], codes)
        for block in range(first, last):
            power, at = powers[exponents[block]], (block - first) * BLOCK
            if has_lanes():
                some = load32(codes, at)
                # The sign, bit 5, goes where a code of eight bits has it.
                some = (some & 31) | ((some & 32) << 2)
                # Two steps: the factor alone cannot overflow, and loses nothing.
                reals = to_reals(some, shift, mask, keep, nan) * factor * power
                store(out, block * BLOCK, reals)
            else:
                for i in range(BLOCK):
                    put(out, block * BLOCK + i, values[codes[at + i]] * power)
