"""W4AFP8 (`quant_method: w4afp8`): experts of INT4 beside linear layers of FP8, which `fp8` reads.

| part | stored |
|---|---|
| `X.weight` | I8 `[out, in / 2]`: columns 2k and 2k + 1 in the low and the high half of a byte |
| `X.weight_scale_inv` | BF16, F16 or F32 `[out, in / 128]`, which is multiplied by |
| `X.input_scale` | of activations: dropped |

Codes are two's complement (`kernels/int4.py`). Source: https://github.com/sgl-project/sglang
python/sglang/srt/layers/quantization/w4afp8.py (`W4AFp8MoEMethod`), and `pack_int4_values_to_int8`
and `ref` of its test_cutlass_w4a8_moe.py.
"""

from __future__ import annotations

from dataclasses import replace

from anamnesis.readers.schemes._errors import misfit, need
from anamnesis.readers.schemes._packed_linear import SCALE_BITS
from anamnesis.readers.schemes.base import Ledger
from anamnesis.readers.schemes.ct import packed_tensor

_GROUP = 128  # columns that share a scale


def resolve(ledger: Ledger) -> None:
    """Claim the I8 weights of a model whose configuration says w4afp8, and drop their input scales.

    Raises FormatError for scales that are missing or do not fit.
    """
    if ledger.method() != "w4afp8":
        return
    for codes in ledger.free():
        stem = codes.name.removesuffix("weight")
        if codes.dtype != "I8" or stem == codes.name:
            continue
        scale = need(ledger, codes, f"{stem}weight_scale_inv")
        if len(codes.shape) != 2 or 0 in codes.shape:
            raise misfit(codes, "a matrix")
        rows, columns = codes.shape[0], 2 * codes.shape[1]
        groups = (rows, columns // _GROUP)
        if columns % _GROUP or scale.shape != groups or scale.dtype not in SCALE_BITS:
            allowed = f"{', '.join(SCALE_BITS)} [out, in / {_GROUP}] of I8 [out, in / 2]"
            raise misfit(scale, allowed)
        shape = (rows, columns)
        tensor = packed_tensor(ledger, codes.name, codes, shape, scale, bits=4)
        params = {**tensor.params, "rounding": "exact"}  # its reference rounds once, too
        tensor = replace(tensor, scheme="w4afp8", encoding="int4-rows", params=params)
        ledger.claim(tensor)
        inputs = ledger.get(f"{stem}input_scale")
        if inputs is not None:
            ledger.drop(inputs, "activation scale")
