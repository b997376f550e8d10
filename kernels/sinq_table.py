"""SINQ's codes that stand for numbers of a table: normal floats of 4 and of 3 bits.

    value = (table[min(code, last)] - zero) * scale          float32, each step rounded

Codes lie as HQQ's of so many bits (`hqq.py`); scales and zeros are float32, one a group. Source:
PyPI sinq 0.2.0 quantizer.py (`NF4_CODEBOOK`, `NF3_CODEBOOK`, `Quantizer.dequantize`).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels import Window, decoder, preparer
from anamnesis.kernels._native import kernel
from anamnesis.kernels.bnb import NF4
from anamnesis.kernels.types import Array, Params, Views, Wholes

_CODES = "hqq-axis1"
_TABLES = {
    "nf3": (
        *(-1.0, -0.5350227355957031, -0.246931403875351, 0.0),
        *(0.1833375245332718, 0.3819939494132996, 0.6229856610298157, 1.0),
    ),
    "nf4": NF4,
}
_round = kernel("folded:round_values")


def prepare(scalars: Params, wholes: Wholes) -> dict[str, Any]:
    """The numbers of `scalars["table"]`, nf3 or nf4, float32, and what HQQ's codes need.

    Raises ValueError for another table, or for scales and zeros that are not F32.
    """
    dtypes = {scalars["scale_dtype"], scalars["zero_dtype"]}
    if scalars["table"] not in _TABLES or dtypes != {"F32"}:
        raise ValueError(f"table {scalars['table']} with numbers of {dtypes}")
    inner = preparer(_CODES)
    prepared = {} if inner is None else inner(scalars, wholes)
    return prepared | {"numbers_of_codes": np.array(_TABLES[scalars["table"]], np.float32)}


def decode(blocks: Views, params: Params, window: Window, out: Array) -> None:
    """Groups `window`; blocks as HQQ's along the inputs.

    Raises ValueError for arrays that do not fit.
    """
    count, table = window.stop - window.start, params["numbers_of_codes"]
    scales, zeros = (
        np.ascontiguousarray(blocks[side]).reshape(-1).view(np.float32)
        for side in ("scale", "zero")
    )
    if scales.shape != (count,) or zeros.shape != (count,):
        raise ValueError(f"scale {scales.shape}, zero {zeros.shape} for groups {window}")
    # With a scale of one and a zero of none the codes come out as they are.
    one = np.ones((count, 1), np.float32)
    plain = {"W_q": blocks["W_q"], "scale": one.view(np.uint8)}
    plain["zero"] = np.zeros_like(plain["scale"])
    numbers = np.empty(out.shape, np.float32)
    decoder(_CODES)(plain, params, window, numbers)
    codes = np.minimum(numbers, len(table) - 1).astype(np.uint8)
    rows = np.take(table, codes, out=numbers).reshape(count, -1)
    with np.errstate(invalid="ignore", over="ignore"):  # no warning of what a file says
        rows -= zeros[:, None]
        rows *= scales[:, None]
    _round(numbers, out)
