"""HQQ whose scales or zeros are codes of eight bits themselves (`quant_scale`, `quant_zero`).

| component, of N groups | stored | number g is |
|---|---|---|
| `scale_q`, `zero_q` | U8, N codes | the code of group g |
| `scale`, `zero`: steps; `scale_middle`, `zero_middle` | n floats | number `g // each % n` |

    scale of g = (code - middle) * step          float32, each rounded; the same for zeros

`each` neighbours share a step: 1 where the codes were quantised along axis 0, which is hqq's way,
N / n along axis 1; or one step is everyone's. The weight's own codes are then what `hqq.py` says.
Source: https://github.com/mobiusml/hqq 0.2.8 hqq/core/quantize.py (`HQQLinear.quantize`,
`HQQLinear.dequantize`).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels import Window, decoder, preparer
from anamnesis.kernels._narrow import narrow, stored
from anamnesis.kernels.bits import numbers_of
from anamnesis.kernels.types import Array, Params, Views, Wholes


def prepare(scalars: Params, wholes: Wholes) -> dict[str, Any]:
    """What the encoding `scalars["numbers"]` needs, and steps and middles of `coded` sides."""
    inner = preparer(scalars["numbers"])
    prepared: dict[str, Any] = {} if inner is None else dict(inner(scalars, wholes))
    for side in scalars["coded"]:
        for part, role in ((f"{side}_step", side), (f"{side}_middle", f"{side}_middle")):
            numbers = numbers_of(wholes[role]).reshape(-1)
            prepared[part] = narrow(numbers, scalars[f"{side}_dtype"])
    return prepared


def decode(blocks: Views, params: Params, window: Window, out: Array) -> None:
    """Units `window`; blocks are the inner encoding's, with codes in the place of coded numbers.

    `params`: those of the inner encoding, `coded`, `scale_each` and `zero_each`, and what `prepare`
    made. Coded numbers come as `scale_dtype` and `zero_dtype`. Raises ValueError for arrays that do
    not fit.
    """
    parts = dict(blocks)
    for side in params["coded"]:
        codes = parts.pop(f"{side}_q")
        dtype = params[f"{side}_dtype"]
        group = np.arange(window.start, window.start + codes.size, dtype=np.int64)
        if params["axis"] == 0:
            # Lines of several groups, the first again after the last; all come from the first on.
            columns, unit = params["columns"], params["unit"]
            first = 0 if len(codes) == columns else window.start % columns
            group = (group - window.start + first * unit) % (columns * unit)
        steps, middles = params[f"{side}_step"], params[f"{side}_middle"]
        # Codes [N / n, n] along axis 0: each column has a step; [n, N / n] along axis 1: each row.
        place = group // params[f"{side}_each"] % steps.size
        with np.errstate(invalid="ignore", over="ignore"):  # no warning of what a file says
            numbers = codes.reshape(-1).astype(np.float32) - middles[place]
            numbers = narrow(narrow(numbers, dtype) * steps[place], dtype)
        bits = stored(numbers, dtype)
        parts[side] = bits.view(np.uint8).reshape(len(codes), codes.shape[1] * bits.itemsize)
    decoder(params["numbers"])(parts, params, window, out)
