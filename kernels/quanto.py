"""Quanto: bytes with a scale a row, and 4- or 2-bit codes with a scale and a shift a group.

| tensor | stored | content |
|---|---|---|
| `_data` of 8 bits | I8, F8_E4M3, F8_E5M2 or F8_E4M3FNUZ `[out, …]` | numbers |
| `_scale` of 8 bits | BF16, F16 or F32 `[out, 1, …]`, or one | |
| `_data` of fewer | U8 `[ceil(N / 2 or 4), g]` | bits `b * k` and up of line r: row `k * R + r` |
| `_scale`, `_shift` | `[N, 1]`; `_shift` float, or U8 or I8 for an integer | |

    value = number * scale                       8 bits
    value = code * scale - shift                 float shift
    value = (code - shift) * scale               integer shift

each step float32, rounded once to BF16. `reference` is the library's order: each product and
difference of floats is rounded to the dtype of the scale. Source:
https://github.com/huggingface/optimum-quanto 0.2.7 optimum/quanto/tensor/qbytes.py, qbits.py,
packed.py (`dequantize`, `pack_weights`).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels import Window
from anamnesis.kernels._affine import Affine
from anamnesis.kernels._codes import bits_of
from anamnesis.kernels._narrow import KINDS
from anamnesis.kernels._native import kernel
from anamnesis.kernels._planar import lines_of
from anamnesis.kernels._planar_scales import decode_units, words_of
from anamnesis.kernels.bits import numbers_of
from anamnesis.kernels.fp8 import decode_e4m3, decode_e4m3fnuz, decode_e5m2
from anamnesis.kernels.types import Array, Params, Views, Wholes

_FLOATS = {"F8_E4M3": decode_e4m3, "F8_E4M3FNUZ": decode_e4m3fnuz, "F8_E5M2": decode_e5m2}
_int8 = kernel("quanto:int8")
_narrowed = kernel("quanto:narrow_values")


def prepare_bytes(scalars: Params, wholes: Wholes) -> dict[str, Any]:
    """`scale`, float32 `[1, rows, 1]` or `[1, 1, 1]`, in the terms of `kernels.fp8`.

    `scalars`: `rows`, `columns`, `rounding`; `wholes`: `_scale`, a number for every row or one.
    """
    stored = wholes["_scale"]
    scale = numbers_of(stored).reshape(-1)
    if scale.size not in (1, scalars["rows"]):
        raise ValueError(f"{scale.size} scales for {scalars['rows']} rows")
    return {
        "scale": scale.reshape(1, -1, 1),
        "scales": scale,
        "block": (1, scalars["columns"]),
        "narrow": KINDS[stored.dtype] if scalars["rounding"] == "reference" else 0,
    }


def decode_bytes(blocks: Views, params: Params, window: Window, out: Array) -> None:
    """Rows `window`, from uint8 `[rows, columns]` of `payload`.

    `params`: `data_dtype`, `rows`, `columns` of all of them, and what `prepare_bytes` made. Raises
    ValueError for arrays that do not fit one another.
    """
    payload, columns, narrow = blocks["payload"], params["columns"], params["narrow"]
    rows = window.stop - window.start
    if payload.shape != (rows, columns) or out.shape != (rows * columns,):
        raise ValueError(f"payload {payload.shape}, out {out.shape}: rows {window} of {columns}")
    if not 0 <= window.start <= window.stop <= params["rows"]:
        raise ValueError(f"rows {window} of {params['rows']}")
    if narrow == KINDS["BF16"] and out.dtype == np.uint16:
        narrow = 0  # the same rounding once more
    decode = _FLOATS.get(params["data_dtype"])
    if decode is None:
        codes = payload.reshape(-1)
        _int8(codes, params["scales"], columns, narrow, window.start, out)
    elif narrow:
        # FP8's kernels round once: the library's order is this pass.
        singles = np.empty(out.shape, np.float32)
        decode(blocks, params, window, singles)
        _narrowed(singles, narrow, out)
    else:
        decode(blocks, params, window, out)


def prepare_bits(scalars: Params, wholes: Wholes) -> dict[str, Any]:
    """`affine`: whether the shift comes after the scale, and how they are rounded.

    `scalars`: `scale_dtype`, `shift_dtype` (U8 and I8 for integers), `rounding`.
    """
    scale, after = scalars["scale_dtype"], scalars["shift_dtype"] in KINDS
    twice = scale if scalars["rounding"] == "reference" else "F32"
    once, zero = (twice, "after") if after else ("F32", "before")
    return {"affine": Affine(scalars["bits"], scale, "planar", zero=zero, once=once, twice=twice)}


def decode_bits(blocks: Views, params: Params, window: Window, out: Array) -> None:
    """Groups `window`, from uint8 `[lines, group_size]` of `payload`, `[groups, bytes]` of others.

    `params`: `bits`, `group_size`, `period` (packed lines), and what `prepare_bits` made. Raises
    ValueError as above.
    """
    affine: Affine = params["affine"]
    size, period = params["group_size"], params["period"]
    data, base = lines_of(blocks["payload"], window, period)
    scales, half = bits_of(params["scale_dtype"], blocks["_scale"].reshape(-1))
    stored = blocks["_shift"].reshape(-1)
    if affine.zero == "after":
        shifts, half_shifts = bits_of(params["shift_dtype"], stored)
    else:
        shifts, half_shifts = stored.view(np.int8).astype(np.float32).view(np.uint32), False
    groups = window.stop - window.start
    if blocks["payload"].shape[1] != size or out.shape != (groups * size,):
        raise ValueError(f"payload {blocks['payload'].shape}, out {out.shape}: {groups} x {size}")
    if scales.shape != (groups,) or shifts.shape != (groups,):
        raise ValueError(f"_scale {scales.shape}, _shift {shifts.shape}: groups {window}")
    if not 0 <= window.start <= window.stop <= 8 // affine.bits * period:
        raise ValueError(f"groups {window} of {8 // affine.bits} times {period}")
    planes = data, words_of(data, affine.bits), base, period, size, True
    scale, shift = (scales, half), (shifts, half_shifts)
    decode_units(affine, out)(planes, scale, shift, window.start, out)
