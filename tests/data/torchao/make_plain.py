"""Write tests/data/torchao/plain*.safetensors: Int4PlainInt32Tensor as an XPU stores it.

    pip install torch==2.13.0 torchao==0.18.0 safetensors && python make_plain.py

Its `_from_hp_xpu` runs on the CPU, where a weight says that it is on an XPU and the operator that
packs is what its kernel does (torch-xpu-ops, WeightInt4PackKernel.cpp): bytes taken four at a time.
`expected` holds the BF16 bits (U16) of `dequantize_affine` of the codes before they are packed, in
float32; torchao has no `dequantize` of this class.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import save_file
from torchao.prototype.safetensors.safetensors_support import flatten_tensor_state_dict
from torchao.quantization.quant_primitives import dequantize_affine
from torchao.quantization.quantize_.workflows.int4 import int4_plain_int32_tensor as module

FOLDER = Path(__file__).parent
seen: list[Any] = []


class OnXpu(torch.Tensor):
    """A tensor that says so."""

    @property
    def device(self) -> Any:
        return SimpleNamespace(type="xpu")


def quantize_affine(*arguments: Any) -> torch.Tensor:
    """torchao's, kept with what it was given."""
    plain = [a.as_subclass(torch.Tensor) if isinstance(a, OnXpu) else a for a in arguments]
    seen[:] = [module_quantize(*plain), *plain[1:4]]
    return seen[0]


def packed(codes: torch.Tensor, _: int) -> torch.Tensor:
    return codes.view(torch.int32)


def values(block: list[int]) -> torch.Tensor:
    codes, _, scale, zero = seen
    plain = dequantize_affine(codes, block, scale.float(), zero, torch.int32, 0, 15)
    return plain.to(torch.bfloat16).contiguous().view(torch.uint16)


module_quantize = module.quantize_affine
module.quantize_affine = quantize_affine
ops = SimpleNamespace(aten=SimpleNamespace(_convert_weight_to_int4pack=packed))
module.torch = SimpleNamespace(**{**vars(torch), "ops": ops})

if __name__ == "__main__":
    torch.manual_seed(8)
    state, expected = {}, {}
    for name, size, dtype in (("bf16", 32, torch.bfloat16), ("f16", 64, torch.float16)):
        weight = (torch.randn(24, 128) * 0.1 + 0.02).to(dtype)
        block = [1, size]
        tensor = module._from_hp_xpu(None, weight.as_subclass(OnXpu), block)
        state[f"{name}.weight"], expected[f"{name}.weight"] = tensor, values(block)
    tensors, metadata = flatten_tensor_state_dict(state)
    parts = {k: v.as_subclass(torch.Tensor).contiguous() for k, v in tensors.items()}
    save_file(parts, FOLDER / "plain.safetensors", metadata)
    save_file(expected, FOLDER / "plain-expected.safetensors")
