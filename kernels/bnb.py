"""bitsandbytes: four-bit codes of a map of sixteen numbers, and INT8 rows.

| encoding | unit | layout |
|---|---|---|
| 4 bit | `blocksize` elements | element 2k in the high half of byte k, 2k + 1 in its low half |
| INT8 | a matrix row | one two's complement byte an element |

Four bits (NF4, FP4), elements flat in row-major order, one `absmax` a block, the last one short:

    absmax = nested_quant_map[code] * nested_absmax[block // nested_blocksize] + nested_offset
    value = quant_map[code] * absmax

the first line only when the statistics are quantised too. INT8, `SCB` one number a row:

    value = code * SCB * 0.007874015718698502

Every step rounds to float32. FP4's code 8 is -0: the library multiplies a magnitude by a sign,
although the map that it stores says 0. Source: bitsandbytes 0.50.2 `functional.dequantize_4bit`,
`backends/default/ops.py`, `csrc/cpu_ops.cpp` (https://github.com/bitsandbytes-foundation/bitsandbytes).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels import Window
from anamnesis.kernels._native import kernel
from anamnesis.kernels._sizes import STEP_BYTES
from anamnesis.kernels.bits import numbers_of, to_float32
from anamnesis.kernels.types import Array, Bytes, Component, Params, Views, Wholes

# What `rounding: reference` rounds to before the output's dtype: the dtype of the quant state.
_NARROW = {"float32": 0, "bfloat16": 1, "float16": 2}
_INVERSE_127 = np.float32(7.874015718698502e-3)
# `functional.get_4bit_type`: quantiles of a normal distribution, and 1 bit of fraction.
NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
_MAPS = {
    "fp4": (
        *(0.0, 0.0052083334885537624, 0.6666666865348816, 1.0, 0.3333333432674408, 0.5),
        *(0.1666666716337204, 0.25, 0.0, -0.0052083334885537624, -0.6666666865348816, -1.0),
        *(-0.3333333432674408, -0.5, -0.1666666716337204, -0.25),
    ),
    "nf4": NF4,
}
_four_bit = kernel("bnb:four_bit")
_int8 = kernel("bnb:int8")
_nested = kernel("bnb:nested")


def prepare_4bit(scalars: Params, wholes: Wholes) -> dict[str, Any]:
    """The arguments of `decode_4bit`, from the tensor's parameters and its whole components.

    `scalars`: `quant_type` (nf4, fp4), `group_size` (elements a block), `dtype` (of the quant
    state), `absmax_dtype`, `rounding`, and for quantised statistics `nested_blocksize` and
    `nested_offset`; `wholes`: `quant_map` float32 `[16]`, the library's own where it is not stored,
    `nested_quant_map` float32 `[256]`, `nested_absmax` float32.
    """
    if "quant_map" in wholes:
        quant_map = _numbers(wholes["quant_map"], 16)
    else:
        quant_map = np.array(_MAPS[scalars["quant_type"]], np.float32)
    if scalars["quant_type"] == "fp4" and quant_map[8] == 0:
        # The library's table has a second zero, which is negative.
        quant_map[8] = -0.0
    reference = scalars.get("rounding") == "reference"
    prepared = {
        "quant_map": quant_map,
        "blocksize": scalars["group_size"],
        "absmax_dtype": scalars["absmax_dtype"],
        "narrow": _NARROW[scalars["dtype"]] if reference else 0,
    }
    if "nested_absmax" in wholes:
        prepared |= {
            "nested_absmax": _numbers(wholes["nested_absmax"]),
            "nested_quant_map": _numbers(wholes["nested_quant_map"], 256),
            "nested_blocksize": scalars["nested_blocksize"],
            "nested_offset": np.float32(scalars["nested_offset"]),
        }
    return prepared


def _numbers(whole: Component, count: int = -1) -> Array:
    numbers = numbers_of(whole).reshape(-1)
    if count >= 0 and numbers.size != count:
        raise ValueError(f"{numbers.size} numbers in a map of {count}")
    return numbers


def decode_4bit(blocks: Views, params: Params, window: Window, out: Array) -> None:
    """NF4 and FP4: `quant_map[code] * absmax`.

    `payload` is `uint8 [blocks, blocksize / 2]`, the tensor's last block filled up; `absmax`
    `uint8 [blocks, 4, 2 or 1]`. Raises ValueError for arrays that do not fit one another.
    """
    packed, size = blocks["payload"], params["blocksize"]
    count = packed.shape[0]
    if packed.shape[1] * 2 != size or size % (2 * STEP_BYTES) or -(-out.shape[0] // size) != count:
        raise ValueError(f"payload {packed.shape} does not fit blocks of {size}, out {out.shape}")
    absmax = _absmax(blocks["absmax"], params, window)
    if absmax.shape[0] != count:
        raise ValueError(f"{absmax.shape[0]} absmax for {count} blocks")
    quant_map, narrow = params["quant_map"], params["narrow"]
    if narrow == _NARROW["bfloat16"] and out.dtype == np.uint16:
        narrow = 0  # the same rounding once more
    whole = out.shape[0] // size
    codes, half = _flat(packed), size // 2
    _four_bit(quant_map, absmax[:whole], codes, half, narrow, out[: whole * size])
    if whole < count:
        # Stored blocks are whole; the output's last may be cut.
        last = np.empty(size, out.dtype)
        _four_bit(quant_map, absmax[whole:], codes[whole * half :], half, narrow, last)
        out[whole * size :] = last[: out.shape[0] - whole * size]


def _absmax(stored: Bytes, params: Params, window: Window) -> Array:
    """One float32 a block."""
    if "nested_absmax" not in params:
        dtype = params["absmax_dtype"]
        raw = _flat(stored).view({"F32": "<f4", "F16": "<f2", "BF16": "<u2"}[dtype])
        return raw if dtype == "F32" else _flat(to_float32(dtype, raw))
    codes, size = _flat(stored), params["nested_blocksize"]
    if (window.start + codes.size - 1) // size >= params["nested_absmax"].size:
        raise ValueError(f"{params['nested_absmax'].size} nested_absmax, block {window.stop - 1}")
    absmax = np.empty(codes.size, np.float32)
    _nested(
        codes,
        params["nested_quant_map"],
        params["nested_absmax"],
        size,
        params["nested_offset"],
        window.start,
        absmax,
    )
    return _flat(absmax)


def _flat(array: Array) -> Array:
    """A view in one dimension."""
    return array.reshape(-1)


def decode_int8(blocks: Views, params: Params, window: Window, out: Array) -> None:
    """INT8: `code * SCB * (1 / 127)`.

    `payload` is `uint8 [rows, columns]`, `SCB` `uint8 [rows, 4]`. Raises ValueError as above.
    """
    codes, scb = blocks["payload"], _flat(blocks["SCB"]).view("<f4")
    if scb.shape[0] != codes.shape[0] or out.shape[0] != codes.size:
        raise ValueError(f"payload {codes.shape}, {scb.shape[0]} SCB, out {out.shape}")
    _int8(_flat(codes), codes.shape[1], scb, _INVERSE_127, out)
