"""SqueezeLLM: a table of numbers for each output, and sparse outliers that are added to them.

| tensor | stored, of `[out, in]` with codes of b = 3 or 4 bits |
|---|---|
| `qweight` | I32 `[in * b / 32, out]`: a stream of codes down each column, lowest bit first |
| `lookup_table` | F32, F16 or BF16 `[out, 2**b]` |
| `rows`, `cols`, `vals` | I32 `[out + 1]`, I32 and F32 `[outliers]`: a sparse matrix, row by row |
| `full_rows` | F32 `[in, n]`: outputs that are kept whole, beside |
| `full_row_indices` | I32 `[n]`: which they are |

    value = table[code] + outlier + whole

in this order, each sum rounded to float32, the last one to a narrower format. Source:
https://github.com/SqueezeAILab/SqueezeLLM squeezellm/quant.py (`QuantLinearLUT`),
quant_cuda_kernel.cu.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels import PayloadError, Window
from anamnesis.kernels._codes import read_scales
from anamnesis.kernels._native import kernel
from anamnesis.kernels.bits import numbers_of
from anamnesis.kernels.types import Array, Params, Views, Wholes

_rows = kernel("squeezellm:rows")


def prepare(scalars: Params, wholes: Wholes) -> dict[str, Any]:
    """`sparse`: int32 offsets `[out + 1]`, int32 columns, float32; `full`: int32, and `[in, n]`.

    Both are empty where there are none. `scalars`: `inputs` and `outputs`. Raises PayloadError for
    offsets that do not lead to the end, and for columns and outputs that are not there.
    """
    none, nothing = np.zeros(0, np.int32), np.zeros(0, np.float32)
    sparse, full = (none, none, nothing), (none, nothing.reshape(-1, 1))
    if "vals" in wholes:
        rows, columns = (wholes[name].array.reshape(-1) for name in ("rows", "cols"))
        values = numbers_of(wholes["vals"]).reshape(-1)
        if (rows[0], rows[-1]) != (0, len(values)) or (np.diff(rows) < 0).any():
            raise PayloadError(f"rows do not lead from 0 up to {len(values):,} outliers")
        _check("cols", columns, scalars["inputs"])
        sparse = rows, columns, values
    if "full_rows" in wholes:
        indices = wholes["full_row_indices"].array.reshape(-1)
        _check("full_row_indices", indices, scalars["outputs"])
        full = indices, numbers_of(wholes["full_rows"])
    return {"sparse": sparse, "full": full}


def _check(name: str, numbers: Array, count: int) -> None:
    if ((numbers < 0) | (numbers >= count)).any():
        raise PayloadError(f"{name}: a number beyond 0 to {count - 1:,}")


def decode(blocks: Views, params: Params, window: Window, out: Array) -> None:
    """Outputs `window`, of uint8 `qweight` `[words, bytes]` and `table` `[units, bytes]`.

    `params`: `bits`, `inputs`, `table_dtype` and what `prepare` made. Raises ValueError for arrays
    that do not fit.
    """
    bits, inputs, units = params["bits"], params["inputs"], window.stop - window.start
    words = blocks["qweight"].view("<u4")
    tables = read_scales(params["table_dtype"], blocks["table"])
    if (
        words.shape != (inputs * bits // 32, units)
        or tables.shape != (units, 1 << bits)
        or out.shape != (units * inputs,)
    ):
        raise ValueError(f"qweight {words.shape}, table {tables.shape}, out {out.shape}: {window}")
    room = np.empty(inputs, np.float32)
    _rows(words, tables, bits, params["sparse"], params["full"], window.start, room, out)
