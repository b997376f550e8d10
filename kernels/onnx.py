"""ONNX Runtime's `MatMulNBits`: rows of unsigned codes, brought to those of `ct-packed`.

    codes        uint8 `[rows, blocks * block_size * bits / 8]`, low bits first; 2, 4 or 8 bits
    scales       `[rows, blocks]`
    zero_points  uint8 `[rows, ceil(blocks * bits / 8)]`, low bits first; none: `2 ** (bits - 1)`
    value        (code - zero_point) * scale          float32, rounded once to BF16

Codes and zero points less `2 ** (bits - 1)` are those of `ct.py`, whose kernels take a zero point a
byte. Source: https://github.com/microsoft/onnxruntime onnxruntime/core/mlas/lib/q4_dq.cpp
(`MlasDequantizeBlockwise`).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels import Window, ct
from anamnesis.kernels.types import Array, Params, Views, Wholes

ZEROS = "zero_points"


def prepare(scalars: Params, wholes: Wholes) -> dict[str, Any]:
    """What `ct.prepare` makes of the same parameters."""
    return ct.prepare(scalars, wholes)


def decode(blocks: Views, params: Params, window: Window, out: Array) -> None:
    """Rows `window`; blocks as for `ct.decode_packed`, and `zero_points` where there are any."""
    if ZEROS in blocks:
        zeros = _bytes_of(blocks[ZEROS], params["bits"], params["groups"])
        blocks = {**blocks, "weight_zero_point": zeros}
    ct.decode_packed(blocks, params, window, out)


def _bytes_of(packed: Array, bits: int, groups: int) -> Array:
    """Zero points of a byte each, `[rows, groups]`: signed, as codes that are stored plus half."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    # `8 / bits` zero points a byte, the first lowest; a row of them begins a byte.
    fields = packed[:, :, None] >> shifts & np.uint8((1 << bits) - 1)
    flat = fields.reshape(len(packed), -1)[:, :groups]
    return flat - np.uint8(1 << (bits - 1))
