"""Bodies of `kernels/quanto.py`, which has the layout."""

from __future__ import annotations

import numpy as np

from anamnesis.kernels.bodies._affine import narrowed
from anamnesis.kernels.bodies._jit import jit, local, put, stack
from anamnesis.kernels.bodies._narrow import rounded
from anamnesis.kernels.bodies._vector import load32, signed, store, to_f32
from anamnesis.kernels.types import Array, Bytes, Floats

_STEP = 32

_spare, _numbers = stack(_STEP), stack(4 * _STEP)


@jit
def int8(codes: Bytes, scales: Floats, columns: int, narrow: int, first: int, out: Array) -> None:
    """Rows of int8 codes times a scale, one a row or one for all, rounded to `narrow`."""
    spare = local(_spare(), _STEP, np.uint8)
    numbers = local(_numbers(), _STEP, np.float32)
    for row in range(out.shape[0] // max(1, columns)):
        # One scale a row, or one for the whole tensor.
        scale = scales[first + row if scales.shape[0] > 1 else 0]
        at, whole = row * columns, columns - columns % _STEP
        for i in range(at, at + whole, _STEP):
            store(out, i, narrowed(to_f32(signed(load32(codes, i))) * scale, narrow))
        # Loads take 32 bytes and check no bounds: the last columns go through `spare`.
        if whole < columns:
            for i in range(columns - whole):
                spare[i] = codes[at + whole + i]
            store(numbers, 0, narrowed(to_f32(signed(load32(spare, 0))) * scale, narrow))
            for i in range(columns - whole):
                put(out, at + whole + i, numbers[i])


@jit
def narrow_values(singles: Floats, narrow: int, out: Array) -> None:
    """float32 rounded to `narrow`, 1 for BF16 and 2 for binary16."""
    for i in range(out.shape[0]):
        put(out, i, rounded(singles[i], narrow))
