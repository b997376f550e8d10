"""GPTQModel's planar GPTQ (`gptq_p`): codes of 3, 5, 6 and 7 bits in planes of whole words.

32 codes in a row are `b` words, first those of the low plane, then the others:

| b | planes, from the low bits up |
|---|---|
| 3 | 2, 1 |
| 5 | 4, 1 |
| 6 | 4, 2 |
| 7 | 4, 2, 1 |

A plane of `w` bits is `w` words of `32 / w` fields, the first in the lowest bits; zero points lie
along the outputs alike. The codes are joined and handed on as those of 8 bits, whose words are
bytes in order: everything else is `gptq.py`'s. Zero points are as stored. Source: GPTQModel 7.7.0
utils/planar_packing.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels import Window, gptq
from anamnesis.kernels.types import Array, Params, Views, Wholes

# Widths of the planes of a code, its lowest bits first.
PLANES = {3: (2, 1), 5: (4, 1), 6: (4, 2), 7: (4, 2, 1)}


def prepare(scalars: Params, wholes: Wholes) -> dict[str, Any]:
    """The groups of inputs, as GPTQ of 8 bits has them."""
    return gptq.prepare({**scalars, "bits": 8}, wholes)


def decode(blocks: Views, params: Params, window: Window, out: Array) -> None:
    """Output rows `window`, multiples of 32, from uint8 `[lines, bytes]` of their columns.

    `params` are GPTQ's. Raises ValueError for arrays that do not fit.
    """
    bits, rows = params["bits"], window.stop - window.start
    words = blocks["qweight"].view("<u4")
    if words.shape[0] % bits or words.shape[1] != rows:
        raise ValueError(f"qweight: words {words.shape} of {bits} bits for rows {window}")
    codes = joined(words.reshape(-1, bits, rows), bits)
    # Four codes of a column are a word of GPTQ's 8 bits, the first lowest.
    fours = codes.reshape(-1, 4, rows).transpose(0, 2, 1)
    parts = {"scales": blocks["scales"], "qweight": fours.reshape(-1, 4 * rows)}
    if "qzeros" in blocks:
        lines = np.ascontiguousarray(blocks["qzeros"]).view("<u4")
        along = lines.reshape(-1, bits, 1)
        parts["qzeros"] = joined(along, bits).reshape(lines.shape[0], -1)
    else:
        groups = blocks["scales"].shape[0]
        parts["qzeros"] = np.full((groups, rows), 1 << (bits - 1), np.uint8)
    # The zero points are stored as they are.
    eight = {**params, "zero_offset": 0, "zero_carry": False}
    gptq.decode(parts, eight, window, out)


def joined(words: Array, bits: int) -> Array:
    """Codes uint8 `[blocks * 32, columns]` of their planes, uint32 `[blocks, bits, columns]`."""
    codes = np.zeros((words.shape[0], 32, words.shape[2]), np.uint8)
    at = 0
    for width in PLANES[bits]:
        per = 32 // width
        shifts = (np.arange(per, dtype=np.uint32) * np.uint32(width))[:, None]
        # A plane of `width` bits: `width` words of `32 / width` fields, the first lowest.
        fields = words[:, at : at + width, None] >> shifts & np.uint32((1 << width) - 1)
        codes |= fields.astype(np.uint8).reshape(codes.shape) << np.uint8(at)
        at += width
    return codes.reshape(-1, words.shape[2])
