"""Bodies of `kernels/encode_mlx.py`, which has the layout."""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels.bodies._extremes import ends_lanes
from anamnesis.kernels.bodies._jit import inline, local, stack, variants
from anamnesis.kernels.bodies._lane_memory import lanes, put_bytes, put_lanes, put_pairs
from anamnesis.kernels.bodies._lanes import as_bits, choose, is_any, size_of, splat
from anamnesis.kernels.bodies._quotients import reciprocals
from anamnesis.kernels.types import Array, Bytes, Floats

_NEAR = np.float32(0.499)  # of a half
_MAGIC = np.float32(8388608)  # 2**23, whose last place is 1: to nearest, ties to even
_ZERO = np.float32(0)
_LEAST = np.float32(1e-7)
_tiles, _scales, _inverses, _biases = stack(2048), stack(64), stack(64), stack(64)


@variants
def affine(paired: bool) -> Any:
    """`(values, group, levels, scales, biases, out)`: scales and biases, float32, and codes.

    A flat array in groups of whole runs of 16; `out` is uint8, a byte a code, or `paired`: two of
    four bits, the first in the low half.
    """

    def run(
        values: Array, group: int, levels: float, scales: Floats, biases: Floats, out: Bytes
    ) -> None:
        tiles = local(_tiles(), (2, 16, 16), np.int32)
        room = local(_scales(), 16, np.float32)
        inverses, below = local(_inverses(), 16, np.float32), local(_biases(), 16, np.float32)
        most = np.float32(levels)
        for first in range(0, scales.shape[0], 16):
            count = min(16, scales.shape[0] - first)
            found, bias = _facts(values, first, count, group, most, tiles)
            put_lanes(room, 0, found)
            put_lanes(below, 0, bias)
            inverse = reciprocals(size_of(found))
            put_lanes(inverses, 0, choose(found < _ZERO, splat(_ZERO) - inverse, inverse))
            for k in range(count):
                g = first + k
                scales[g], biases[g] = room[k], below[k]
                for i in range(g * group, (g + 1) * group, 16):
                    left = lanes(values, i) - below[k]
                    bits = _codes(left, room[k], inverses[k], most)
                    if paired:
                        put_pairs(out, i // 2, bits)
                    else:
                        put_bytes(out, i, bits)

    return run


@inline
def _codes(left: Floats, scale: np.float32, inverse: np.float32, most: np.float32) -> Any:
    """What is above the bias as codes, int32: by a product, unless that is near a tie.

    A product with the rounded inverse is off by less than 2 units in its last place, below 256
    less than 2**-14.
    """
    code = _within(left * inverse, most)
    whole = code + _MAGIC
    if inverse != inverse or is_any(size_of(code - (whole - _MAGIC)) > _NEAR):
        whole = _within(left / scale, most) + _MAGIC
    return as_bits(whole) & 0xFF


@inline
def _within(codes: Floats, most: np.float32) -> Any:
    codes = choose(codes > _ZERO, codes, splat(_ZERO))
    return choose(codes < most, codes, splat(most))


@inline
def _facts(
    values: Array, first: int, count: int, group: int, levels: np.float32, tiles: Array
) -> Any:
    """Scales and biases of up to sixteen groups, a lane each."""
    least, most = ends_lanes(values, first, count, group, tiles)
    scales = (most - least) / levels
    scales = choose(scales < _LEAST, splat(_LEAST), scales)
    below = size_of(least) > size_of(most)
    scales, edge = choose(below, scales, splat(_ZERO) - scales), choose(below, least, most)
    steps = edge / scales
    whole = (size_of(steps) + _MAGIC) - _MAGIC
    whole = choose(steps < _ZERO, splat(_ZERO) - whole, whole)
    # From 2**23 on, and of what is infinite or NaN, there is nothing to round.
    steps = choose(size_of(steps) < _MAGIC, whole, steps)
    some = steps != _ZERO
    return choose(some, edge / steps, scales), choose(some, edge, splat(_ZERO))
