"""SINQ's `quantAux`: HQQ's codes whose scales and zeros are codes of eight bits themselves.

| component | stored, for N groups |
|---|---|
| `scale_x`, `zero_x` | U8 `[t, N / t]`: the code of group g is number g of it |
| `scale`, `zero` (s); `scale_m`, `zero_m` | floats `[1, N / t]`, for group g number g mod (N / t) |

    scale = code * s + m          float32, each step rounded; the same for zeros

The rest is what it is of float32 scales and zeros: HQQ's codes (`hqq.py`) or those of a table
(`sinq_table.py`), and a factor for each column of all (`folded.py`) or of a tile (`sinq_tiles.py`).
Source: PyPI sinq 0.2.0 quantizer.py (`rtn8`, `dq8`).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels import Window, decoder, preparer
from anamnesis.kernels.bits import to_float32
from anamnesis.kernels.types import Array, Params, Views, Wholes

_SIDES = ("scale", "zero")


def prepare(scalars: Params, wholes: Wholes) -> dict[str, Any]:
    """What the encoding `scalars["numbers"]` needs, and steps and minima as float32."""
    inner = preparer(scalars["numbers"])
    prepared = {} if inner is None else inner(scalars, wholes)
    for side in _SIDES:
        for part, role in (("s", side), ("m", f"{side}_m")):
            stored = wholes[role]
            prepared[f"{side}_{part}"] = to_float32(stored.dtype, stored.array).reshape(-1)
    return prepared


def decode(blocks: Views, params: Params, window: Window, out: Array) -> None:
    """Groups `window`; blocks as the inner encoding's, `scale_x` and `zero_x` for scales and zeros.

    Raises ValueError for arrays that do not fit.
    """
    count = window.stop - window.start
    parts = dict(blocks)
    for side in _SIDES:
        codes = np.ascontiguousarray(parts.pop(f"{side}_x")).reshape(-1)
        if codes.size < count:
            raise ValueError(f"{side}_x: {codes.size} codes for groups {window}")
        steps, least = params[f"{side}_s"], params[f"{side}_m"]
        # Steps and minima are of the columns of the quantised scales, row after row.
        place = np.arange(window.start, window.stop) % steps.size
        with np.errstate(invalid="ignore", over="ignore"):  # no warning of what a file says
            # Scales were quantised themselves: to bytes, with a step and a least number a column.
            numbers = codes[:count].astype(np.float32) * steps[place] + least[place]
        parts[side] = numbers.reshape(-1, 1).view(np.uint8)
    decoder(params["numbers"])(parts, params, window, out)
