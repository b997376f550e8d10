"""Where the bits of ik_llama.cpp's repacked rows are: X_R4 and X_R8, four or eight rows of type X.

A repacked block holds the bits of one block of each row, and nothing else; here they are found. Of
signs in seven bits (IQ2_XXS, IQ2_XS, IQ3_XXS) each is repacked as the parity of it and those below,
so that it is the difference of two repacked ones.
`bits` are the numbers of the plain blocks' bits, `[rows, bytes, 8]`; a layout is what stands where,
field after field. Codes stand in lines of four elements of every row in turn, and bytes of a line
have a field of each of several elements of a run of 32. Source:
https://github.com/ikawrakow/ik_llama.cpp ggml/src/iqk/iqk_quantize.cpp (`repack_*`, `convert_*`),
ggml/src/ggml-common.h (`block_*_r4`, `block_*_r8`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from anamnesis.kernels.types import Array, Ints

Lines = tuple[tuple[int, ...], ...]

# First elements of the fields of each line's bytes, lowest bits first.
_NIBBLES: Lines = ((0, 8), (16, 24), (4, 12), (20, 28))
_PAIRS: Lines = ((0, 4, 8, 12), (16, 20, 24, 28))
_PAIRS_Q6_K: Lines = ((0, 8, 4, 12), (16, 24, 20, 28))
_BITS: Lines = ((0, 4, 8, 12, 16, 20, 24, 28),)
_BITS_Q5_0: Lines = ((0, 16, 4, 20, 8, 24, 12, 28),)
_BITS_Q5_K: Lines = ((0, 8, 4, 12, 16, 24, 20, 28),)
_BITS_IQ5: Lines = ((0, 8, 16, 24, 4, 12, 20, 28),)
_NIBBLES_R8: Lines = ((0, 4), (8, 12), (16, 20), (24, 28))
_NIBBLES_Q4_0: Lines = ((0, 16), (4, 20), (8, 24), (12, 28))
_BYTES: Lines = ((0,), (4,), (8,), (12,), (16,), (20,), (24,), (28,))


def _in_lines(codes: Array, lines: Lines) -> Array:
    """Bits of codes `[rows, elements, bits]` in lines, `[runs, lines, rows, 4, fields, bits]`."""
    runs = codes.reshape(len(codes), -1, 32, codes.shape[2])
    some = [np.stack([runs[:, :, i : i + 4] for i in line], 3) for line in lines]
    return np.stack(some, 2).transpose(1, 2, 0, 3, 4, 5)


def _apart(field: Array, half: int) -> Array:
    """Nibbles of a plain field, `[rows, elements, 4]`: low ones of `half` bytes, then high ones."""
    pairs = field.reshape(len(field), -1, half, 2, 4)
    return pairs.transpose(0, 1, 3, 2, 4).reshape(len(field), -1, 4)


def _planes(field: Array, bits: int) -> Array:
    """Fields of `bits` of 32 bytes, `[rows, elements, bits]`: the lowest of each byte first."""
    planes = field.reshape(len(field), -1, 32, 8 // bits, bits)
    return planes.transpose(0, 1, 3, 2, 4).reshape(len(field), -1, bits)


def _by_runs(field: Array, runs: int) -> Array:
    """What belongs to runs `[rows, bytes, 8]`, run after run, and row after row in each."""
    return field.reshape(len(field), runs, -1).swapaxes(0, 1)


def _spread(numbers: Array, parts: int) -> Array:
    """Bits of a run's number `[rows, runs, bits]`, in bytes with one of each of `parts` of all."""
    flat = numbers.swapaxes(0, 1).reshape(parts, -1, numbers.shape[2])
    return flat.swapaxes(0, 1)


def _d(bits: Array, at: int = 0) -> Array:
    return bits[:, at : at + 2]


def _q4_0(bits: Array) -> list[Array]:
    return [_d(bits), _in_lines(_apart(bits[:, 2:18], 16), _NIBBLES_Q4_0)]


