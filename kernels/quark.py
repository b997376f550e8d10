"""Quark's signed INT4: AWQ's GEMM layout, with codes and zero points in two's complement.

| part | stored |
|---|---|
| `qweight` | I32 `[in, out / 8]`, nibbles in AWQ's order (`awq.py`) |
| `scales` | BF16, F16 or F32 `[groups, out]` |
| `qzeros` | I32 `[groups, out / 8]`, like the codes; 0 where there are none |

    value = (code - zero) * scale          float32, rounded once to BF16

Source: amd-quark 0.13 torch/utils/pack.py (`Pack_4_bits`), torch/kernel/hw_emulation
(`dequantize_int_per_group_affine`).
"""

from __future__ import annotations

from typing import Any

from anamnesis.kernels import awq
from anamnesis.kernels.types import Params, Wholes

decode_int4 = awq.decode_gemm


def prepare(scalars: Params, wholes: Wholes) -> dict[str, Any]:
    """As `awq.prepare`, of signed codes."""
    return awq.prepare(scalars, wholes, signed=True)
