"""Bodies of `kernels/encode_fp4.py`, which has the layout."""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels.bodies._jit import inline, jit, variants
from anamnesis.kernels.bodies._narrow import rounded
from anamnesis.kernels.bodies.encode_fp8 import to_e4m3
from anamnesis.kernels.types import Array


@variants
def codes_of(kind: int, rule: int) -> Any:
    """`(values, scales, group, out)`: codes of `values` over their scales, one a group, as pairs.

    `values` is flat, and its quotients are rounded to `kind`. `rule` says where a tie goes: 0, to
    the even code; 1, down, and to +0 (MLX); 2, down, and 0 and NaN have a sign (ModelOpt's MXFP4).
    """

    def code_of(value: Any, scale: Any) -> Any:
        quotient = rounded(np.divide(value, scale), kind)
        size = abs(quotient)
        code = np.uint8(size > np.float32(0.25))
        if rule:
            code += np.uint8(size > np.float32(0.75)) + np.uint8(size > np.float32(1.25))
            code += np.uint8(size > np.float32(1.75)) + np.uint8(size > np.float32(2.5))
            code += np.uint8(size > np.float32(3.5)) + np.uint8(size > np.float32(5))
            if rule == 1:
                # Nothing is nearer than anything else to infinity, and the first entry stays.
                code = np.uint8(0) if size == np.float32(np.inf) else np.uint8(code)
                negative = quotient < 0 and code != 0
            else:
                negative = not quotient > 0
        else:
            code += np.uint8(size >= np.float32(0.75)) + np.uint8(size > np.float32(1.25))
            code += np.uint8(size >= np.float32(1.75)) + np.uint8(size > np.float32(2.5))
            code += np.uint8(size >= np.float32(3.5)) + np.uint8(size > np.float32(5))
            negative = quotient < 0
        return np.uint8(code | 8) if negative else np.uint8(code)

    code_of = inline(code_of)

    def run(values: Array, scales: Array, group: int, out: Array) -> None:
        half = group // 2
        for g in range(scales.shape[0]):
            scale = scales[g]
            for i in range(g * half, (g + 1) * half):
                low, high = code_of(values[2 * i], scale), code_of(values[2 * i + 1], scale)
                out[i] = np.uint8(low | np.uint8(high << 4))

    return run


@jit
def e4m3(values: Array, out: Array) -> None:
    """E4M3 codes of numbers of at most 464."""
    for i in range(values.shape[0]):
        out[i] = to_e4m3(values[i])
