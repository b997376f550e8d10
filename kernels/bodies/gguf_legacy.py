"""Bodies of `kernels/gguf_legacy.py`, which has the layout."""

from __future__ import annotations

from typing import Any

from anamnesis.kernels.bodies._jit import inline, jit
from anamnesis.kernels.bodies._vector import (
    join,
    load16,
    load32,
    load_bits32,
    load_half,
    signed,
    store,
    to_f32,
)
from anamnesis.kernels.types import Array, Bytes


@inline
def _nibbles(data: Bytes, at: int) -> Any:
    qs = load16(data, at)  # byte j has element j in its low half and 16 + j in its high one
    return join(qs & 15, qs >> 4)


# Scales come first: converting one branches, and a vector that lives across branches can be torn
# to scalars where the CPU has no register of its shape (the 32 bits of qh did: three times slower).


@jit
def q4_0(data: Bytes, out: Array) -> None:
    """Q4_0: d f16, qs[16]."""
    for block in range(data.shape[0] // 18):
        at = block * 18
        d = load_half(data, at)
        q = signed(_nibbles(data, at + 2) - 8)
        store(out, block * 32, to_f32(q) * d)


@jit
def q4_1(data: Bytes, out: Array) -> None:
    """Q4_1: d f16, m f16, qs[16]."""
    for block in range(data.shape[0] // 20):
        at = block * 20
        d, m = load_half(data, at), load_half(data, at + 2)
        q = _nibbles(data, at + 4)
        store(out, block * 32, to_f32(q) * d + m)


@jit
def q5_0(data: Bytes, out: Array) -> None:
    """Q5_0: d f16, qh u32, qs[16]."""
    for block in range(data.shape[0] // 22):
        at = block * 22
        d = load_half(data, at)
        # Bit j of qh is bit 4 of element j.
        q = signed((_nibbles(data, at + 6) | (load_bits32(data, at + 2) << 4)) - 16)
        store(out, block * 32, to_f32(q) * d)


@jit
def q5_1(data: Bytes, out: Array) -> None:
    """Q5_1: d f16, m f16, qh u32, qs[16]."""
    for block in range(data.shape[0] // 24):
        at = block * 24
        d, m = load_half(data, at), load_half(data, at + 2)
        # Bit j of qh is bit 4 of element j.
        q = _nibbles(data, at + 8) | (load_bits32(data, at + 4) << 4)
        store(out, block * 32, to_f32(q) * d + m)


@jit
def q8_0(data: Bytes, out: Array) -> None:
    """Q8_0: d f16, qs[32] int8."""
    for block in range(data.shape[0] // 34):
        at = block * 34
        d = load_half(data, at)
        q = signed(load32(data, at + 2))
        store(out, block * 32, to_f32(q) * d)
