"""Codes packed by halves, quarters or eighths (`_planar`), with scales and zeros.

3-bit codes lie in words of 32 bits, ten a word. What a code stands for is one of

    value = (code - zero) * scale
    value = code * scale - zero          ("after")

with a scale and a zero for each unit, or for each element of a period of columns. Nothing here is
bounds-checked: shapes are the callers' to check.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from anamnesis.kernels.bodies._affine import NUMBERS, formula
from anamnesis.kernels.bodies._codes import widen
from anamnesis.kernels.bodies._jit import jit, local, put, stack, variants
from anamnesis.kernels.bodies._loads import load_fields, load_half, load_plain
from anamnesis.kernels.bodies._lookup import load_numbers, look_up, table_for
from anamnesis.kernels.bodies._planar import LANES, shift_of
from anamnesis.kernels.bodies._vector import load16, load32, store, to_f32
from anamnesis.kernels.bodies.bits import u32
from anamnesis.kernels.types import Array, Bytes, Floats, Numbers, Words

_TILE = 2048  # scales that are made float32 at a time

_scales, _zeros = stack(4 * _TILE), stack(4 * _TILE)
_some, _rest = stack(LANES), stack(4 * LANES)


@jit
def _spread(
    data: Array, words: Array, at: int, count: int, bits: int, shift: int, codes: Array
) -> None:
    """`count` codes from byte or word `at` on, as bytes."""
    if bits == 3:
        for i in range(count):
            # Ten codes a word of 32 bits, three bits each; the two highest bits are padding.
            codes[i] = u32(u32(words[at + i] >> u32(shift)) & u32(7))
    else:
        # `8 / bits` codes a byte, each of another of as many parts of the tensor.
        down, mask = np.uint8(shift), np.uint8((1 << bits) - 1)
        for i in range(count):
            codes[i] = np.uint8(np.uint8(data[at + i] >> down) & mask)


@jit
def _widen(raw: Array, at: int, count: int, half: bool, out: Floats) -> None:
    """`count` scales from `at` on as float32."""
    whole = count - count % LANES
    if half:
        for i in range(0, whole, LANES):
            store(out, i, load_half(raw, at + i))
    else:
        for i in range(0, whole, LANES):
            store(out, i, load_plain(raw, at + i))
    widen(raw[at + whole : at + count], half, out[whole:])


# `data` and its `words`, the unit `base` of the first line, `period`, `size`, and whether codes of
# the first part are the lowest bits.
Planes: TypeAlias = tuple[Bytes, Words, int, int, int, bool]


@variants
def decode_units(bits: int, zero_is: str, once: int, twice: int) -> Any:
    """`(planes, scales, zeros, first, out)`: units of `size` elements with a scale and a zero each.

    They are those from unit `first` on, `scales` and `zeros` the window's. The formula is
    `formula(zero_is, once, twice)` of `_affine`.
    """
    value = formula(zero_is, once, twice, True)
    fields, mask = 10 if bits == 3 else 8 // bits, np.uint8((1 << bits) - 1)

    def run(planes: Planes, scales: Numbers, zeros: Numbers, first: int, out: Array) -> None:
        data, words, base, period, size, low = planes
        raw_scales, half_scales = scales
        raw_zeros, half_zeros = zeros
        units = raw_scales.shape[0]
        many = min(_TILE, max(1, units))
        scale, zero = local(_scales(), _TILE, np.float32), local(_zeros(), _TILE, np.float32)
        codes, rest = local(_some(), LANES, np.uint8), local(_rest(), LANES, np.float32)
        for start in range(0, units, many):
            count = min(many, units - start)
            _widen(raw_scales, start, count, half_scales, scale)
            _widen(raw_zeros, start, count, half_zeros, zero)
            for i in range(count):
                unit = first + start + i
                chunk = unit // period
                at = (unit - (base if base else chunk * period)) * size
                shift, to = shift_of(chunk, bits, fields, low), (start + i) * size
                if bits == 8:
                    for j in range(0, size - size % 32, 32):
                        code = to_f32(load32(data, at + j))
                        store(out, to + j, value(code, zero[i], scale[i]))
                    done = size - size % 32
                    while done < size:
                        part = min(LANES, size - done)
                        for j in range(part):
                            codes[j] = data[at + done + j]
                        code = to_f32(load16(codes, 0))
                        store(rest, 0, value(code, zero[i], scale[i]))
                        for j in range(part):
                            put(out, to + done + j, rest[j])
                        done += part
                    continue
                # At most 16 codes: their values are computed once a unit and looked up.
                code = load_numbers(NUMBERS, 0)
                numbers = value(code, zero[i], scale[i])
                table = table_for(out, numbers)
                whole = size - size % LANES
                if bits == 3:
                    for j in range(0, whole, LANES):
                        look_up(out, to + j, table, load_fields(words, at + j, shift))
                else:
                    down = np.uint8(shift)
                    for j in range(0, whole, LANES):
                        look_up(out, to + j, table, (load16(data, at + j) >> down) & mask)
                if whole < size:
                    _spread(data, words, at + whole, size - whole, bits, shift, codes)
                    store(rest, 0, numbers)
                    for j in range(whole, size):
                        put(out, to + j, rest[codes[j - whole]])

    return run


@variants
def decode_columns(bits: int, zero_is: str, once: int, twice: int) -> Any:
    """`(planes, scales, zeros, scale_base, first, out)`: element e with scale `e % columns`.

    They are those from element `first` on. `planes` begin with the code of element `base`, `scales`
    and `zeros` with that of element `scale_base`; in place of a size are the columns, which are
    elements as `period` is. Every element has numbers of its own, so that none is looked up.
    """
    value = formula(zero_is, once, twice, True)
    fields, mask = 10 if bits == 3 else 8 // bits, np.uint8((1 << bits) - 1)

    def run(
        planes: Planes, scales: Numbers, zeros: Numbers, scale_base: int, first: int, out: Array
    ) -> None:
        data, words, base, period, columns, low = planes
        raw_scales, half_scales = scales
        raw_zeros, half_zeros = zeros
        scale, zero = local(_scales(), _TILE, np.float32), local(_zeros(), _TILE, np.float32)
        codes, rest = local(_some(), LANES, np.uint8), local(_rest(), LANES, np.float32)
        to, stop = 0, out.shape[0]
        while to < stop:
            element = first + to
            chunk, column = element // period, element % columns
            # As far as neither the part, nor the line, nor the room for scales ends.
            count = min(stop - to, (chunk + 1) * period - element, columns - column, _TILE)
            at = element - (base if base else chunk * period)
            line = element - scale_base if scale_base else column
            _widen(raw_scales, line, count, half_scales, scale)
            _widen(raw_zeros, line, count, half_zeros, zero)
            shift, whole = shift_of(chunk, bits, fields, low), count - count % LANES
            down = np.uint8(shift)
            for i in range(0, whole, LANES):
                if bits == 3:
                    code = to_f32(load_fields(words, at + i, shift))
                else:
                    code = to_f32((load16(data, at + i) >> down) & mask)
                each, by = load_numbers(zero, i), load_numbers(scale, i)
                store(out, to + i, value(code, each, by))
            if whole < count:
                _spread(data, words, at + whole, count - whole, bits, shift, codes)
                code = to_f32(load16(codes, 0))
                each, by = load_numbers(zero, whole), load_numbers(scale, whole)
                store(rest, 0, value(code, each, by))
                for i in range(whole, count):
                    put(out, to + i, rest[i - whole])
            to += count

    return run
