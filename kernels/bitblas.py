"""BitBLAS: rows of codes of 2 or 4 bits, mixed for its conversion to F16.

| component | stored, of `[out, in]` |
|---|---|
| `qweight` | I8 `[out, in * b / 8]` |
| `scales` | F16 or BF16 `[out, groups]` |
| `qzeros` | I8 `[groups, out * b / 8]`, the first in the lowest bits; symmetric codes have none |

Beside F16 scales, words of 32 bits hold codes in an order of their own: code e is bits
`16 * (e % 2) + b * (e // 2)` and up, where of 2 bits the two bytes in the middle are exchanged
besides. Beside BF16 scales the first code is in the lowest bits.

    value = (code - zero) * scale            float32, rounded once to BF16
    value = (code - 2 ** (b - 1)) * scale    of symmetric codes

Sources: https://github.com/microsoft/BitBLAS (0c51e34) bitblas/ops/general_matmul/__init__.py
(`_create_weight_executors`, `__initialize_fast_decoding`), bitblas/ops/lop3_permutate,
bitblas/quantization/utils.py (`general_compress`, `interleave_weight`);
https://github.com/ModelCloud/GPTQModel (f4c327a) gptqmodel/nn_modules/qlinear/bitblas.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from anamnesis.kernels import Window
from anamnesis.kernels._affine import Affine, decode_rows, even_groups, numbers
from anamnesis.kernels._codes import bits_of, read_zeros
from anamnesis.kernels.types import Array, Params, Views, Wholes, Words


def prepare(scalars: Params, wholes: Wholes) -> dict[str, Any]:
    """`affine`, of `scalars`: `bits`, `scale_dtype`, `rounding`."""
    return {"affine": Affine.of(scalars)}


def decode(blocks: Views, params: Params, window: Window, out: Array) -> None:
    """Output rows `window`, from uint8 `[rows, bytes]` of codes and scales, and lines of zeros.

    `params`: `mixed` (codes are in BitBLAS's order), `in_features`, `group_size`, and what
    `prepare` made. Raises ValueError for arrays that do not fit.
    """
    affine, inputs, rows = params["affine"], params["in_features"], window.stop - window.start
    codes = np.ascontiguousarray(blocks["qweight"])
    scales = bits_of(affine.scale_dtype, blocks["scales"])
    groups = even_groups(inputs, params["group_size"])
    if (
        codes.shape != (rows, inputs * affine.bits // 8)
        or scales[0].shape != (rows, len(groups.starts) - 1)
        or out.shape != (rows * inputs,)
    ):
        raise ValueError(f"qweight {codes.shape}, scales {scales[0].shape}, out {out.shape}")
    if "qzeros" in blocks:
        lines = read_zeros(blocks["qzeros"], affine.bits, 0, 0, False, scales[0].T.shape)
        zeros = numbers(np.ascontiguousarray(lines.T))
    else:
        zeros = numbers(np.full((1, scales[0].shape[1]), affine.middle, np.float32))
    if params["mixed"]:
        codes = _in_order(codes.view("<u4"), affine.bits).view(np.uint8)
    decode_rows(affine, groups, codes, zeros, scales, out)


def _in_order(words: Words, bits: int) -> Words:
    """Words with code e in bits `e * bits` and up."""
    if bits == 2:
        middle = words >> np.uint32(8) & np.uint32(0xFF00) | (
            words & np.uint32(0xFF00)
        ) << np.uint32(8)
        words = words & np.uint32(0xFF0000FF) | middle
    # Codes of even number are in the lower half, each beside the next one of its kind.
    even, odd = _apart(words & np.uint32(0xFFFF), bits), _apart(words >> np.uint32(16), bits)
    return even | odd << np.uint32(bits)


def _apart(halves: Words, bits: int) -> Words:
    """Codes in the lower 16 bits, with room for another one after each."""
    spread = (halves | halves << np.uint32(8)) & np.uint32(0x00FF00FF)
    spread = (spread | spread << np.uint32(4)) & np.uint32(0x0F0F0F0F)
    if bits == 2:
        spread = (spread | spread << np.uint32(2)) & np.uint32(0x33333333)
    return spread
