"""Write tests/data/torchao/cases.pt and affine.pt: torchao's tensors as torch.save pickles them.

    python make_pickles.py cases     with torchao 0.18.0
    python make_pickles.py affine    with torchao 0.9.0

and torch 2.13.0 (CPU). `cases` are the tensors of cases.safetensors, so that their values are those
of expected.safetensors. `affine` has the AffineQuantizedTensor of torchao up to 0.13;
`affine-expected.safetensors` holds the BF16 bits (U16) of its own `dequantize()`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

FOLDER = Path(__file__).parent


def cases() -> None:
    from torchao.prototype.safetensors.safetensors_support import unflatten_tensor_state_dict

    with safe_open(FOLDER / "cases.safetensors", "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        state, _ = unflatten_tensor_state_dict(tensors, file.metadata())
    torch.save(dict(state), FOLDER / "cases.pt")


def affine() -> None:
    from torchao import quantization as ao
    from torchao.quantization.quant_primitives import MappingType, ZeroPointDomain

    torch.manual_seed(9)
    state, expected = {}, {}
    for name, config in {
        "rows": ao.int8_weight_only(),
        "groups": ao.int8_weight_only(group_size=32),
        "float8": ao.float8_weight_only(),
        "dynamic": ao.int8_dynamic_activation_int8_weight(),
    }.items():
        layer = torch.nn.Linear(96, 24).bfloat16()
        ao.quantize_(layer, config)
        keep(name, layer.weight, state, expected)
        state[f"{name}.bias"] = layer.bias
    from torchao.dtypes import to_affine_quantized_intx

    values = torch.randn(16, 64, dtype=torch.bfloat16) + 1
    for name, dtype, block, zeros in (
        ("asymmetric", torch.int8, (1, 64), torch.int32),
        ("unsigned", torch.uint8, (1, 16), torch.uint8),
        ("blocks", torch.int8, (8, 32), torch.int8),
        ("tensor", torch.uint8, (16, 64), torch.int64),
    ):
        tensor = to_affine_quantized_intx(
            values, MappingType.ASYMMETRIC, block, dtype, eps=1e-6, zero_point_dtype=zeros,
            zero_point_domain=ZeroPointDomain.INT,
        )  # fmt: skip
        keep(name, tensor, state, expected)
    torch.save(state, FOLDER / "affine.pt")
    save_file(expected, FOLDER / "affine-expected.safetensors")


def keep(name: str, tensor: torch.Tensor, state: dict, expected: dict) -> None:
    state[f"{name}.weight"] = tensor
    inner = getattr(tensor, "original_weight_tensor", tensor)
    values = inner.dequantize(torch.bfloat16).detach()
    expected[f"{name}.weight"] = values.contiguous().view(torch.uint16)


if __name__ == "__main__":
    {"affine": affine, "cases": cases}[sys.argv[1]]()
