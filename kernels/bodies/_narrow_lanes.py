"""`_narrow.rounded` of sixteen numbers, and of arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels.bodies._jit import inline, jit, local, stack, variants
from anamnesis.kernels.bodies._lane_memory import lanes, number, put_lanes, some
from anamnesis.kernels.bodies._lanes import choose
from anamnesis.kernels.bodies._round import through_bf16, through_f16
from anamnesis.kernels.types import Array, Floats

_room = stack(64)


@inline
def rounded_lanes(numbers: Floats, kind: int) -> Any:
    """Float32 lanes rounded to the dtype of `KINDS`, nearest, ties to even; NaNs stay NaNs."""
    # Rounded as an integer, the payload of a NaN could run over into exponent and sign.
    if kind == 1:
        return choose(numbers == numbers, through_bf16(numbers), numbers)
    if kind == 2:
        return choose(numbers == numbers, through_f16(numbers), numbers)
    return numbers


@variants
def narrowed(kind: int) -> Any:
    """`(values, out)`: float32 numbers rounded to the dtype of `KINDS`, as float32."""

    def run(values: Floats, out: Floats) -> None:
        room, end = local(_room(), 16, np.float32), values.shape[0]
        for i in range(0, end - end % 16, 16):
            put_lanes(out, i, rounded_lanes(lanes(values, i), kind))
        rest = end - end % 16
        if rest < end:
            put_lanes(room, 0, rounded_lanes(some(values, rest, end, room), kind))
            for i in range(end - rest):
                out[rest + i] = room[i]

    return run


@jit
def widened(values: Array, out: Array) -> None:
    """Numbers of BF16's bits as float32."""
    end = values.shape[0]
    rest = end - end % 16
    for i in range(0, rest, 16):
        put_lanes(out, i, lanes(values, i))
    for i in range(rest, end):
        out[i] = number(values, i)
