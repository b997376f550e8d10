"""BitNet: ternary weights, four to a byte, with one scale for the matrix.

| tensor | stored | content |
|---|---|---|
| `weight` | U8 `[out / 4, in]` | bits `2k` of row `r`: output row `k * out / 4 + r`, plus 1 |
| `weight_scale` | BF16, F16 or F32 `[1]` | |

    value = (code - 1) * weight_scale      AutoBitLinear: it multiplies its output
    value = (code - 1) / weight_scale      BitLinear: it divides

in float32, rounded once to BF16. The fourth code, which no tool writes, is 2, as the library reads
it. `reference` rounds to the dtype of the scale first. Source: transformers 5.23
integrations/bitnet.py (`unpack_weights`, `BitLinear`, `AutoBitLinear`).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels import Window
from anamnesis.kernels._native import kernel
from anamnesis.kernels._planar import lines_of
from anamnesis.kernels.bits import to_float32
from anamnesis.kernels.types import Array, Params, Views, Wholes

_BITS = 2
_NARROW = {"F32": np.float32, "F16": np.float16, "BF16": np.float32}  # BF16 rounds only once
decode_table = kernel("_planar:decode_table")


def prepare(scalars: Params, wholes: Wholes) -> dict[str, Any]:
    """`numbers`, float32 `[16]`: what each code stands for.

    `scalars`: `divides`, `scale_dtype`, `rounding`; `wholes`: `weight_scale`, one number.
    """
    stored = wholes["weight_scale"]
    scale = to_float32(stored.dtype, stored.array).reshape(-1)
    if scale.size != 1:
        raise ValueError(f"{scale.size} numbers in weight_scale, not one")
    codes = np.arange(-1, 3, dtype=np.float32)
    with np.errstate(all="ignore"):
        numbers = codes / scale if scalars["divides"] else codes * scale
        if scalars["rounding"] == "reference":
            numbers = numbers.astype(_NARROW[scalars["scale_dtype"]]).astype(np.float32)
    numbers[np.isnan(numbers)] = np.nan  # one that rounding keeps a NaN
    # Four codes repeat in a table of sixteen.
    return {"numbers": np.tile(numbers, 4)}


def decode(blocks: Views, params: Params, window: Window, out: Array) -> None:
    """Output rows `window`, from uint8 `[lines, in]` of `payload`, all lines or the window's.

    `params`: `in_features`, `period` (packed rows), and what `prepare` made. Raises ValueError for
    arrays that do not fit one another.
    """
    inputs, period = params["in_features"], params["period"]
    data, base = lines_of(blocks["payload"], window, period)
    rows = window.stop - window.start
    if blocks["payload"].shape[1] != inputs or out.shape != (rows * inputs,):
        raise ValueError(f"payload {blocks['payload'].shape}, out {out.shape}: {rows} of {inputs}")
    if not 0 <= window.start <= window.stop <= 4 * period:
        raise ValueError(f"rows {window} of {4 * period}")
    decode_table(data, base, period, inputs, _BITS, True, params["numbers"], window.start, out)
