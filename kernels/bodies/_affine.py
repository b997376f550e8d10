"""What a code stands for under the zero and the scale of its run.

    value = (code - zero) * scale          "before"
    value = code * scale + zero            "added"
    value = code * scale - zero            "after"
    value = code * scale                   "none"

Each step is float32. Libraries that compute in a narrower format round each step to it: the first
to `once`, the second to `twice`, numbers of `_narrow.KINDS`.

An applier takes `(codes, starts, span, zeros, scales, out, row)` for a row that begins at
`out[row]`. Run k is inputs `[starts[k], starts[k + 1])` and has `zeros[k]` and `scales[k]`; `span`
is the first input of `codes`, the first run, and the end of the runs. Codes of four bits are two a
byte, the first in the low half; others are a byte each. Nothing here is bounds-checked.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from anamnesis.kernels.bodies._jit import forced, inline, put
from anamnesis.kernels.bodies._lookup import load_numbers, load_u64, look_up, table_for
from anamnesis.kernels.bodies._narrow import rounded
from anamnesis.kernels.bodies._nibbles import look_up_8_low_first, look_up_low_first
from anamnesis.kernels.bodies._round import through_bf16, through_f16
from anamnesis.kernels.bodies._vector import load16, load32, signed, store, to_f32
from anamnesis.kernels.types import Array, Bytes, Floats, Real

NUMBERS = np.arange(16, dtype=np.float32)
SIGNED = np.array([*range(8), *range(-8, 0)], np.float32)


@inline
def narrowed(values: Floats, kind: int) -> Any:
    """Float32 lanes, rounded to the format that `kind` stands for."""
    if kind == 1:
        values = through_bf16(values)
    elif kind == 2:
        values = through_f16(values)
    return values


@cache
def formula(zero: str, once: int, twice: int, lanes: bool) -> Any:
    """`(code, zero, scale)`: the value of one float32, or of `lanes` of them."""
    narrow: Callable[..., Any] = narrowed if lanes else rounded
    if zero == "before":

        def value(code: Floats, zero: Floats, scale: Floats) -> Any:
            return narrow(narrow(code - zero, once) * scale, twice)

    elif zero == "added":

        def value(code: Floats, zero: Floats, scale: Floats) -> Any:
            return narrow(narrow(code * scale, once) + zero, twice)

    elif zero == "after":

        def value(code: Floats, zero: Floats, scale: Floats) -> Any:
            return narrow(narrow(code * scale, once) - zero, twice)

    else:

        def value(code: Floats, zero: Floats, scale: Floats) -> Any:
            return narrow(code * scale, twice)

    return inline(value)


@cache
def applier(bits: int, negative: bool, step: int, zero: str, once: int, twice: int) -> Any:
    """The applier for codes of that width, `negative` ones in two's complement (4 and 8 bits).

    All runs are multiples of `step`, 32, 16 or 1: what a vector leaves over is seldom compiled.
    """
    values = formula(zero, once, twice, True)
    value = formula(zero, once, twice, False)
    if bits == 4:
        return _of_nibbles(SIGNED if negative else NUMBERS, step, values, value)
    return _of_digits(step, values, value) if bits < 4 else _of_bytes(negative, step, values, value)


def _of_nibbles(
    numbers: Floats, step: int, values: Callable[..., Any], value: Callable[..., Any]
) -> Any:
    @inline
    def one(codes: Array, at: int, zero: Real, scale: Real) -> Any:
        return value(numbers[codes[at >> 1] >> 4 * (at & 1) & 15], zero, scale)

    def apply(
        codes: Bytes,
        starts: Array,
        span: tuple[int, ...],
        zeros: Floats,
        scales: Floats,
        out: Array,
        row: int,
    ) -> None:
        first, run, end = span
        at, to = starts[run] - first, row + first
        for k in range(run, end):
            zero, scale, stop = zeros[k], scales[k], starts[k + 1] - first
            # A run that begins in the high half of a byte: one code, then whole bytes.
            if step == 1 and at & 1:
                put(out, to + at, one(codes, at, zero, scale))
                at += 1
            # All sixteen values of the run, rounded once; each code is then a look-up.
            table = table_for(out, values(load_numbers(numbers, 0), zero, scale))
            while at + 32 <= stop:
                look_up_low_first(out, to + at, table, load16(codes, at >> 1))
                at += 32
            if step < 32 and at + 16 <= stop:
                look_up_8_low_first(out, to + at, table, load_u64(codes, at >> 1))
                at += 16
            if step == 1:
                while at < stop:
                    put(out, to + at, one(codes, at, zero, scale))
                    at += 1

    return forced(apply)


def _of_digits(step: int, values: Callable[..., Any], value: Callable[..., Any]) -> Any:
    def apply(
        codes: Bytes,
        starts: Array,
        span: tuple[int, ...],
        zeros: Floats,
        scales: Floats,
        out: Array,
        row: int,
    ) -> None:
        first, run, end = span
        at, to = starts[run] - first, row + first
        for k in range(run, end):
            zero, scale, stop = zeros[k], scales[k], starts[k + 1] - first
            table = table_for(out, values(load_numbers(NUMBERS, 0), zero, scale))
            while at + 16 <= stop:
                look_up(out, to + at, table, load16(codes, at))
                at += 16
            if step == 1:
                while at < stop:
                    put(out, to + at, value(np.float32(codes[at]), zero, scale))
                    at += 1

    return forced(apply)


def _of_bytes(
    negative: bool, step: int, values: Callable[..., Any], value: Callable[..., Any]
) -> Any:
    kind = np.int8 if negative else np.uint8

    @inline
    def lanes(codes: Bytes) -> Any:
        return to_f32(signed(codes)) if negative else to_f32(codes)

    def apply(
        codes: Bytes,
        starts: Array,
        span: tuple[int, ...],
        zeros: Floats,
        scales: Floats,
        out: Array,
        row: int,
    ) -> None:
        first, run, end = span
        at, to = starts[run] - first, row + first
        for k in range(run, end):
            zero, scale, stop = zeros[k], scales[k], starts[k + 1] - first
            begin = at
            while at + 32 <= stop:
                store(out, to + at, values(lanes(load32(codes, at)), zero, scale))
                at += 32
            if step < 32 and at + 16 <= stop:
                store(out, to + at, values(lanes(load16(codes, at)), zero, scale))
                at += 16
            if step == 1 and at < stop:
                if stop - begin >= 16:  # the last sixteen, some of them for the second time
                    at = stop - 16
                    store(out, to + at, values(lanes(load16(codes, at)), zero, scale))
                    at = stop
                while at < stop:
                    put(out, to + at, value(np.float32(kind(codes[at])), zero, scale))
                    at += 1

    return forced(apply)
