"""Bodies of `kernels/mlx.py`, which has the layout."""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels.bodies._affine import formula
from anamnesis.kernels.bodies._codes import spread, widen
from anamnesis.kernels.bodies._jit import jit, local, stack, variants
from anamnesis.kernels.bodies._vector import load32, store, to_f32
from anamnesis.kernels.mlx import STEP
from anamnesis.kernels.types import Array, Bytes, Floats

_GROUPS = 128  # whose scales are made float32 at a time

_scales, _biases = stack(4 * _GROUPS), stack(4 * _GROUPS)


@variants
def affine(bits: int, once: int, twice: int) -> Any:
    """`(data, scales, biases, half, size, codes, out)`: codes of groups to values.

    `codes` is room for the codes of some groups, one at least; products are rounded to the dtype
    `once` of `_narrow.KINDS`, sums to `twice`.
    """
    to_bytes, value = spread(bits), formula("added", once, twice, True)

    def values_of(
        data: Bytes,
        scales: Array,
        biases: Array,
        half: bool,
        size: int,
        codes: Bytes,
        out: Array,
    ) -> None:
        many = max(1, min(codes.shape[0] // size, _GROUPS))
        scale, bias = local(_scales(), _GROUPS, np.float32), local(_biases(), _GROUPS, np.float32)
        for first in range(0, scales.shape[0], many):
            count = min(many, scales.shape[0] - first)
            widen(scales[first : first + count], half, scale)
            widen(biases[first : first + count], half, bias)
            # One dense stream of codes, the first in the low bits; groups are multiples of 32 codes
            # and so begin at whole bytes.
            at = first * size
            stream = data[at * bits // 8 : (at + count * size) * bits // 8]
            if bits != 8:
                to_bytes(stream, codes)
                stream = codes
            multiply(stream, size, scale, bias, count, out, at)

    @jit
    def multiply(
        codes: Bytes,
        size: int,
        scales: Floats,
        biases: Floats,
        groups: int,
        out: Array,
        to: int,
    ) -> None:
        for group in range(groups):
            scale, bias = scales[group], biases[group]
            for at in range(group * size, (group + 1) * size, STEP):
                store(out, to + at, value(to_f32(load32(codes, at)), bias, scale))

    return values_of
