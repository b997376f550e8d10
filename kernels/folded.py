"""Weights in another basis than the layer's input: decode the codes, then undo the change.

| change | tool | after `W`, the number that the codes mean, as float32 |
|---|---|---|
| low-rank part | ModelOpt NVFP4_SVD | `W + b @ a`, products added in the order of the rank |
| factor of a column | ModelOpt `pre_quant_scale` | `W * factor`: the input was multiplied by it |
| factor of a column | AutoAWQ `act.scales` | `W / factor`: the activation is divided by it |
| rotation | ComfyUI ConvRot, SDNQ | `W @ H`, in groups of columns |
| turns of pairs | ParoQuant | `W @ R * factor`: the input was multiplied, then turned |

in this order; each step is float32, the last is rounded once to BF16. `H` is the Kronecker power of

    1  1  1 -1
    1  1 -1  1
    1 -1  1  1
   -1  1  1  1

divided by the square root of its size, a power of 4, or that of 1 1, 1 -1 (SDNQ, for other powers
of 2): symmetric, and its own inverse. What was lost when the rotated weight was rounded to codes is
not regained. Terms of a sum are added one after the other in float32, with `b @ a` each product and
sum rounded once: as libraries for matrices do it.

ParoQuant's `R` is a product of turns, `theta` `[turns, columns / 2]`, of `pairs` `[turns, columns]`
of columns, two numbers a pair, counted in a group: `(x_i, x_j)` becomes `(x_i cos + x_j sin,
x_j cos - x_i sin)`. Undone from the last to the first in double, and rounded once to float32.
Sources: nvidia-modelopt 0.47 torch/export/quant_utils.py (`_update_svdquant`);
https://github.com/casper-hansen/AutoAWQ awq/modules/act.py; PyPI comfy-kitchen 0.2.40
backends/eager/quantization.py (`dequantize_int8_convrot_weight`), tensor/int8_utils.py; PyPI
paroquant 0.1.16 cli/convert.py (`_quantize_rotated_weight`), GPTQModel 7.7.0 utils/paroquant.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels import Window, decoder, preparer
from anamnesis.kernels._native import kernel
from anamnesis.kernels.bits import numbers_of, to_float32
from anamnesis.kernels.types import Array, Params, Views, Wholes

_FOUR = np.array([[1, 1, 1, -1], [1, 1, -1, 1], [1, -1, 1, 1], [-1, 1, 1, 1]], np.float32)
_TWO = np.array([[1, 1], [1, -1]], np.float32)
_add_product = kernel("folded:add_product")
_rotate = kernel("folded:rotate")
_round = kernel("folded:round_values")
_scale = kernel("folded:scale")
_turn_back = kernel("folded:turn_back")


def rotation(size: int, sylvester: bool = False) -> Array:
    """The matrix of a group, float32 `[size, size]`; raises ValueError where there is none."""
    matrix = step = _TWO if sylvester else _FOUR
    while len(matrix) < size:
        # A product of small matrices of 1 and -1, which are orthogonal but for the root of their
        # size each.
        matrix = np.kron(matrix, step)
    if len(matrix) != size:
        raise ValueError(f"a rotation of {size} columns; allowed are powers of {len(step)}")
    return matrix / np.float32(size**0.5)


def prepare(scalars: Params, wholes: Wholes) -> dict[str, Any]:
    """What the encoding `scalars["inner"]` needs, and the parts of the change.

    `scalars`: `columns`, `fold` (multiply, divide or "") and `rotation`, the columns of a group or
    0; `wholes`: `factor`, a number a column, `low_rank_a` `[rank, columns]`, and `theta` and
    `pairs` of `pair_group` columns. Raises ValueError for parts that do not fit.
    """
    inner, columns = preparer(scalars["inner"]), scalars["columns"]
    prepared = {} if inner is None else inner(scalars, wholes)
    if scalars.get("fold"):
        factor = numbers_of(wholes["factor"]).reshape(-1)
        if factor.size != columns:
            raise ValueError(f"{factor.size:,} factors for {columns:,} columns")
        prepared["factor"] = factor
    if "low_rank_a" in wholes:
        stored = wholes["low_rank_a"]
        a = to_float32(stored.dtype, stored.array)
        across = scalars.get("across")
        prepared["low_rank"] = (
            np.ascontiguousarray(a.reshape(columns, -1).T) if across else a.reshape(-1, columns)
        )
    if scalars.get("rotation"):
        prepared["matrix"] = rotation(scalars["rotation"], scalars.get("sylvester", False))
        if columns % scalars["rotation"]:
            raise ValueError(f"{columns:,} columns in groups of {scalars['rotation']}")
    if "pairs" in wholes:
        turns = wholes["pairs"].array.reshape(-1, columns // 2, 2)
        prepared["pairs"] = _places(turns, columns, scalars["pair_group"])
        stored = wholes["theta"]
        numbers = to_float32(stored.dtype, stored.array).reshape(len(turns), -1)
        with np.errstate(invalid="ignore"):  # a file's NaN gives NaN, without a warning
            angles = numbers.astype(np.float64)
            angles[turns[..., 0] < 0] = 0
            prepared["turns"] = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    return prepared


def _places(turns: Array, columns: int, group: int) -> Array:
    """Columns of each pair, int32 `[turns, pairs, 2]`; a pair of -1 stays where it is.

    Raises ValueError for a column that is no column of its group, or turned twice at a time.
    """
    padding = (turns == -1).all(-1)
    # Stored columns are counted from the start of their group.
    first = np.arange(columns // 2) // (group // 2) * group
    places = turns.astype(np.int64) + first[:, None]
    if np.any((turns < 0) | (turns >= group), axis=-1)[~padding].any():
        raise ValueError(f"pairs beyond their groups of {group} columns")
    for row, empty in zip(places, padding, strict=True):
        if np.bincount(row[~empty].reshape(-1), minlength=1).max() > 1:
            raise ValueError("pairs that turn a column twice at a time")
    places[padding] = 0
    return places.astype(np.int32)


def decode(blocks: Views, params: Params, window: Window, out: Array) -> None:
    """Rows `window`; blocks and parameters are the inner encoding's, and what `prepare` made.

    `low_rank_b` is uint8 `[rows, bytes]` of `low_rank_dtype`, `[rank, bytes]` if `across`.
    Raises ValueError for arrays that do not fit.
    """
    columns = params["columns"]
    numbers = np.empty(out.shape, np.float32)
    decoder(params["inner"])(blocks, params, window, numbers)
    rows = out.shape[0] // max(1, columns)
    if rows * columns != out.shape[0]:
        raise ValueError(f"out {out.shape} for rows {window} of {columns} columns")
    if "low_rank" in params:
        a = params["low_rank"]
        raw = np.ascontiguousarray(blocks["low_rank_b"])
        dtype = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}[params["low_rank_dtype"]]
        b = to_float32(params["low_rank_dtype"], raw.reshape(-1).view(dtype))
        b = b.reshape(len(a), -1).T if params.get("across") else b.reshape(-1, len(a))
        b = np.ascontiguousarray(b)
        if b.shape[0] < rows:
            raise ValueError(f"low_rank_b: {b.shape[0]} rows for {rows}")
        _add_product(b, a, columns, np.empty(columns, np.float32), numbers)
    if "pairs" in params:
        row, factor = np.empty(columns, np.float64), params["factor"]
        _turn_back(numbers, params["pairs"], params["turns"], factor, row, out)
    elif "matrix" in params:
        _rotate(numbers, params["matrix"], np.empty(len(params["matrix"]), np.float32), out)
    elif params.get("fold"):
        _scale(numbers, params["factor"], params["fold"] == "divide", out)
    else:
        _round(numbers, out)
