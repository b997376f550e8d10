"""Bodies of `kernels/encode_mlx.py`, which has the layout."""

from __future__ import annotations

import numpy as np

from anamnesis.kernels.bodies._jit import jit
from anamnesis.kernels.types import Array, Bytes, Floats


@jit
def affine(
    values: Array, scales: Floats, biases: Floats, group: int, most: np.float32, out: Bytes
) -> None:
    """`(value - bias) / scale`, from 0 to `most`, rounded; one scale and bias a group."""
    for g in range(scales.shape[0]):
        scale, bias = scales[g], biases[g]
        for i in range(g * group, (g + 1) * group):
            code = np.divide(values[i] - bias, scale)
            code = code if code > np.float32(0) else np.float32(0)
            code = code if code < most else most
            # 2**23, whose last place is 1: to nearest, ties to even.
            out[i] = np.uint8((code + np.float32(8388608)) - np.float32(8388608))
