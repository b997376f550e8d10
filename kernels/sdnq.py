"""SDNQ: integers and small floats of 2 to 8 bits, eight codes at a time, with scales in groups.

| part | stored | content |
|---|---|---|
| `payload` | U8, or the kind's dtype | codes of rows `[out, in]`, packed without regard to rows |
| `scale` | F32, F16 or BF16 `[out, groups]` | one for each group of neighbours in a row |
| `zero_point` | the same, of unsigned kinds | added, a number like the weights |

A row of a convolution is `[groups, inputs, spatial]`, and a scale is for the inputs of a group:
`[out, groups, spatial]`. Codes of whole bytes may be `transposed`: `[in, out]`.

    value = code * scale + zero_point     unsigned: product and sum each float32, rounded once
    value = (code + least) * scale        signed, `least` -2 ** (b - 1)

Codes of 2, 4 and 8 bits follow one another, the first in the lowest bits. Of the others, c0 to
c7, or to c3 of six bits, lie in b bytes, or in three; `c[i:j]` are bits i to j - 1, and byte k has

| bits | lowest | above |
|---|---|---|
| 3 | c0, c1, c2 | c3, c4, c5, then c6[0:2], c7[0:2], and in byte 2 c6[2:3], c7[2:3] |
| 5 | c0 to c4 | c5[0:3], c6[0:3], c7[0:3], then c5[3:5] and c7[4:5], c6[3:5] and c7[3:4] |
| 6 | c0, c1, c2 | c3[4:6], c3[2:4], c3[0:2] |
| 7 | c0 to c6 | c7[6:7], c7[5:6], … c7[0:1] |

A float of e exponent and m mantissa bits has the bias 2 ** (e - 1) - 1, subnormals, and neither
infinities nor NaNs; -0 is 0. Sources: PyPI sdnq 0.2.8 packed_int/pack.py, packed_float.py
(`unpack_float`), dequantizer.py.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from anamnesis.kernels import Window, fp8
from anamnesis.kernels._affine import Affine, decode_rows, even_groups, numbers
from anamnesis.kernels._codes import bits_of, read_scales
from anamnesis.kernels._native import kernel
from anamnesis.kernels.types import Array, Bytes, Floats, Params, Views, Wholes

_FLOAT = re.compile(r"float(\d)_e(\d)m(\d)fn(u?)")
_BYTES = {"float8_e4m3fn": fp8.E4M3, "float8_e5m2": fp8.E5M2}
_WIDE = {"bfloat16": "BF16", "float16": "F16", "float32": "F32", "int16": "<i2", "uint16": "<u2"}
_STREAMS = (2, 4, 8)
_round = kernel("folded:round_values")


def prepare(scalars: Params, wholes: Wholes) -> dict[str, Any]:
    """What codes of a `kind` mean (uint4, float6_e3m2fn, …): `affine`, a `table`, a `wide` dtype.

    The table is one of codes, or of bytes `[256, n]` where these hold `n` each.

    `scalars`: `kind`, `bits`, `scale_dtype`, `spatial`. Raises ValueError for a kind that SDNQ does
    not have.
    """
    kind, bits = scalars["kind"], scalars["bits"]
    if kind in _WIDE:
        return {"wide": _WIDE[kind]}
    if "int" not in kind or scalars["spatial"]:
        table = _integers(kind, bits) if "int" in kind else float_table(kind)
        if bits < 8 and bits in _STREAMS:
            # What each byte holds, the first code in its lowest bits.
            table = table[np.arange(256)[:, None] >> np.arange(0, 8, bits) & ((1 << bits) - 1)]
        return {"table": table}
    signed = not kind.startswith("u")
    held = bits if bits in _STREAMS else 8
    affine = Affine(
        held,
        scalars["scale_dtype"],
        signed=signed and bits == 8,
        zero="before" if signed else "added",
        small=signed,
    )
    return {"affine": affine, "middle": 1 << (bits - 1) if signed and bits < 8 else 0}


def _integers(kind: str, bits: int) -> Floats:
    """The value of each code of an integer kind of up to 8 bits, float32."""
    codes = np.arange(1 << bits)
    if not kind.startswith("u"):
        codes = codes.astype(np.uint8).view(np.int8) if bits == 8 else codes - (1 << (bits - 1))
    return codes.astype(np.float32)


def float_table(kind: str) -> Floats:
    """The value of each code of a kind, float32; raises ValueError for a kind that is none."""
    if kind in _BYTES:
        return _BYTES[kind].values
    found = _FLOAT.fullmatch(kind)
    if found is None:
        raise ValueError(f"{kind} is no float of up to 8 bits")
    bits, exponent, mantissa = (int(found[part]) for part in (1, 2, 3))
    signed = not found[4]
    if signed + exponent + mantissa != bits or not exponent or bits > 8:
        raise ValueError(f"{kind} is no float of up to 8 bits")
    code = np.arange(1 << bits)
    # From the lowest bits on: mantissa, exponent, sign.
    fraction, power = code & ((1 << mantissa) - 1), code >> mantissa & ((1 << exponent) - 1)
    bias = (1 << (exponent - 1)) - 1
    whole = np.where(power > 0, fraction + (1 << mantissa), fraction)
    values = np.ldexp(whole.astype(np.float32), np.maximum(power, 1) - bias - mantissa)
    negative = signed & (code >> (bits - 1) == 1) & (whole > 0)
    return np.where(negative, -values, values).astype(np.float32)


def decode(blocks: Views, params: Params, window: Window, out: Array) -> None:
    """Rows `window`: uint8 `[rows, bytes]` of `payload`, `scale` and `zero_point`.

    `params`: `bits`, `columns`, `group_size`, `scale_dtype`, `spatial`, the sizes of a
    convolution's kernel, `transposed`, with which `payload` is `[columns, bytes]`, and what
    `prepare` made. Raises ValueError for arrays that do not fit one another.
    """
    columns, size, bits = params["columns"], params["group_size"], params["bits"]
    inner = math.prod(params["spatial"])
    raw = np.ascontiguousarray(blocks["payload"])
    if params["transposed"]:
        raw = np.ascontiguousarray(raw.view(f"u{bits // 8}").T).view(np.uint8)
    raw = raw.reshape(-1)
    scale = np.ascontiguousarray(blocks["scale"])
    zero: Any = blocks.get("zero_point")
    rows, width = window.stop - window.start, 4 if params["scale_dtype"] == "F32" else 2
    groups = columns // max(1, size * inner)
    if raw.shape[0] * 8 != rows * columns * bits or out.shape != (rows * columns,):
        raise ValueError(f"payload {raw.shape}, out {out.shape}: {rows} rows of {columns}")
    if any(
        part.shape != (rows, groups * inner * width)
        for part in (scale, scale if zero is None else zero)
    ):
        raise ValueError(f"scale {scale.shape} for {rows} rows of {groups} groups")
    streams = raw if bits in _STREAMS or bits > 8 else unpack(raw, bits)
    if "affine" not in params:
        shape = (rows, groups, size, inner) if inner > 1 else (rows, groups, size)
        _floats(streams, zero, scale, shape, params, out)
        return
    affine = params["affine"]
    if affine.zero == "added":
        zeros = bits_of(affine.scale_dtype, zero)
    else:
        zeros = numbers(np.full((1, groups), params["middle"], np.float32))
    scales = bits_of(affine.scale_dtype, scale)
    decode_rows(affine, even_groups(columns, size), streams.reshape(rows, -1), zeros, scales, out)


def _floats(
    streams: Bytes,
    zero: Any,
    scale: Bytes,
    shape: tuple[int, ...],
    params: Params,
    out: Array,
) -> None:
    """Codes, or bytes of several, by the table of their kind, or as the numbers that they are."""
    dtype = params["scale_dtype"]
    wide = params.get("wide", "")
    if wide.startswith("<"):
        values = streams.view(wide).astype(np.float32).reshape(shape)
    elif wide:
        values = read_scales(wide, streams).reshape(shape)
    else:
        values = params["table"].take(streams, axis=0).reshape(shape)
    with np.errstate(invalid="ignore", over="ignore"):  # no warning of what a file says
        grid = (*shape[:2], 1, *shape[3:])
        values = values * read_scales(dtype, scale).reshape(grid)
        if zero is not None:
            values += read_scales(dtype, np.ascontiguousarray(zero)).reshape(grid)
    _round(values.reshape(-1), out)


def unpack(data: Bytes, bits: int) -> Bytes:
    """Codes of 3, 5, 6 or 7 bits as bytes, of uint8 of whole eights (fours of six bits)."""
    # A line for each byte of a pack: loops over packs are long, over their bytes short.
    packs = np.ascontiguousarray(data.reshape(-1, 3 if bits == 6 else bits).T)
    codes = np.empty((4 if bits == 6 else 8, packs.shape[1]), np.uint8)
    _UNPACK[bits](packs, codes)
    return np.ascontiguousarray(codes.T).reshape(-1)


def _three(packs: Bytes, codes: Bytes) -> None:
    codes[:3], codes[3:6] = packs & 7, packs >> 3 & 7
    codes[6] = packs[0] >> 6 | packs[2] >> 4 & 4
    codes[7] = packs[1] >> 6 | packs[2] >> 5 & 4


def _five(packs: Bytes, codes: Bytes) -> None:
    codes[:5], codes[5:] = packs & 31, packs[:3] >> 5
    codes[5] |= packs[3] >> 2 & 24
    codes[6] |= packs[4] >> 2 & 24
    codes[7] |= packs[3] >> 3 & 16 | packs[4] >> 4 & 8


def _six(packs: Bytes, codes: Bytes) -> None:
    codes[:3] = packs & 63
    high = packs >> 6
    codes[3] = high[0] << 4 | high[1] << 2 | high[2]


def _seven(packs: Bytes, codes: Bytes) -> None:
    codes[:7], codes[7] = packs & 127, 0
    for byte in range(7):  # the highest bit of the first byte is that of code 7
        codes[7] |= packs[byte] >> 7 << (6 - byte)


_UNPACK: dict[int, Callable[[Bytes, Bytes], None]] = {3: _three, 5: _five, 6: _six, 7: _seven}
