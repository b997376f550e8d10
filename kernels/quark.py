"""Quark's signed INT4: AWQ's GEMM layout, with codes and zero points in two's complement.

| part | stored |
|---|---|
| `qweight` | I32 `[in, out / 8]`, nibbles in AWQ's order (`awq.py`) |
| `scales` | BF16, F16 or F32 `[groups, out]` |
| `qzeros` | I32 `[groups, out / 8]`, like the codes; 0 where there are none |

    value = (code - zero) * scale          float32, rounded once to BF16

Turning the sign bit of a nibble adds 8 to it, and what is added to both falls out. Source:
amd-quark 0.13 torch/utils/pack.py (`Pack_4_bits`), torch/kernel/hw_emulation
(`dequantize_int_per_group_affine`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from anamnesis.kernels import Window
from anamnesis.kernels.awq import decode_gemm

_SIGNS = np.uint8(0x88)


def decode_int4(
    blocks: Mapping[str, Any], params: Mapping[str, Any], window: Window, out: Any
) -> None:
    """Output rows `window`; blocks and parameters as for `awq.decode_gemm`."""
    rows, zeros = window.stop - window.start, blocks.get("qzeros")
    if zeros is None:
        zeros = np.full((blocks["scales"].shape[0], rows // 2), _SIGNS)
    else:
        zeros = zeros ^ _SIGNS
    unsigned = {**blocks, "qweight": blocks["qweight"] ^ _SIGNS, "qzeros": zeros}
    decode_gemm(unsigned, params, window, out)
