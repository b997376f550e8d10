"""Casts of plain number formats: F32, F16, BF16 and F64 to float32 and to BF16 bits.

Layout: one little-endian number an element; the unit of a window is one element.
F64 is rounded once, from 64 bits to BF16, and not through float32 (no double rounding).
"""

from __future__ import annotations

import numpy as np

from anamnesis.kernels import Window
from anamnesis.kernels._native import kernel
from anamnesis.kernels.types import Array, Params, Views

_bf16 = kernel("dense:bf16")
_f16 = kernel("dense:f16")
_f32 = kernel("dense:f32")
_to_odd = kernel("dense:to_odd")


def _flat(blocks: Views, dtype: str) -> Array:
    return blocks["payload"].reshape(-1).view(dtype)


def decode_f32(blocks: Views, params: Params, window: Window, out: Array) -> None:
    """float32 numbers."""
    _f32(_flat(blocks, "<f4"), out)


def decode_f16(blocks: Views, params: Params, window: Window, out: Array) -> None:
    """IEEE binary16 numbers."""
    _f16(_flat(blocks, "<u2"), out)


def decode_bf16(blocks: Views, params: Params, window: Window, out: Array) -> None:
    """BF16 numbers."""
    _bf16(_flat(blocks, "<u2"), out)


def decode_f64(blocks: Views, params: Params, window: Window, out: Array) -> None:
    """IEEE binary64 numbers.

    For BF16, and for float32 that is only a stop (`params["narrowed"]`), float32 rounds to odd,
    which makes the rounding that follows the only one that counts.
    """
    source = _flat(blocks, "<f8")
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        single = source.astype(np.float32)
    if out.dtype == np.uint16 or params.get("narrowed"):
        _to_odd(source, single)
    _f32(single, out)
