"""ModelOpt's integers: INT4 in pairs of rows, and INT8 rows, smoothed or not.

| `quant_algo` | `X.weight` | `X.weight_scale` |
|---|---|---|
| W4A16_AWQ, W4A8_AWQ | U8 `[out / 2, in]`: two rows in a byte | `[out, groups]` |
| W8A16, W8A8_SQ_PER_CHANNEL | I8 `[out, in]` | `[out]` |

`X.pre_quant_scale` is folded into the columns (`_fold.py`). `X.weight_scale_2` of W4A8_AWQ is the
scale of the FP8 numbers that a kernel makes of the decoded weight, and no part of it. FP8 is read
by `fp8`, FP4 by `fp4`. Source: nvidia-modelopt 0.47 torch/export/quant_utils.py
(`to_quantized_weight`, `from_quantized_weight`).
"""

from __future__ import annotations

from dataclasses import replace

from anamnesis.readers.base import Stored, Tensor
from anamnesis.readers.schemes._errors import misfit
from anamnesis.readers.schemes._fold import smoothed
from anamnesis.readers.schemes._packed_linear import SCALE_BITS
from anamnesis.readers.schemes.base import Ledger
from anamnesis.readers.schemes.ct import int8_tensor, packed_tensor


def resolve(ledger: Ledger) -> None:
    """Claim integer weights with their scales, where the config speaks of ModelOpt.

    Raises FormatError for parts that do not fit one another.
    """
    config = ledger.quantization()
    if ledger.method() != "modelopt" and not config.get("quant_algo"):
        return
    for stored in ledger.free():
        scale = ledger.get(f"{stored.name}_scale")
        if scale is None or scale.dtype not in SCALE_BITS or len(stored.shape) not in (2, 3):
            continue
        if stored.dtype == "U8" and _of_pairs(stored, scale):
            tensor = _int4(ledger, stored, scale)
        elif stored.dtype == "I8":
            tensor = _int8(ledger, stored, scale)
        else:
            continue
        stem = stored.name.removesuffix("weight")
        module = stem if stem != stored.name else f"{stored.name}_"
        ledger.claim(smoothed(ledger, module, tensor))
        second = ledger.get(f"{stored.name}_scale_2")
        if second is not None:
            ledger.drop(second, "scale of FP8 numbers that are made of the decoded weight")
    _drop_cache_offsets(ledger)


def _drop_cache_offsets(ledger: Ledger) -> None:
    """`X.k_bias` and `X.v_bias` beside scales of the key/value cache: an affine cache's offsets."""
    for stored in ledger.free():
        module, _, part = stored.name.rpartition(".")
        if part not in ("k_bias", "v_bias") or len(stored.shape) != 4:
            continue
        if f"{module}.{part[0]}_scale" in ledger.container.stored:
            ledger.drop(stored, "offset of the key/value cache")


def _of_pairs(codes: Stored, scale: Stored) -> bool:
    """Whether scales are of twice as many rows as there are of bytes."""
    *lead, pairs, _ = codes.shape
    return len(scale.shape) == len(codes.shape) and scale.shape[:-1] == (*lead, 2 * pairs)


def _int4(ledger: Ledger, codes: Stored, scale: Stored) -> Tensor:
    *lead, pairs, columns = codes.shape
    if columns % 2:
        raise misfit(codes, "an even number of columns")
    shape = (*lead, 2 * pairs, columns)
    tensor = packed_tensor(ledger, codes.name, codes, shape, scale, bits=4, unit=2)
    return replace(tensor, scheme="modelopt-int4", encoding="int4-pairs")


def _int8(ledger: Ledger, codes: Stored, scale: Stored) -> Tensor:
    if scale.shape == codes.shape[:-1] and scale.shape[-1] > 1:
        scale = replace(scale, shape=(*scale.shape, 1))
    tensor = int8_tensor(ledger, codes, scale, None, [])
    return replace(tensor, scheme="modelopt-int8")
