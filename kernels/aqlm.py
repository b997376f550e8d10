"""AQLM: a group of weights is the sum of one vector of each codebook, times a scale.

| tensor | stored |
|---|---|
| `codes` | I8 or I16 `[out / og, in / ig, books]`: the low bits of the number of a vector |
| `codebooks` | F16, BF16 or F32 `[books, 2**bits, og, ig]` |
| `scales` | F16, BF16 or F32 `[out / og, 1, 1, 1]` |

    value = (book_0[code_0] + book_1[code_1] + …) * scale

each step float32, sums in the order of the codebooks, the product rounded once to BF16. Source:
PyPI aqlm 1.1.7 aqlm/utils.py (`_dequantize_weight`, `unpack_int_data`).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels import Window
from anamnesis.kernels._codes import read_scales
from anamnesis.kernels._native import kernel
from anamnesis.kernels.bits import numbers_of
from anamnesis.kernels.types import Array, Params, Views, Wholes

_sums = kernel("aqlm:sums")


def prepare(scalars: Params, wholes: Wholes) -> dict[str, Any]:
    """`books`, float32 `[books, vectors, group elements]`."""
    books = numbers_of(wholes["codebooks"])
    return {"books": books.reshape(books.shape[0], books.shape[1], -1)}


def decode(blocks: Views, params: Params, window: Window, out: Array) -> None:
    """Groups of rows `window`, from uint8 `[units, bytes]` of `codes` and of `scales`.

    `params`: `out_group`, `in_group`, `in_features`, `code_bytes`, `scale_dtype`, and `books` as
    `prepare` made them. Raises ValueError for arrays that do not fit one another.
    """
    books, inputs = params["books"], params["in_features"]
    units, rows, columns = window.stop - window.start, params["out_group"], params["in_group"]
    # Books of one group of inputs side by side.
    codes = np.ascontiguousarray(blocks["codes"]).view(f"<u{params['code_bytes']}")
    scales = read_scales(params["scale_dtype"], blocks["scales"]).reshape(-1)
    if (
        codes.shape != (units, inputs // columns * books.shape[0])
        or scales.shape != (units,)
        or books.shape[2] != rows * columns
        or out.shape != (units * rows * inputs,)
    ):
        raise ValueError(f"codes {codes.shape}, scales {scales.shape}, out {out.shape}: {window}")
    _sums(codes, books, scales, rows, columns, np.empty(columns, np.float32), out)
