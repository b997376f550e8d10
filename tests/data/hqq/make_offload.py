"""Writes `offload.pt`, layers of HQQ with `offload_meta`, and `offload.npz`, their values.

    python make_offload.py          (hqq 0.2.8.post1, torch 2.13.0, on a CPU)

`HQQLinear.cuda` stacks zeros and scales, or the codes of both, in one tensor, which it then pins:
that is done here without a GPU. `reference` and `exact` are as in make_hqq.py; names begin with
`coded` where both are codes.
"""

import copy
from pathlib import Path

import numpy as np
import torch
from hqq.core.quantize import BaseQuantizeConfig, HQQLinear

FOLDER = Path(__file__).parent
torch.manual_seed(3)

pickled, expected = {}, {}
for name, bits, axis, size, shape, dtype in (
    ("plain-a1", 4, 1, 64, (12, 64), torch.bfloat16),
    ("plain-a0", 2, 0, 16, (32, 48), torch.float16),
    ("coded-a1", 4, 1, 16, (64, 64), torch.float16),
    ("coded-a0", 3, 0, 64, (64, 128), torch.bfloat16),
):
    coded = name.startswith("coded")
    linear = torch.nn.Linear(shape[1], shape[0], bias=False)
    linear.weight.data = torch.randn(shape)
    about = BaseQuantizeConfig(
        bits, size, quant_zero=coded, quant_scale=coded, axis=axis, offload_meta=True
    )
    # `initialize` would leave scales and zeros as they are.
    made = HQQLinear(linear, about, compute_dtype=dtype, device="cpu", initialize=False)
    made.offload_meta = False
    made.quantize(linear.weight.data, **made.quant_config)
    ends = "_q" if coded else ""
    sides = [made.meta.pop(f"{side}{ends}") for side in ("zero", "scale")]
    made.meta["zero_scale"] = torch.stack(sides) if coded else torch.stack(sides).to(dtype)
    made.offload_meta, made.encoded_state_dict = True, False
    # What hqq itself makes of a stacked tensor, which it takes apart again.
    expected[f"{name}.reference"] = made.dequantize().float().numpy()
    wide = copy.deepcopy(made.meta)
    for meta in (wide, *(wide[m] for m in ("meta_scale", "meta_zero") if m in wide)):
        meta["compute_dtype"] = torch.float32
        for key in ("scale", "zero"):
            if key in meta:
                meta[key] = meta[key].float()
    if not coded:
        wide["zero_scale"] = wide["zero_scale"].float()
    plain, made.meta = made.meta, wide
    expected[f"{name}.exact"] = made.dequantize().float().numpy()
    made.meta = plain
    pickled[name] = dict(made.state_dict())

torch.save(pickled, FOLDER / "offload.pt")
np.savez_compressed(FOLDER / "offload.npz", **expected)
