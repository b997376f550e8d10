"""Bodies of `kernels/encode_gguf_fp4.py`, which has the layout."""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels.bodies._jit import as_f32, as_u32, inline, jit, local, stack
from anamnesis.kernels.bodies._lane_memory import lanes, put_bytes, put_lanes
from anamnesis.kernels.bodies._lanes import choose, least_of, size_of, splat
from anamnesis.kernels.bodies.bits import u32
from anamnesis.kernels.types import Array, Bytes, Floats

_NUMBERS = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.float32)
_room = stack(64)


@inline
def _codes(numbers: Floats, scale: np.float32) -> Any:
    """The first codes whose numbers, times the halved scale, are nearest: int32 lanes."""
    best, least = splat(0), size_of(splat(np.float32(_NUMBERS[0] * scale)) - numbers)
    for k in range(1, 16):
        error = size_of(splat(np.float32(_NUMBERS[k] * scale)) - numbers)
        best, least = choose(error < least, splat(k), best), least_of(error, least)
    return best


@jit
def mxfp4(values: Array, exponents: Bytes, out: Bytes) -> None:
    """MXFP4: the exponent byte, then elements i and 16 + i as low and high half of byte i."""
    for b in range(exponents.shape[0]):
        e = u32(exponents[b])
        # Half of 2 ** (e - 127), as `_NUMBERS` are doubled; below exponent 1 it is subnormal.
        bits = u32(0x00200000) << e if e < 2 else u32(u32(e - u32(1)) << u32(23))
        scale = as_f32(u32(bits))
        out[17 * b] = exponents[b]
        low, high = _codes(lanes(values, 32 * b), scale), _codes(lanes(values, 32 * b + 16), scale)
        put_bytes(out, 17 * b + 1, low | high << 4)


@inline
def _ue4m3(value: np.float32) -> Any:
    """`ggml_fp32_to_ue4m3` of a number that is not negative."""
    if not value > 0:
        return 0
    value = np.float32(448) if value > np.float32(448) else value
    bits = as_u32(value)
    # E4M3 without a sign: four bits of exponent, less 7, over three of mantissa.
    exponent = int(u32(bits >> u32(23)) & 0xFF) - 120
    if exponent <= 0:
        # Subnormal: multiples of 2**-9, halves up.
        return min(7, int(value * np.float32(512) + np.float32(0.5)))
    if exponent >= 15:
        return 0x7E
    # The highest bit that goes is added: halves up, not to even.
    mantissa = int(u32(bits >> u32(20)) & 7) + int(u32(bits >> u32(19)) & 1)
    if mantissa > 7:
        mantissa, exponent = 0, exponent + 1
    return 0x7E if exponent >= 15 else exponent << 3 | mantissa


@inline
def _half_of_ue4m3(code: int) -> Any:
    exponent, mantissa = code >> 3 & 15, np.float32(code & 7)
    if code == 0 or code == 0x7F:
        return np.float32(0)
    if exponent == 0:
        return np.float32(mantissa * np.float32(2.0**-10))
    # 2 ** (exponent - 7), halved.
    power = as_f32(u32((exponent + 119) << 23))
    return np.float32((np.float32(1) + mantissa / np.float32(8)) * power)


@jit
def nvfp4(values: Array, out: Bytes) -> None:
    """NVFP4: four E4M3 scales, then for each run of 16 eight bytes of elements i and 8 + i."""
    codes = local(_room(), 16, np.int32)
    for b in range(values.shape[0] // 64):
        for s in range(4):
            first, most = 64 * b + 16 * s, np.float32(0)
            for i in range(first, first + 16):
                most = abs(values[i]) if most < abs(values[i]) else most
            code = _ue4m3(np.float32(most / np.float32(6)))
            out[36 * b + s] = np.uint8(code)
            scale = _half_of_ue4m3(code)
            put_lanes(codes, 0, _codes(lanes(values, first), scale))
            for i in range(8):
                # Byte i of a run: element i in the low half, 8 + i in the high one.
                out[36 * b + 4 + 8 * s + i] = np.uint8(codes[i] | codes[8 + i] << 4)
