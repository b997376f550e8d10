"""Writes layers of Quanto as `cases.safetensors`, and `expected.npz`.

    python make_quanto.py       (optimum-quanto 0.2.7, torch 2.13.0, safetensors 0.8.0, on a CPU)

`reference` is `weight.dequantize()`, as float32; `exact` is the same of the weight with its scale,
and its shift, made float32.
"""

from pathlib import Path

import numpy as np
import torch
from optimum.quanto import (
    MaxOptimizer,
    freeze,
    qfloat8_e4m3fn,
    qfloat8_e4m3fnuz,
    qfloat8_e5m2,
    qint2,
    qint4,
    qint8,
    quantize,
)
from optimum.quanto.tensor import WeightQBitsTensor, WeightQBytesTensor
from optimum.quanto.tensor.weights.quantization import quantize_weight
from safetensors.torch import save_file

FOLDER = Path(__file__).parent
BF16, F16, F32 = torch.bfloat16, torch.float16, torch.float32
torch.manual_seed(2)

# Name: type, module, dtype. Groups of 128, 96, 64, 32, and none.
CASES = {
    "qint8-bf16": (qint8, torch.nn.Linear(37, 6), BF16),
    "qint8-f16": (qint8, torch.nn.Linear(96, 5, bias=False), F16),
    "qint8-f32": (qint8, torch.nn.Linear(33, 4, bias=False), F32),
    "qint8-row": (qint8, torch.nn.Linear(70, 1, bias=False), BF16),
    "qint8-conv": (qint8, torch.nn.Conv2d(3, 4, 3), BF16),
    "e4m3-bf16": (qfloat8_e4m3fn, torch.nn.Linear(37, 6), BF16),
    "e4m3-f16": (qfloat8_e4m3fn, torch.nn.Linear(64, 6, bias=False), F16),
    "e5m2-bf16": (qfloat8_e5m2, torch.nn.Linear(40, 6, bias=False), BF16),
    "e5m2-f16": (qfloat8_e5m2, torch.nn.Linear(40, 6, bias=False), F16),
    "e4m3fnuz-f32": (qfloat8_e4m3fnuz, torch.nn.Linear(40, 6, bias=False), F32),
    "qint4-g128-bf16": (qint4, torch.nn.Linear(256, 16), BF16),
    "qint4-g96-f16": (qint4, torch.nn.Linear(576, 3), F16),
    "qint4-g64-f32": (qint4, torch.nn.Linear(320, 3), F32),
    "qint4-g32-bf16": (qint4, torch.nn.Linear(160, 5), BF16),
    "qint4-rows-f16": (qint4, torch.nn.Linear(100, 7, bias=False), F16),
    "qint4-long-bf16": (qint4, torch.nn.Linear(210, 9, bias=False), BF16),
    "qint4-128-bf16": (qint4, torch.nn.Linear(128, 8), BF16),
    "qint4-conv-bf16": (qint4, torch.nn.Conv2d(8, 6, 3), BF16),
    "qint2-g128-f16": (qint2, torch.nn.Linear(256, 7), F16),
    "qint2-rows-bf16": (qint2, torch.nn.Linear(50, 10, bias=False), BF16),
}


def exact(weight):
    size, stride, scale = weight.size(), weight.stride(), weight._scale.float()
    if isinstance(weight, WeightQBytesTensor):
        made = WeightQBytesTensor(
            weight.qtype, weight.axis, size, stride, weight._data, scale, weight.activation_qtype
        )
    else:
        shift = weight._shift.float() if weight._shift.is_floating_point() else weight._shift
        made = WeightQBitsTensor(
            weight.qtype, weight.axis, weight._group_size, size, stride, weight._data, scale, shift
        )
    return made.dequantize().numpy()


def plain(weight):
    """The library saves them in this form whatever kernel they were made for."""
    for convert in ("weight_qbits_tensor", "weight_qbytes_tensor"):
        packed = type(weight) not in (WeightQBitsTensor, WeightQBytesTensor)
        if packed and hasattr(weight, convert):
            weight = getattr(weight, convert)()
    return weight


stored, expected = {}, {}
for name, (kind, module, dtype) in CASES.items():
    model = torch.nn.Sequential(module.to(dtype))
    quantize(model, weights=kind)
    freeze(model)
    weight = plain(model[0].weight)
    stored |= {
        f"{name}.{k.removeprefix('0.')}": v.contiguous() for k, v in model.state_dict().items()
    }
    expected[f"{name}.reference"] = weight.dequantize().detach().float().numpy()
    expected[f"{name}.exact"] = exact(weight)
# Integer shifts, which the modules never ask for.
for name, kind, shape, dtype in (
    ("zero-qint4-bf16", qint4, (10, 75), BF16), ("zero-qint2-f16", qint2, (9, 75), F16),
):  # fmt: skip
    base = torch.randn(shape, dtype=dtype)

    scale, shift = MaxOptimizer()(base, kind, 0, None, zeropoint=True)
    weight = quantize_weight(base, kind, 0, scale, shift, optimized=False)
    weight.save_to_state_dict(stored, f"{name}.weight.", False)
    expected[f"{name}.reference"] = weight.dequantize().float().numpy()
    expected[f"{name}.exact"] = exact(weight)

save_file({k: v.contiguous() for k, v in stored.items()}, FOLDER / "cases.safetensors")
np.savez_compressed(FOLDER / "expected.npz", **expected)
