"""Writes layers of HQQ, as `cases.safetensors` and `qmodel.pt`, and `expected.npz`.

    python make_hqq.py          (hqq 0.2.8.post1, torch 2.13.0, safetensors 0.8.0, on a CPU)

`reference` is what `HQQLinear.dequantize` gives, as float32; `exact` is the same with scales, zeros
and the compute dtype made float32. `qmodel.pt` holds the layers of `PICKLED` as hqq itself saves
them, and `old`, with its settings in `meta` as versions before 0.1.8 did.
"""

import copy
from pathlib import Path

import numpy as np
import torch
from hqq.core.quantize import BaseQuantizeConfig, HQQLinear, Quantizer
from safetensors.torch import save_file

FOLDER = Path(__file__).parent
BF16, F16, F32 = torch.bfloat16, torch.float16, torch.float32
torch.manual_seed(1)

# Name: bits, axis, group size (None: a row or a column), (outputs, inputs), compute dtype.
CASES = {
    f"w{str(bits).replace('.', '-')}-a{axis}-g{size}-{str(dtype)[6:]}": (
        bits, axis, size, shape, dtype,
    )
    for bits, axis, size, shape, dtype in [
        (8, 1, 16, (10, 48), BF16),
        (8, 0, 16, (32, 14), F16),
        (8, 1, None, (8, 37), F32),
        (4, 1, 64, (12, 64), BF16),
        (4, 1, 24, (16, 36), F16),
        (4, 0, 64, (64, 11), BF16),
        (4, 0, 64, (64, 10), F16),
        (4, 0, None, (18, 25), BF16),
        (4, 1, None, (18, 25), F32),
        (4, 0, 32, (20, 24), F32),
        (3, 1, 64, (11, 64), BF16),
        (3, 1, 8, (10, 28), F16),
        (3, 0, 64, (64, 9), BF16),
        (3, 0, 16, (20, 20), F16),
        (2, 1, 16, (16, 40), BF16),
        (2, 0, 16, (28, 16), F16),
        (1, 1, 32, (16, 48), BF16),
        (1, 0, 64, (64, 12), F16),
        (1.58, 1, 16, (16, 24), BF16),
        (6, 1, 32, (9, 32), F16),
        (5, 0, 32, (32, 9), BF16),
    ]
}  # fmt: skip
# The same, and quant_scale and quant_zero; hqq cannot save these but in `qmodel.pt`.
CODED = {
    "coded-a1-bfloat16": (4, 1, 16, (64, 64), BF16, True, True),
    "coded-a0-float16": (4, 0, 64, (128, 128), F16, True, True),
    "coded-a1-scale": (2, 1, 32, (128, 64), F16, True, False),
    "coded-a0-zero": (3, 0, 64, (64, 128), BF16, False, True),
    "coded-a1-axis1": (4, 1, 16, (64, 64), F32, True, True),
}
PICKLED = ("w4-a1-g64-bfloat16", "w3-a0-g16-float16", "w8-a1-gNone-float32")


def layer(bits, axis, size, shape, dtype, view=False):
    linear = torch.nn.Linear(shape[1], shape[0], bias=False)
    linear.weight.data = torch.randn(shape)
    config = BaseQuantizeConfig(nbits=bits, group_size=size, axis=axis, view_as_float=view)
    return HQQLinear(linear, config, compute_dtype=dtype, device="cpu")


def results(name, made, found):
    meta = dict(made.meta)
    found[f"{name}.reference"] = Quantizer.dequantize(made.W_q, meta).float().numpy()
    meta |= {"compute_dtype": F32, "scale": meta["scale"].float(), "zero": meta["zero"].float()}
    found[f"{name}.exact"] = Quantizer.dequantize(made.W_q, meta).float().numpy()


def coded_layer(bits, axis, size, shape, dtype, scale, zero, along=None):
    linear = torch.nn.Linear(shape[1], shape[0], bias=False)
    linear.weight.data = torch.randn(shape)
    about = BaseQuantizeConfig(bits, size, quant_zero=zero, quant_scale=scale, axis=axis)
    if along is not None:  # of which axis the steps are, and as many as scales have for zeros
        about["scale_quant_params"] |= {"axis": along, "group_size": 32}
        about["zero_quant_params"] = about["scale_quant_params"]
    return HQQLinear(linear, about, compute_dtype=dtype, device="cpu")


def coded_results(name, made, found):
    found[f"{name}.reference"] = made.dequantize().float().numpy()
    wide = copy.deepcopy(made.meta)
    for meta in (wide, *(wide[m] for m in ("meta_scale", "meta_zero") if m in wide)):
        meta["compute_dtype"] = F32
        for key in ("scale", "zero"):
            if key in meta:
                meta[key] = meta[key].float()
    made, made.meta = copy.copy(made), wide
    found[f"{name}.exact"] = made.dequantize().numpy()


stored, expected, pickled = {}, {}, {}
for name, case in CASES.items():
    made = layer(*case)
    results(name, made, expected)
    stored |= {f"{name}.{key}": value.contiguous() for key, value in made.state_dict().items()}
    if name in PICKLED:
        made.encoded_state_dict = False
        pickled[name] = dict(made.state_dict())
# The same bytes under other names, and scales of another dtype than the compute dtype.
for bits, axis, dtype in ((4, 1, BF16), (3, 1, F32), (2, 0, F16)):
    name = f"view-w{bits}"
    made = layer(bits, axis, 16, (16, 40), dtype, view=True)
    results(name, made, expected)
    stored |= {f"{name}.{key}": value.contiguous() for key, value in made.state_dict().items()}
for name, scale, zero in (("mixed-a", F32, BF16), ("mixed-b", F16, BF16), ("mixed-c", BF16, F32)):
    made = layer(4, 1, 16, (16, 40), BF16)
    made.meta |= {"scale": made.meta["scale"].to(scale), "zero": made.meta["zero"].to(zero)}
    results(name, made, expected)
    stored |= {f"{name}.{key}": value.contiguous() for key, value in made.state_dict().items()}
old = layer(4, 0, 16, (16, 40), F16)
results("old", old, expected)
pickled["old"] = {"W_q": old.W_q.data, "meta": old.meta, "bias": None}
pickled["norm"] = {"weight": torch.ones(7, dtype=BF16)}

torch.manual_seed(2)
for name, case in CODED.items():
    made = coded_layer(*case, along=1 if name.endswith("axis1") else None)
    coded_results(name, made, expected)
    made.encoded_state_dict = False
    pickled[name] = dict(made.state_dict())

save_file(stored, FOLDER / "cases.safetensors")
torch.save(pickled, FOLDER / "qmodel.pt")
np.savez_compressed(FOLDER / "expected.npz", **expected)
