"""Bodies of `kernels/encode_fp8.py`, which has the layout."""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels.bodies._jit import as_f32, as_u32, inline, variants
from anamnesis.kernels.bodies._narrow import rounded
from anamnesis.kernels.bodies.bits import u32
from anamnesis.kernels.encode_fp8 import LARGEST
from anamnesis.kernels.types import Array

_MAGIC = np.float32(2.0**14)  # the last place of its float32 is E4M3's smallest, 2**-9


@inline
def to_e4m3(value: Any) -> Any:
    """The E4M3 code of a float32 of at most 464 in magnitude, nearest even; 0x7F for NaN."""
    bits = as_u32(value)
    magnitude = u32(bits & u32(0x7FFFFFFF))
    odd = u32(u32(magnitude >> u32(20)) & u32(1))
    normal = u32(u32(u32(magnitude + u32(0x7FFFF)) + odd) - u32(120 << 23)) >> u32(20)
    small = u32(as_u32(as_f32(magnitude) + _MAGIC) - u32(141 << 23))
    code = small if magnitude < u32(121 << 23) else normal  # below 2**-6
    if magnitude > u32(0x7F800000):
        code = u32(0x7F)
    return np.uint8(u32(code | u32(u32(bits >> u32(24)) & u32(0x80))))


@variants
def codes_of(kind: int, multiply: bool, zero: bool) -> Any:
    """`(values, scales, group, rows, out)`: codes of `values` over (or times) their scales.

    `values` and `out` are `[n, columns]`; `scales` is `[lines, groups]`, for each `rows` rows and
    `group` columns one. The quotient is rounded to `kind`; with `zero`, 0 is added, after
    which -0 is 0.
    """

    def run(values: Array, scales: Array, group: int, rows: int, out: Array) -> None:
        columns = values.shape[1]
        for row in range(values.shape[0]):
            line = row // rows
            for g in range(scales.shape[1]):
                scale = scales[line, g]
                for i in range(g * group, min(columns, (g + 1) * group)):
                    value = values[row, i]
                    value = value * scale if multiply else rounded(np.divide(value, scale), kind)
                    if zero:
                        value = value + np.float32(0)
                    value = LARGEST if value > LARGEST else value
                    value = -LARGEST if value < -LARGEST else value
                    out[row, i] = to_e4m3(value)

    return run
