"""Where the scales and minimums lie inside ggml's blocks; one row an encoding, sorted by name.

The layouts are those at the head of the kernels' files (`kernels/gguf_*.py`), where ggml's sources
are cited. A block of n runs has `scales[j]` and `minimums[j]` for run j of its elements, in order:

    value = scales[j] * code + minimums[j]

with the format's own integer codes, grid points or E2M1 numbers. `scale` and `minimum` are what is
stored once a block: `d`, and `m` or `dmin`. A block without inner scales has `scales = [scale]`.
Of ik_llama.cpp's types that have a scale a row, and for IQ6_K, whose values are no integers, the
inner scales are left out; a "block" of the former is a row.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from anamnesis.kernels.types import Array

Read = Callable[[Array], Array]  # uint8 [blocks, bytes] -> float32 [blocks] or [blocks, runs]


@dataclass(frozen=True, slots=True)
class Fields:
    """`runs` and `dips` are the factors of `scale` and of `minimum` for each run.

    A `minimum` with `dips` is taken away (dmin of the K-quants), one without is added (m).
    """

    scale: Read
    runs: Read | None = None
    minimum: Read | None = None
    dips: Read | None = None


def _half(offset: int) -> Read:
    """A binary16."""
    return lambda b: _words(b, offset, "<f2", 1)[:, 0].astype(np.float32)


def _words(blocks: Array, offset: int, kind: str, count: int) -> Array:
    nbytes = np.dtype(kind).itemsize * count
    return blocks[:, offset : offset + nbytes].view(kind)  # strided, and mostly not aligned


def _bits(words: Array, shifts: Array, mask: int) -> Any:
    """Fields of the words `[blocks]`, one a shift."""
    return words[:, None] >> np.asarray(shifts, words.dtype) & words.dtype.type(mask)


def _affine(codes: Array, factor: float, offset: float) -> Array:
    return codes.astype(np.float32) * np.float32(factor) + np.float32(offset)


def _halves(offset: int, count: int, factor: float = 1, plus: float = 0) -> Read:
    """Two scales a byte, the low half first: `factor * s + plus`."""

    def read(blocks: Array) -> Array:
        some = blocks[:, offset : offset + count // 2]
        return _affine(np.stack([some & 15, some >> 4], 2).reshape(-1, count), factor, plus)

    return read


def _part(offset: int, count: int, shift: int) -> Read:
    """One nibble of each byte."""
    return lambda b: _affine(b[:, offset : offset + count] >> shift & 15, 1, 0)


def _int8(offset: int, count: int) -> Read:
    return lambda b: _words(b, offset, "i1", count).astype(np.float32)


def _six_bits(offset: int, first: int) -> Read:
    """Q4_K and Q5_K: eight scales (`first` 0) or minimums (4) of six bits in twelve bytes."""

    def read(blocks: Array) -> Array:
        low, own = blocks[:, offset + 8 : offset + 12], blocks[:, offset + first :][:, :4]
        upper = (low >> first & 15) | (own >> 6 << 4)
        return _affine(np.concatenate([own & 63, upper], 1), 1, 0)

    return read


def _q3_k(blocks: Array) -> Array:
    low, high = blocks[:, 96:104], blocks[:, 104:108]
    fours = np.concatenate([low & 15, low >> 4], 1)
    pairs = np.concatenate([high >> shift & 3 for shift in (0, 2, 4, 6)], 1)
    return _affine(fours | pairs << 4, 1, -32)


def _top_bits(offset: int, gap: int, factor: float, plus: float) -> Read:
    """The four highest bits of eight little-endian words, `gap` bytes apart."""
    return lambda b: _affine(b[:, offset + 3 : offset + 8 * gap : gap] >> 4, factor, plus)


def _iq4_xs(blocks: Array) -> Array:
    high, low = _words(blocks, 2, "<u2", 1)[:, 0], _words(blocks, 4, "<u4", 1)[:, 0]
    runs = np.arange(8)
    return _affine(_bits(low, 4 * runs, 15) | _bits(high, 2 * runs, 3).astype("<u4") << 4, 1, -32)


def _iq1_s(blocks: Array) -> Array:
    return _affine(_words(blocks, 34, "<u2", 8) >> 12 & 7, 2, 1)


def _iq1_m(blocks: Array) -> Array:
    runs = np.arange(16)
    words = _words(blocks, 48, "<u8", 1)[:, 0]
    return _affine(_bits(words, 16 * (runs // 4) + 3 * (runs % 4), 7), 2, 1)


def _iq1_m_d(blocks: Array) -> Array:
    tops = _words(blocks, 48, "<u2", 4) >> 12
    half = tops[:, 0] | tops[:, 1] << 4 | tops[:, 2] << 8 | tops[:, 3] << 12
    return half.astype("<u2").view("<f2").astype(np.float32)


def _e8m0(blocks: Array) -> Array:
    """ggml's reading: 255 is 2**128, which float32 does not have."""
    with np.errstate(over="ignore"):
        return np.ldexp(np.float32(1), blocks[:, 0].astype(np.int32) - 127)


def _single(blocks: Array) -> Array:
    return _words(blocks, 0, "<f4", 1)[:, 0].astype(np.float32)


