"""Bodies of `kernels/encode_mlx.py`, which has the layout."""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels.bodies._jit import jit
from anamnesis.kernels.types import Array


@jit
def affine(values: Array, scales: Array, biases: Array, group: int, most: Any, out: Array) -> None:
    """`(value - bias) / scale`, from 0 to `most`, rounded; one scale and bias a group."""
    for g in range(scales.shape[0]):
        scale, bias = scales[g], biases[g]
        for i in range(g * group, (g + 1) * group):
            code = np.divide(values[i] - bias, scale)
            code = code if code > np.float32(0) else np.float32(0)
            code = code if code < most else most
            # 2**23, whose last place is 1: to nearest, ties to even.
            out[i] = np.uint8((code + np.float32(8388608)) - np.float32(8388608))