def _q8_0(bits: Array) -> list[Array]:
    return [_d(bits), _in_lines(bits[:, 2:34], _BYTES)]


def _q5_0(bits: Array) -> list[Array]:
    high = bits[:, 2:6].reshape(len(bits), 32, 1)
    low = _in_lines(_apart(bits[:, 6:22], 16), _NIBBLES)
    return [_d(bits), _in_lines(high, _BITS_Q5_0), low]


def _q6_0(bits: Array) -> list[Array]:
    # Byte m has two bits of the elements m, 16 + m, 8 + m and 24 + m.
    high = bits[:, 2:10].reshape(-1, 8, 2, 2, 2).transpose(0, 3, 2, 1, 4).reshape(-1, 32, 2)
    low = _in_lines(_apart(bits[:, 10:26], 16), _NIBBLES)
    return [_d(bits), _in_lines(high, _PAIRS), low]


def _iq4_nl(bits: Array) -> list[Array]:
    return [_d(bits), _in_lines(_apart(bits[:, 2:18], 16), _NIBBLES)]


def _q2_k(bits: Array) -> list[Array]:
    codes = _in_lines(_planes(bits[:, 16:80], 2), _PAIRS)
    return [_d(bits, 80), _d(bits, 82), _by_runs(bits[:, :16], 16), codes]


def _q3_k(bits: Array) -> list[Array]:
    rows = len(bits)
    low = bits[:, 96:104].reshape(rows, 8, 2, 4).swapaxes(1, 2).reshape(rows, 16, 4)
    high = bits[:, 104:108].reshape(rows, 4, 4, 2).swapaxes(1, 2).reshape(rows, 16, 2)
    top = _in_lines(_planes(bits[:, :32], 1), _BITS)
    codes = _in_lines(_planes(bits[:, 32:96], 2), _PAIRS)
    return [_d(bits, 108), _spread(high, 4), _spread(low, 2), top, codes]


def _k_scales(scales: Array) -> list[Array]:
    """Scales and minimums of Q4_K and Q5_K, six bits each, of twelve bytes."""
    first, second, last = scales[:, :4], scales[:, 4:8], scales[:, 8:]
    low = np.concatenate(
        [np.concatenate([first[..., :4], second[..., :4]], 2), last.reshape(len(scales), 4, 8)], 1
    )
    high = np.concatenate(
        [np.concatenate([first[..., s], second[..., s]], 2) for s in (slice(4, 6), slice(6, 8))], 1
    )
    return [_spread(high, 2), low.swapaxes(0, 1)]


def _q4_k(bits: Array) -> list[Array]:
    codes = _in_lines(_apart(bits[:, 16:144], 32), _NIBBLES)
    return [_d(bits), _d(bits, 2), *_k_scales(bits[:, 4:16]), codes]


def _q5_k(bits: Array) -> list[Array]:
    top = _in_lines(_planes(bits[:, 16:48], 1), _BITS_Q5_K)
    codes = _in_lines(_apart(bits[:, 48:176], 32), _NIBBLES)
    return [_d(bits), _d(bits, 2), *_k_scales(bits[:, 4:16]), top, codes]


def _q6_k(bits: Array) -> list[Array]:
    high = _in_lines(_planes(bits[:, 128:192], 2), _PAIRS_Q6_K)
    low = _in_lines(_apart(bits[:, :128], 64), _NIBBLES)
    return [_d(bits, 208), _by_runs(bits[:, 192:208], 16), high, low]


def _extra(bits: Array) -> Array:
    """Bits of pairs of runs: those of all first ones, then of all second ones."""
    return bits[:, 2:4].reshape(len(bits), 8, 2).transpose(2, 0, 1)


