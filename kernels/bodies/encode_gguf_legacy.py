"""Bodies of `kernels/encode_gguf_legacy.py`, which has the layout."""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels.bodies._ggml import away, half_bits, put_half, truncated
from anamnesis.kernels.bodies._jit import inline, jit, variants

_i32 = np.int32


@inline
def _inverse(d: Any) -> Any:
    return np.divide(np.float32(1), d) if d != 0 else np.float32(0)


@jit
def q8_0(values: Any, out: Any) -> None:
    """Q8_0: `d` f16, then 32 int8 codes."""
    for b in range(values.shape[0] // 32):
        most = np.float32(0)
        for i in range(32 * b, 32 * b + 32):
            size = abs(values[i])
            most = most if most > size else size
        d = np.float32(most / np.float32(127))
        inverse = _inverse(d)
        put_half(out, 34 * b, half_bits(d))
        for i in range(32):
            out[34 * b + 2 + i] = np.uint8(away(values[32 * b + i] * inverse) & 0xFF)


@variants
def around_zero(half: int) -> Any:
    """Q4_0 (`half` 8) and Q5_0 (16)."""
    nbytes = 18 if half == 8 else 22
    head = 2 if half == 8 else 6
    offset = np.float32(half + 0.5)

    def run(values: Any, out: Any) -> None:
        for b in range(values.shape[0] // 32):
            most, signed = np.float32(0), np.float32(0)
            for i in range(32 * b, 32 * b + 32):
                size = abs(values[i])
                if most < size:
                    most, signed = size, values[i]
            d = np.float32(signed / np.float32(-half))
            inverse = _inverse(d)
            at = nbytes * b
            put_half(out, at, half_bits(d))
            high = 0
            for i in range(16):
                low = _code(values[32 * b + i] * inverse + offset, 2 * half - 1)
                up = _code(values[32 * b + 16 + i] * inverse + offset, 2 * half - 1)
                out[at + head + i] = np.uint8((low & 15) | (up & 15) << 4)
                high |= (low >> 4 & 1) << i | (up >> 4 & 1) << (16 + i)
            if half == 16:
                for i in range(4):
                    out[at + 2 + i] = np.uint8(high >> (8 * i) & 0xFF)

    return run


@variants
def above_least(most_code: int) -> Any:
    """Q4_1 (`most_code` 15) and Q5_1 (31)."""
    nbytes = 20 if most_code == 15 else 24
    head = 4 if most_code == 15 else 8

    def run(values: Any, out: Any) -> None:
        for b in range(values.shape[0] // 32):
            least, most = np.float32(3.4028234663852886e38), np.float32(-3.4028234663852886e38)
            for i in range(32 * b, 32 * b + 32):
                least = values[i] if values[i] < least else least
                most = values[i] if values[i] > most else most
            d = np.float32(np.float32(most - least) / np.float32(most_code))
            inverse = _inverse(d)
            at = nbytes * b
            put_half(out, at, half_bits(d))
            put_half(out, at + 2, half_bits(least))
            high = 0
            for i in range(16):
                first = np.float32(values[32 * b + i] - least) * inverse + np.float32(0.5)
                second = np.float32(values[32 * b + 16 + i] - least) * inverse + np.float32(0.5)
                low, up = _plain(first, most_code), _plain(second, most_code)
                out[at + head + i] = np.uint8((low & 15) | (up & 15) << 4)
                high |= (low >> 4 & 1) << i | (up >> 4 & 1) << (16 + i)
            if most_code == 31:
                for i in range(4):
                    out[at + 4 + i] = np.uint8(high >> (8 * i) & 0xFF)

    return run


@inline
def _code(value: Any, most: Any) -> Any:
    """`(uint8) min(most, (int8) value)`: what is negative as int8 wraps."""
    low = _i32(_i32(truncated(value) & _i32(0xFF)) ^ _i32(0x80)) - _i32(0x80)
    return _i32(min(_i32(most), _i32(low)) & _i32(0xFF))


@inline
def _plain(value: Any, most: Any) -> Any:
    """As `_code` for four bits; Q5_1 takes the byte as it is."""
    return _code(value, most) if most == 15 else _i32(truncated(value) & _i32(0xFF))
