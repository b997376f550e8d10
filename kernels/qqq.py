"""QQQ: four bits in Marlin's tiles, which its kernel makes INT8 of before it multiplies.

| tensor | stored, of `[out, in]` |
|---|---|
| `B` | I32 `[in / 16, 2 * out]`: a line of 16 inputs, 512 bytes for every 64 outputs |
| `s_channel` | F32 `[1, out]`, 32 outputs at a time in the order of Marlin's single group |
| `s_group` | F16 `[groups, out]`, in the order of Marlin's groups; without groups of no elements |

Thread j of lane group l has, as number e, output 16 j + l div 4 + 8 (e div 4) and input 4 (l mod 4)
+ e mod 4, at the places of `_tiles.py` (with groups e = 0 2 4 6 1 3 5 7, without 4 0 5 1 6 2 7 3).

    with groups      byte = round((code - 8) * s_group), ties to even, from -128 to 127
    without          byte = 16 * code, which is a signed number of four bits
    value            byte * s_channel          float32, rounded once to BF16

Sources: PyPI gptqmodel 7.7.0 nn_modules/qlinear/qqq.py (`QQQLinear._get_perms`,
`QQQTorchLinear._dequantize_weight_for_torch`); https://github.com/HandH1998/QQQ.
"""

from __future__ import annotations

import numpy as np

from anamnesis.kernels import PayloadError, Window, _tiles, ct
from anamnesis.kernels.bits import to_float32
from anamnesis.kernels.marlin import ALONE, GROUPED
from anamnesis.kernels.types import Array, Params, Views

_lane, _j, _e = _tiles.threads()
_OUTPUT, _INPUT = 16 * _j + _lane // 4 + 8 * (_e // 4), 4 * (_lane % 4) + _e % 4
_GROUPS = _tiles.places(_OUTPUT, _INPUT, _tiles.NIBBLES)
_SIGNED = _tiles.places(_OUTPUT, _INPUT, (4, 0, 5, 1, 6, 2, 7, 3))


def decode(blocks: Views, params: Params, window: Window, out: Array) -> None:
    """Units `window` of 64 outputs, from uint8 `[lines, bytes]` of each component.

    `params` are what `ct.prepare` made for INT8 of one scale a row. Raises PayloadError for a scale
    of a group that is not finite, ValueError for arrays that do not fit one another.
    """
    grouped = "s_group" in blocks
    codes = _tiles.unpack(blocks["B"], 4, _GROUPS if grouped else _SIGNED)
    rows, inputs = codes.shape
    if rows != 64 * (window.stop - window.start) or out.size != codes.size:
        raise ValueError(f"B {blocks['B'].shape}, out {out.shape} for units {window}")
    if grouped:
        scales = _tiles.lines_of_scales(blocks["s_group"], "<f2", GROUPED)
        # Offset codes become the INT8 that the kernel multiplies: rounded, ties to even, and
        # saturated.
        numbers = codes.reshape(rows, scales.shape[1], -1).astype(np.float32) - np.float32(8)
        if not np.isfinite(scales).all():
            raise PayloadError("s_group: a scale that is no finite number makes no INT8")
        numbers *= to_float32("F16", scales)[..., None]
        codes = np.clip(np.rint(numbers), -128, 127).astype(np.int8).reshape(rows, inputs)
    else:
        # Signed codes in the upper half of a byte: INT8 that is a multiple of 16.
        codes = codes << 4
    parts = {
        "weight": codes.view(np.uint8),
        "weight_scale": _tiles.lines_of_scales(blocks["s_channel"], "<u4", ALONE).view(np.uint8),
    }
    ct.decode_int8(parts, params, window, out)