def _iq2_k(bits: Array) -> list[Array]:
    scales = _spread(bits[:, 4:12].reshape(len(bits), 16, 4), 2)
    return [_d(bits), _extra(bits), scales, _in_lines(_planes(bits[:, 12:76], 2), _PAIRS)]


def _iq3_k(bits: Array) -> list[Array]:
    high = _spread(bits[:, 4:6].reshape(len(bits), 16, 1), 8)
    low = _spread(bits[:, 6:14].reshape(len(bits), 16, 4), 2)
    codes = _in_lines(_planes(bits[:, 14:78], 2), _PAIRS)
    return [_d(bits), _extra(bits), high, low, codes, _in_lines(_planes(bits[:, 78:], 1), _BITS)]


def _iq4_k(bits: Array) -> list[Array]:
    high = _spread(bits[:, 4:8].reshape(len(bits), 16, 2), 4)
    low = _spread(bits[:, 8:16].reshape(len(bits), 16, 4), 2)
    return [_d(bits), _extra(bits), high, low, _in_lines(_apart(bits[:, 16:144], 16), _NIBBLES)]


def _iq5_k(bits: Array) -> list[Array]:
    codes = _in_lines(_apart(bits[:, 16:144], 32), _NIBBLES)
    return [*_iq4_k(bits)[:4], codes, _in_lines(_planes(bits[:, 144:], 1), _BITS_IQ5)]


def _iq2_bn(bits: Array) -> list[Array]:
    # Byte 16 l + 4 k + i has elements 16 l + i + 4 m of row k, m from the lowest bits on.
    codes = bits.reshape(len(bits), 4, 4, 4, 2)
    return [codes.transpose(3, 0, 2, 1, 4)]


def _mxfp4(bits: Array) -> list[Array]:
    return [bits[:, :1], _in_lines(_apart(bits[:, 1:17], 16), _NIBBLES_Q4_0)]


def _iq4_ks(bits: Array) -> list[Array]:
    return [_by_runs(bits[:, :8], 8), _in_lines(_apart(bits[:, 8:136], 16), _NIBBLES)]


def _iq5_ks(bits: Array) -> list[Array]:
    codes = _in_lines(_apart(bits[:, 8:136], 32), _NIBBLES)
    return [_by_runs(bits[:, :8], 8), codes, _in_lines(_planes(bits[:, 136:], 1), _BITS_IQ5)]


def _iq4_xs(bits: Array) -> list[Array]:
    high = _spread(bits[:, 2:4].reshape(len(bits), 8, 2), 4)
    low = _spread(bits[:, 4:8].reshape(len(bits), 8, 4), 2)
    return [_d(bits), high, low, _in_lines(_apart(bits[:, 8:136], 16), _NIBBLES_R8)]


def _iq2_s(bits: Array) -> list[Array]:
    parts = [bits[:, 2:34], bits[:, 66:74], bits[:, 34:66], bits[:, 74:82]]
    return [_d(bits), *(_by_runs(part, 8) for part in parts)]


def _with_signs(words: Array) -> Array:
    """Four times seven signs and four bits of a scale, `[rows, runs, 32]`, as bytes of both."""
    signs = words[:, :, :28].reshape(*words.shape[:2], 4, 7)
    return np.concatenate([words[:, :, 28:, None], signs], 3)


def _iq2_xxs(bits: Array) -> list[Array]:
    runs = bits[:, 2:66].reshape(len(bits), 8, 64)
    signs = _with_signs(runs[:, :, 32:]).swapaxes(0, 1)
    return [_d(bits), signs, runs[:, :, :32].swapaxes(0, 1)]


def _iq2_xs(bits: Array) -> list[Array]:
    return [_d(bits), _by_runs(bits[:, 2:66], 8), _by_runs(bits[:, 66:74], 8)]


def _iq3_xxs(bits: Array) -> list[Array]:
    signs = _with_signs(bits[:, 66:98].reshape(len(bits), 8, 32)).swapaxes(0, 1)
    return [_d(bits), signs, _by_runs(bits[:, 2:66], 8)]


