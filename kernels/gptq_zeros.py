"""GPTQ-for-LLaMa's first layout: a scale and a zero times it for each output, both floats.

| tensor | stored, of `[out, in]` with codes of b bits |
|---|---|
| `qweight` | I32 `[in * b / 32, out]`: a stream down each column, lowest bit first |
| `scales`, `zeros` | F32 or F16 `[out, 1]`; `zeros` is the zero point times the scale |

    value = scale * code - zeros          float32, each step rounded, then once to BF16

Source: https://github.com/qwopqwop200/GPTQ-for-LLaMa quant.py of 2023-03-09 (e226c61,
`QuantLinear.pack`), quant_cuda_kernel.cu.
"""

from __future__ import annotations

import numpy as np

from anamnesis.kernels import Window
from anamnesis.kernels._native import kernel
from anamnesis.kernels.bits import to_float32
from anamnesis.kernels.types import Array, Params, Views

_BLOCK = 32  # codes that fill whole words, of any number of bits
_round = kernel("folded:round_values")


def decode(blocks: Views, params: Params, window: Window, out: Array) -> None:
    """Output rows `window`, from uint8 `[lines, bytes]` of their columns and `[rows, bytes]`.

    `params`: `bits` and the `dtype` of scales and zeros. Raises ValueError for arrays that do not
    fit.
    """
    bits, rows = params["bits"], window.stop - window.start
    words = np.ascontiguousarray(blocks["qweight"]).view("<u4")
    if words.shape[0] % bits or words.shape[1] != rows or out.size * bits != words.size * 32:
        raise ValueError(f"qweight: words {words.shape} of {bits} bits for rows {window}")
    words = words.reshape(-1, bits, rows)
    codes = np.empty((rows, len(words), _BLOCK), np.float32)
    for k in range(_BLOCK):
        # Code k of 32 is bits `k * bits` and up of `bits` words down the column.
        word, shift = divmod(k * bits, 32)
        field = words[:, word] >> np.uint32(shift)
        if shift + bits > 32:
            field = field | words[:, word + 1] << np.uint32(32 - shift)
        codes[:, :, k] = (field & np.uint32((1 << bits) - 1)).T
    scale, zero = (
        to_float32(
            params["dtype"],
            np.ascontiguousarray(blocks[role]).view("<f4" if params["dtype"] == "F32" else "<f2"),
        ).reshape(rows, 1)
        for role in ("scales", "zeros")
    )
    with np.errstate(invalid="ignore", over="ignore"):  # no warning of what a file says
        numbers = codes.reshape(rows, -1) * scale - zero
    _round(numbers.reshape(-1), out)
