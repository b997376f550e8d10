"""INT8 as SGLang stores it (`quant_method: w8a8_int8`, `blockwise_int8`): a scale a row or a block.

| part | stored |
|---|---|
| `X.weight` | I8 `[out, in]` |
| `X.weight_scale` | F32, BF16 or F16 `[out, 1]`: a scale a row |
| `X.weight_scale_inv` | the same `[ceil(out / m), ceil(in / n)]`: a scale for m x n |

m and n are the configuration's `weight_block_size`, 128 and 128 where it has none; codes are
multiplied by scales. A grid of such blocks tells itself: it is read without a configuration, too.
Source: https://github.com/sgl-project/sglang python/sglang/srt/layers/quantization/
w8a8_int8.py, blockwise_int8.py and int8_utils.py (`block_dequant`).
"""

from __future__ import annotations

from dataclasses import replace

from anamnesis.readers.base import Stored
from anamnesis.readers.schemes._errors import misfit, missing
from anamnesis.readers.schemes._scale_grid import Block, declared_blocks
from anamnesis.readers.schemes.base import Ledger
from anamnesis.readers.schemes.ct import int8_tensor

_METHOD = "w8a8-int8"
_BLOCK = (128, 128)
_ROWS, _BLOCKS = "weight_scale", "weight_scale_inv"


def resolve(ledger: Ledger) -> None:
    """Claim I8 matrices with their scales, where the configuration says so or states no method.

    Raises FormatError for a scale that is missing or does not fit, under that method.
    """
    stated = ledger.method() == _METHOD
    if not stated and ledger.stated:
        return
    declared = declared_blocks(ledger.quantization())
    for codes in ledger.free():
        stem = codes.name.removesuffix("weight")
        if codes.dtype != "I8" or stem == codes.name:
            continue
        rows, blocks = ledger.get(f"{stem}{_ROWS}"), ledger.get(f"{stem}{_BLOCKS}")
        scale = blocks if rows is None else rows
        if not stated and (scale is None or scale is rows or not _is_grid(codes, scale)):
            continue
        if scale is None:
            raise missing(ledger, codes, f"{stem}{_ROWS}")
        if len(codes.shape) != 2:
            raise misfit(codes, "a matrix")
        _claim(ledger, codes, scale, [] if scale is rows else declared or [_BLOCK])


def _claim(ledger: Ledger, codes: Stored, scale: Stored, declared: list[Block]) -> None:
    size = max(1, codes.shape[0])
    blocks = [(min(m, size), n) for m, n in declared]  # a matrix of one row has blocks of one
    tensor = int8_tensor(ledger, codes, scale, None, blocks)
    if declared and not any(_counts(codes, block) == scale.shape for block in blocks):
        allowed = " or ".join(f"{list(_counts(codes, one))} for blocks of {one}" for one in blocks)
        raise misfit(scale, allowed)
    params = {**tensor.params, "rounding": "exact"}  # SGLang multiplies in float32
    kind = "block" if declared else "channel"
    ledger.claim(replace(tensor, scheme=f"int8-{kind}", params=params))


def _is_grid(codes: Stored, scale: Stored) -> bool:
    """Whether scales can be of blocks of the usual size, and of nothing else."""
    return len(codes.shape) == 2 and codes.shape[0] > 1 and _counts(codes, _BLOCK) == scale.shape


def _counts(codes: Stored, block: Block) -> tuple[int, int]:
    return -(-codes.shape[0] // block[0]), -(-codes.shape[1] // block[1])
