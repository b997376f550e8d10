"""ComfyUI's grouped W4A8: codes of 4 or 6 bits that stand for INT8, a scale a group and a row.

| tensor | stored | |
|---|---|---|
| `codes` | I8 `[rows, columns / 2]`, or `[rows, columns * 3 / 4]` | see below |
| `relative` | F8_E4M3 or F32 `[rows, groups]` | |
| `channel` | F32 `[rows]` | |
| `codebook` | F32 `[16]`; may be missing: a code less the middle of its range | |
| `correction` | F32, BF16 or F16 `[groups, rows]`, as the weight was; may be missing | |

Column 2k is in the low half of byte k, 2k + 1 in its high half. Of 6 bits these are the lower four;
the upper two follow in a plane of their own, those of column 4k in the lowest bits of a byte.

    number = round(codebook[code] * relative), to even, within -127 to 127
    value  = number * channel + correction

each step float32, rounded once to BF16. Weights are stored rotated (`folded.py`). Source: PyPI
comfy-kitchen 0.2.40 backends/eager/w4a8_int8.py (`_dequant_int4_grouped_to_int8`,
`_dequantize_w4a8_int8_weight_from_int8`), tensor/w4a8_packed.py (`_unpack_codes`).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels import Window
from anamnesis.kernels._codes import read_scales
from anamnesis.kernels._native import kernel
from anamnesis.kernels.bits import to_float32
from anamnesis.kernels.fp8 import E4M3
from anamnesis.kernels.types import Array, Params, Views, Wholes

_decode = kernel("w4a8:decode")


def prepare(scalars: Params, wholes: Wholes) -> dict[str, Any]:
    """`table`, float32 `[2 ** bits]`: what the codes stand for before their scales."""
    bits = scalars["bits"]
    # Offset codes: half of the range below 0.
    table = np.arange(1 << bits, dtype=np.float32) - np.float32(1 << (bits - 1))
    if "codebook" in wholes:
        table = to_float32(wholes["codebook"].dtype, wholes["codebook"].array).reshape(-1)
        if table.size != 1 << bits:
            raise ValueError(f"a codebook of {table.size} numbers for {bits} bits")
    return {"table": table}


def decode(blocks: Views, params: Params, window: Window, out: Array) -> None:
    """Rows `window`, from uint8 `[rows, bytes]`, and `[groups, bytes]` of `correction`.

    `params`: `bits`, `in_features`, `relative_dtype`, `correction_dtype` where there is one, and
    `table` as `prepare` made it. Raises ValueError for arrays that do not fit one another.
    """
    rows, columns, bits = window.stop - window.start, params["in_features"], params["bits"]
    codes = np.ascontiguousarray(blocks["codes"])
    raw = np.ascontiguousarray(blocks["relative"])
    relative = E4M3.values[raw] if params["relative_dtype"] == "F8_E4M3" else raw.view("<f4")
    channel = np.ascontiguousarray(blocks["channel"]).reshape(-1).view("<f4")
    corrected = "correction" in blocks
    added = np.zeros((1, 1), np.float32)
    if corrected:
        added = read_scales(params["correction_dtype"], blocks["correction"])
    groups = relative.shape[1]
    if (
        codes.shape != (rows, columns * bits // 8)
        or relative.shape[0] != rows
        or groups < 1
        or columns % groups
        or channel.shape != (rows,)
        or (corrected and added.shape != (groups, rows))
        or out.shape != (rows * columns,)
    ):
        raise ValueError(f"codes {codes.shape}, relative {relative.shape}, out {out.shape}")
    table, wide = params["table"], bits == 6
    _decode(table, codes, relative, channel, (added, corrected), wide, columns, out)