def _iq3_s(bits: Array) -> list[Array]:
    # Grid points 4 h + i of a run: h, then rows, in the order of i.
    points = bits[:, 2:66].reshape(len(bits), 8, 2, 4, 8).transpose(1, 3, 2, 0, 4)
    signs = _in_lines(bits[:, 74:106].reshape(len(bits), 256, 1), _BITS)
    scales = _spread(bits[:, 106:110].reshape(len(bits), 8, 4), 2)
    return [_d(bits), points, _by_runs(bits[:, 66:74], 8), signs, scales]


_LAYOUTS: dict[str, Callable[[Array], list[Array]]] = {
    "gguf-iq2-k": _iq2_k,
    "gguf-iq2-s": _iq2_s,
    "gguf-iq2-xs": _iq2_xs,
    "gguf-iq2-xxs": _iq2_xxs,
    "gguf-iq3-k": _iq3_k,
    "gguf-iq3-s": _iq3_s,
    "gguf-iq3-xxs": _iq3_xxs,
    "gguf-iq4-k": _iq4_k,
    "gguf-iq2-bn": _iq2_bn,
    "gguf-iq4-ks": _iq4_ks,
    "gguf-iq4-nl": _iq4_nl,
    "gguf-iq4-xs": _iq4_xs,
    "gguf-iq5-k": _iq5_k,
    "gguf-iq5-ks": _iq5_ks,
    "gguf-mxfp4": _mxfp4,
    "gguf-q2-k": _q2_k,
    "gguf-q3-k": _q3_k,
    "gguf-q4-0": _q4_0,
    "gguf-q4-k": _q4_k,
    "gguf-q5-0": _q5_0,
    "gguf-q5-k": _q5_k,
    "gguf-q6-0": _q6_0,
    "gguf-q6-k": _q6_k,
    "gguf-q8-0": _q8_0,
}


# First bits of each seven signs of a plain block.
_SIGNS: dict[str, Array] = {
    "gguf-iq2-xs": 16 + 9 + 16 * np.arange(32),
    "gguf-iq2-xxs": 16 + 32 + (64 * np.arange(8)[:, None] + 7 * np.arange(4)).reshape(-1),
    "gguf-iq3-xxs": 8 * 66 + (32 * np.arange(8)[:, None] + 7 * np.arange(4)).reshape(-1),
}


@cache
def moves(plain: str, rows: int, block_bytes: int) -> Ints:
    """How the plain blocks of `rows` rows are put together again from one repacked block.

    int32 `[moves, 6]`: a repacked byte, how far down, the mask, how far up, the row and its byte
    of the plain block. What they move there is joined by "exclusive or".
    """
    count = rows * block_bytes * 8
    bits = np.arange(count).reshape(rows, block_bytes, 8)
    order = np.concatenate([part.reshape(-1) for part in _LAYOUTS[plain](bits)])
    place: Any = np.empty(count, np.int64)
    place[order] = np.arange(count)
    # Bits that follow one another, in one byte on both sides, move together.
    first = np.ones(count, bool)
    first[1:] = (place[1:] != place[:-1] + 1) | (place[1:] % 8 == 0)
    first[::8] = True
    begin = np.flatnonzero(first)
    length = np.diff(begin, append=count)
    source = place[begin]
    if plain in _SIGNS:
        # All but the first of seven signs, a bit each, from where the one below is repacked.
        signs = (bits.reshape(rows, -1)[:, _SIGNS[plain], None] + np.arange(1, 7)).reshape(-1)
        begin, source = np.append(begin, signs), np.append(source, place[signs - 1])
        length = np.append(length, np.ones_like(signs))
    to = np.divmod(begin >> 3, block_bytes)
    table = np.stack([source >> 3, source & 7, (1 << length) - 1, begin & 7, *to], 1)
    return np.ascontiguousarray(table, np.int32)
