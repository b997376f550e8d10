"""torchao's Int4PlainInt32Tensor as an XPU stores it: rows of INT4 with integer zero points.

| part | stored | content |
|---|---|---|
| `payload` | I32 `[rows, columns / 8]` | unsigned codes, the first in the lowest bits |
| `scale` | BF16, F16 or F32 `[groups, rows]` | one for each group of neighbours in a row |
| `zero_point` | I8 `[groups, rows]` | subtracted |

    value = (code - zero_point) * scale          float32, rounded once to BF16

Sources: torchao 0.18 quantization/quantize_/workflows/int4/int4_plain_int32_tensor.py
(`_from_hp_xpu`), quantization/quant_primitives.py (`dequantize_affine`);
https://github.com/intel/torch-xpu-ops src/ATen/native/xpu/sycl/WeightInt4PackKernel.cpp.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels import Window
from anamnesis.kernels._affine import Affine, decode_rows, even_groups, numbers
from anamnesis.kernels._codes import read_scales
from anamnesis.kernels.types import Array, Params, Views, Wholes


def prepare(scalars: Params, wholes: Wholes) -> dict[str, Any]:
    """`affine`, of `scalars`: `bits`, `scale_dtype`."""
    return {"affine": Affine.of(scalars)}


def decode(blocks: Views, params: Params, window: Window, out: Array) -> None:
    """Rows `window` from uint8 `[rows, columns / 2]` and, of the numbers, `[groups, bytes]`.

    `params`: `group_size`, `in_features`, and what `prepare` made. Raises ValueError for arrays
    that do not fit one another.
    """
    affine, inputs, rows = params["affine"], params["in_features"], window.stop - window.start
    codes = np.ascontiguousarray(blocks["payload"])
    scales = read_scales(affine.scale_dtype, blocks["scale"])
    zeros = np.ascontiguousarray(blocks["zero_point"]).view(np.int8).astype(np.float32)
    groups = even_groups(inputs, params["group_size"])
    if (
        codes.shape != (rows, inputs // 2)
        or scales.shape != (len(groups.starts) - 1, rows)
        or zeros.shape != scales.shape
        or out.shape != (rows * inputs,)
    ):
        raise ValueError(f"payload {codes.shape}, scale {scales.shape}, zeros {zeros.shape}")
    # As `decode_rows` takes them: a line a row.
    subtracted, factors = (np.ascontiguousarray(array.T) for array in (zeros, scales))
    decode_rows(affine, groups, codes, numbers(subtracted), numbers(factors), out)
