"""HIGGS: pairs of inputs as points of a grid, in the order of FLUTE's kernels, of rotated weights.

| component | stored, of `[out, in]` |
|---|---|
| `weight` | I16 `[out * b / 16, in]`, b of 2, 3 or 4 bits |
| `scales` | F16 or BF16 `[out, groups]` |
| `tables2` | the same numbers, `[2**b, 2**b, 2]`: what a pair of codes means |

T is the tile of the kernel that a layer was packed for: 32 or 64, of 3 bits always 32. Words of
the inputs `2k` and `2k + 1` are one of 32 bits, the first its lower half. Word row `c T + p` holds
pairs of codes, that of input `2k + 1` in the lower bits:

| bits | of output | pair |
|---|---|---|
| 4 | `4 c T + j T + p` | 8 bits from bit `8 j` on |
| 2 | `8 c T + j T + p` | 4 bits from bit `4 j` on |
| 3 | `512 c + 32 j + p`, `j < 15` | 6 bits of word `j % 3` from bit `6 (j // 3)` on |
| 3 | `512 c + 480 + p` | bits 30 and 31 of the words 0, 1 and 2, from the lowest on |

Word 0 of 3 bits is in the first third of `weight`, `[out / 16, in]`; the words 1 and 2 of a chunk
`c` are in the others, 32 rows of each in turn.

    value = tables2[pair] * scale     exact in double
    row   = value @ H / sqrt(h)       in blocks of h inputs, H Sylvester's matrix of size h

by butterflies in double, which rounds nothing where exponents are near one another, as those of a
grid are; one division, one rounding to float32. Sources: PyPI transformers 5.23
integrations/higgs.py; https://github.com/HanGuo97/flute flute/utils.py (`_pack_2bit`, `_pack_3bit`,
`_pack_4bit`), flute/integrations/higgs.py (9eb83a1).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels import Window
from anamnesis.kernels._native import kernel
from anamnesis.kernels.bits import to_float32
from anamnesis.kernels.types import Array, Bytes, Params, Views, Wholes

# Outputs that a row of words holds, by the bits of a code; of 3 bits, a row of the first third.
PER_WORD_ROW = {2: 8, 3: 16, 4: 4}
_rows = kernel("higgs:rows")


def prepare(scalars: Params, wholes: Wholes) -> dict[str, Any]:
    """`table`, float32 `[4**bits, 2]`, the numbers of a pair of codes.

    `scalars`: `scale_dtype`, which the numbers of the table have too, whatever it is stored as:
    FLUTE keeps their bits under another dtype.
    """
    bits = np.ascontiguousarray(wholes["tables2"].array).reshape(-1).view(np.uint16)
    return {"table": _widened(scalars["scale_dtype"], bits).reshape(-1, 2)}


def _widened(dtype: str, bits: Array) -> Array:
    return to_float32(dtype, bits.view(np.float16) if dtype == "F16" else bits)


def decode(blocks: Views, params: Params, window: Window, out: Array) -> None:
    """Chunks of outputs `window`, of uint8 `weight` (with `rest` for 3 bits) and `scales`.

    `params`: `bits`, `tile`, `inputs`, `hadamard`, `scale_dtype`, and what `prepare` made. Raises
    ValueError for arrays that do not fit.
    """
    bits, tile, inputs = params["bits"], params["tile"], params["inputs"]
    word_rows = (window.stop - window.start) * tile
    outputs = word_rows * PER_WORD_ROW[bits]
    words = _lines(blocks["weight"], "<u4", word_rows)
    rest = _lines(blocks["rest"], "<u4", 2 * word_rows) if bits == 3 else words[:0]
    scales = _widened(params["scale_dtype"], _lines(blocks["scales"], "<u2", outputs))
    if (
        words.shape[1] != inputs // 2
        or rest.shape[1] != inputs // 2
        or inputs % params["hadamard"]
        or inputs % scales.shape[1]
        or out.shape != (outputs * inputs,)
    ):
        raise ValueError(f"weight {words.shape}, scales {scales.shape}, out {out.shape}: {window}")
    room = np.empty(inputs, np.float64)
    settings = bits, tile, params["hadamard"]
    _rows(words, rest, params["table"], scales, settings, room, out)


def _lines(raw: Bytes, dtype: str, count: int) -> Array:
    return np.ascontiguousarray(raw).reshape(-1).view(dtype).reshape(count, -1)
