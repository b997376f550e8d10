"""Bodies of `kernels/encode_ints.py`, which has the layout."""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels.bodies._jit import variants
from anamnesis.kernels.bodies._narrow import rounded
from anamnesis.kernels.types import Array


@variants
def codes_of(kind: int) -> Any:
    """`(values, scales, zeros, group, half, out)`: `code + half` of each of a flat array.

    Quotients and sums are rounded to `kind`; `out` is uint8.
    """

    def run(values: Array, scales: Array, zeros: Array, group: int, half: Any, out: Array) -> None:
        low, high = np.float32(-half), np.float32(half - 1)
        for g in range(scales.shape[0]):
            scale, zero = scales[g], zeros[g]
            for i in range(g * group, (g + 1) * group):
                value = rounded(rounded(np.divide(values[i], scale), kind) + zero, kind)
                value = high if value > high else value
                value = low if value < low else value
                # To nearest, ties to even, of at most 128 in magnitude.
                value = (value + np.float32(12582912)) - np.float32(12582912)
                value = value if value == value else low  # what the cast of a NaN gives
                out[i] = np.uint8(np.int32(value) + np.int32(half))

    return run