def _iq3_k(blocks: Array) -> Any:
    signs = _bits(_words(blocks, 4, "<u2", 1)[:, 0], np.arange(16), 1).astype(np.float32)
    return _halves(6, 16, 2, 1)(blocks) * (1 - 2 * signs)


def _iq4_k(blocks: Array) -> Array:
    pairs = np.stack([blocks[:, 4:8] >> shift & 3 for shift in (0, 2, 4, 6)], 2)
    return _halves(8, 16)(blocks) + _affine(pairs.reshape(-1, 16), 16, -32)


def _one(blocks: Array) -> Array:
    return np.ones(len(blocks), np.float32)


def _ue4m3(blocks: Array) -> Array:
    codes = blocks[:, :4] & 0x7F
    exponent, mantissa = (codes >> 3).astype(np.int32), (codes & 7).astype(np.float32)
    scales = np.ldexp(mantissa + np.float32(8) * (exponent > 0), np.maximum(exponent, 1) - 10)
    return np.where(codes == 0x7F, np.float32(0), scales.astype(np.float32))


FIELDS: dict[str, Fields] = {
    "gguf-iq1-bn": Fields(_half(0)),
    "gguf-iq1-kt": Fields(_single),
    "gguf-iq1-m": Fields(_iq1_m_d, _iq1_m),
    "gguf-iq1-s": Fields(_half(0), _iq1_s),
    "gguf-iq2-bn": Fields(_single),
    "gguf-iq2-k": Fields(_half(0), _halves(4, 16, 1, -8)),
    "gguf-iq2-kl": Fields(_half(0)),
    "gguf-iq2-ks": Fields(_half(0)),
    "gguf-iq2-kt": Fields(_single),
    "gguf-iq2-s": Fields(_half(0), _halves(74, 16, 0.25, 0.125)),
    "gguf-iq2-xs": Fields(_half(0), _halves(66, 16, 0.25, 0.125)),
    "gguf-iq2-xxs": Fields(_half(0), _top_bits(6, 8, 0.25, 0.125)),
    "gguf-iq3-k": Fields(_half(0), _iq3_k),
    "gguf-iq3-ks": Fields(_half(0)),
    "gguf-iq3-kt": Fields(_single),
    "gguf-iq3-s": Fields(_half(0), _halves(106, 8, 2, 1)),
    "gguf-iq3-xxs": Fields(_half(0), _top_bits(66, 4, 0.5, 0.25)),
    "gguf-iq4-k": Fields(_half(0), _iq4_k),
    "gguf-iq4-ks": Fields(_single),
    "gguf-iq4-kss": Fields(_single),
    "gguf-iq4-kt": Fields(_single),
    "gguf-iq4-nl": Fields(_half(0)),
    "gguf-iq4-xs": Fields(_half(0), _iq4_xs),
    "gguf-iq5-k": Fields(_half(0), _iq4_k),
    "gguf-iq5-ks": Fields(_single),
    "gguf-iq6-k": Fields(_half(0)),
    "gguf-mxfp4": Fields(_e8m0),
    "gguf-nvfp4": Fields(_one, _ue4m3),
    "gguf-q1-0": Fields(_half(0)),
    "gguf-q2-0": Fields(_half(0)),
    "gguf-q2-0-g128": Fields(_half(0)),
    "gguf-q2-k": Fields(_half(80), _part(0, 16, 0), _half(82), _part(0, 16, 4)),
    "gguf-q3-k": Fields(_half(108), _q3_k),
    "gguf-q4-0": Fields(_half(0)),
    "gguf-q4-1": Fields(_half(0), minimum=_half(2)),
    "gguf-q4-k": Fields(_half(0), _six_bits(4, 0), _half(2), _six_bits(4, 4)),
    "gguf-q5-0": Fields(_half(0)),
    "gguf-q5-1": Fields(_half(0), minimum=_half(2)),
    "gguf-q5-k": Fields(_half(0), _six_bits(4, 0), _half(2), _six_bits(4, 4)),
    "gguf-q6-0": Fields(_half(0)),
    "gguf-q6-k": Fields(_half(208), _int8(192, 16)),
    "gguf-q8-0": Fields(_half(0)),
    "gguf-tq1-0": Fields(_half(52)),
    "gguf-tq2-0": Fields(_half(64)),
}


def read_fields(
    encoding: str, blocks: Array, wanted: Collection[str] = ("scales", "minimum", "minimums")
) -> dict[str, Any]:
    """`scale`, and those of `scales`, `minimum` and `minimums` that are wanted and there; float32.

    `blocks` is uint8 `[blocks, block bytes]`; the lists are `[blocks, runs]`.
    """
    fields = FIELDS[encoding]
    scale = fields.scale(blocks)
    found = {"scale": scale}
    with np.errstate(all="ignore"):
        if "scales" in wanted:
            runs = fields.runs
            found["scales"] = scale[:, None] if runs is None else scale[:, None] * runs(blocks)
        if fields.minimum is not None and ("minimum" in wanted or "minimums" in wanted):
            minimum = found["minimum"] = fields.minimum(blocks)
            if "minimums" in wanted:
                dips = fields.dips
                found["minimums"] = minimum[:, None]
                if dips is not None:
                    found["minimums"] = -minimum[:, None] * dips(blocks)
    return found
