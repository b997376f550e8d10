"""GGUF's FP4 types: MXFP4, 32 elements under a power of two, and NVFP4, four times 16 under UE4M3.

    MXFP4    e = floor(log2(greatest magnitude)) - 2 + 127, 0 for zeros
    NVFP4    d = UE4M3 of (greatest magnitude / 6), ties away from zero
    code     the first of the sixteen numbers that is nearest to w

The logarithm is rounded to float32, so that numbers just below a power of two may count as it.
Layouts are in `gguf_fp4`. Source: ggml `src/ggml-quants.c`, `quantize_row_mxfp4_ref` and
`quantize_row_nvfp4_ref`, `src/ggml-impl.h`, `ggml_fp32_to_ue4m3`.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from anamnesis.kernels._extremes import magnitudes
from anamnesis.kernels._ggml import run_blocks
from anamnesis.kernels._native import kernel
from anamnesis.kernels.encode_fp4 import e4m3_values
from anamnesis.kernels.ends import E2M1_END, Ends, around, by_exponents
from anamnesis.kernels.readback import Facts, Parts
from anamnesis.kernels.types import Array, Bytes, Floats, Outputs, Params

_mxfp4 = kernel("encode_gguf_fp4:mxfp4")
_mxfp4_of_bf16 = kernel("encode_gguf_fp4:mxfp4_of_bf16")
_nvfp4 = kernel("encode_gguf_fp4:nvfp4")


def encode_mxfp4(values: Array, params: Params, out: Outputs) -> None:
    """`quantize_row_mxfp4_ref`."""
    bf16 = values.dtype == np.uint16
    run = _mxfp4_of_bf16 if bf16 else _mxfp4
    exponents = _exponents_of_bf16() if bf16 else _exponents(magnitudes(values, 32))
    run_blocks(lambda v, o: run(v, exponents, o), values, "gguf-mxfp4", out["blocks"])


def _exponents(greatest: Floats) -> Bytes:
    with np.errstate(all="ignore"):
        logs = np.floor(np.log2(greatest.astype(np.float64)).astype(np.float32))
        exponents = np.where(greatest > 0, np.nan_to_num(logs + np.float32(125)), np.float32(0))
        return exponents.astype(np.int64).astype(np.uint8)


@cache
def _exponents_of_bf16() -> Bytes:
    """The exponents of all magnitudes, by their bits."""
    return _exponents((np.arange(1 << 15, dtype=np.uint32) << 16).view(np.float32))


def encode_nvfp4(values: Array, params: Params, out: Outputs) -> None:
    """`quantize_row_nvfp4_ref`."""
    run_blocks(_nvfp4, values, "gguf-nvfp4", out["blocks"])


def ends_mxfp4(parts: Parts, facts: Facts) -> Ends:
    """By the exponent, a block's first byte of 17."""
    return by_exponents(parts["blocks"][::17], float(E2M1_END), 32, 32)


def ends_nvfp4(parts: Parts, facts: Facts) -> Ends:
    """By the scales, a block's first four bytes of 36."""
    scales = np.ascontiguousarray(parts["blocks"].reshape(-1, 36)[:, :4])
    return around(e4m3_values(scales.reshape(-1)) * E2M1_END, 16, 16)
