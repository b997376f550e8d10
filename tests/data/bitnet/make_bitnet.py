"""Writes `bitnet.npz`: packed matrices of transformers, and what its layers make of them.

    TORCHDYNAMO_DISABLE=1 python make_bitnet.py       (transformers 5.23.0, torch 2.13.0)

`unpack_weights` gives the codes. The layers never make a weight: AutoBitLinear multiplies its
output by the scale, BitLinear divides it, so `multiplied` and `divided` do that to the codes, in
float32 ("exact") and in the dtype of the scale ("reference"). Values are float32.
"""

from pathlib import Path

import numpy as np
import torch
from transformers.integrations.bitnet import pack_weights, unpack_weights

torch.manual_seed(0)
SHAPES = {"wide": (24, 70), "square": (16, 16), "one": (4, 3), "tall": (100, 33)}
DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}

found = {}
for name, (rows, columns) in SHAPES.items():
    packed = pack_weights(torch.randint(-1, 2, (rows, columns)))
    if name == "wide":
        packed[3] |= 0b11001100  # codes that no tool writes
    found[f"{name}.packed"] = packed.numpy()
    for kind, dtype in DTYPES.items():
        scale = (torch.rand(1) * 2).to(dtype)
        found[f"{name}.{kind}.scale"] = scale.view(
            torch.int32 if kind == "F32" else torch.int16
        ).numpy()
        for order, to in (("exact", torch.float32), ("reference", dtype)):
            codes = unpack_weights(packed, dtype=to)
            found[f"{name}.{kind}.{order}.multiplied"] = (codes * scale.to(to)).float().numpy()
            found[f"{name}.{kind}.{order}.divided"] = (codes / scale.to(to)).float().numpy()
np.savez_compressed(Path(__file__).with_name("bitnet.npz"), **found)
