"""Make GPTQModel's FP8 layers, ggml blocks and planar GPTQ in this folder, by its own code.

    cd / && PYTHONPATH=GPTQModel python …/tests/data/layouts/make_gptqmodel.py

Needs GPTQModel 7.7.0 (unpacked, on the module path), gguf 0.19.0, torch 2.13.0 and safetensors.
FP8: `quantize_fp8_weight`, and the codes divided by the expanded scale in float32, as
`dequantize_weight` has it. Blocks: GPTQModel's `_gguf_quantize`, and gguf's `dequantize`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGMLQuantizationType, dequantize
from gptqmodel.nn_modules.qlinear.fp8 import TorchFP8Linear, quantize_fp8_weight
from gptqmodel.nn_modules.qlinear.gguf import _gguf_quantize
from gptqmodel.quantization.config import FP8Config, GGUFConfig, GPTQConfig
from gptqmodel.utils.planar_packing import (
    planar_pack_cols,
    planar_pack_rows,
    planar_unpack_cols,
    planar_unpack_rows,
)
from safetensors.torch import save_file

HERE = Path(__file__).resolve().parent / "gptqmodel"
torch.manual_seed(37)


def write(folder: str, stored: dict[str, torch.Tensor], weight: torch.Tensor, about: Any) -> None:
    path = HERE / folder
    path.mkdir(parents=True, exist_ok=True)
    named = {f"a.{name}": value.contiguous() for name, value in stored.items()}
    save_file(named, path / "model.safetensors", {"format": "pt"})
    bits = weight.to(torch.bfloat16).contiguous().view(torch.uint16)
    save_file({"a.weight": bits}, path / "expected.safetensors")
    block = {key: value for key, value in about.to_dict().items() if key != "meta"}
    (path / "config.json").write_text(json.dumps({"quantization_config": block}, indent=1) + "\n")


def fp8(folder: str, outputs: int, inputs: int, **about: Any) -> None:
    config = FP8Config(**about)
    method, blocks = config.weight_scale_method, config.weight_block_size
    codes, scale = quantize_fp8_weight(
        torch.randn(outputs, inputs) / 8,
        format=config.format,
        weight_scale_method=method,
        weight_block_size=tuple(blocks) if blocks else None,
    )
    layer = TorchFP8Linear.__new__(TorchFP8Linear)
    torch.nn.Module.__init__(layer)
    layer.weight_scale_inv, layer.weight_scale_method = scale, method
    layer.weight_block_size = blocks
    expanded = layer._expanded_scale_inv(
        target_device=torch.device("cpu"), target_dtype=torch.float32
    )
    stored = {"weight": codes, "weight_scale_inv": scale}
    write(f"fp8-{folder}", stored, codes.float() / expanded, config)


def blocks(folder: str, name: str, outputs: int, inputs: int, **about: Any) -> None:
    packed = _gguf_quantize(np.random.default_rng(5).normal(size=(outputs, inputs)), name)
    values = dequantize(packed, GGMLQuantizationType[name])
    stored = {"qweight": torch.from_numpy(np.ascontiguousarray(packed))}
    write(f"gguf-{folder}", stored, torch.from_numpy(values.copy()), GGUFConfig(**about))


def planar(bits: int, inputs: int, outputs: int, group: int, symmetric: bool) -> None:
    """A layer of gptq_p; values in float32 from the codes, as `dequantize_weight` has them."""
    codes = torch.randint(0, 1 << bits, (inputs, outputs))
    zeros = torch.randint(0, 1 << bits, (inputs // group, outputs))
    if symmetric:
        zeros[:] = 1 << (bits - 1)
    scales = (torch.rand(inputs // group, outputs) / 64).half()
    stored = {
        "qweight": planar_pack_rows(codes, bits),
        "qzeros": planar_pack_cols(zeros, bits),
        "scales": scales,
        "g_idx": torch.arange(inputs, dtype=torch.int32) // group,
    }
    found = planar_unpack_rows(stored["qweight"], bits)
    shift = planar_unpack_cols(stored["qzeros"], bits)
    of = stored["g_idx"].long()
    weight = ((found - shift[of]).float() * scales.float()[of]).T
    about = GPTQConfig(bits=bits, group_size=group, sym=symmetric, format="gptq_p")
    write(f"gptq-p-{bits}-bits", stored, weight, about)


if __name__ == "__main__":
    fp8("row", 24, 48)
    fp8("tensor-e5m2", 16, 32, weight_scale_method="tensor", format="float8_e5m2")
    fp8("block", 64, 96, weight_scale_method="block", weight_block_size=[32, 32])
    blocks("q4-k-m", "Q4_K", 4, 512, bits="q4_k_m")
    blocks("q6-k", "Q6_K", 2, 256, bits=6, format="q_k")
    blocks("q8-0", "Q8_0", 8, 64, bits=8)
    blocks("q4-0", "Q4_0", 8, 96, bits=4, format="q_0")
    planar(3, 64, 96, 32, symmetric=True)
    planar(5, 96, 64, 32, symmetric=False)
    planar(6, 64, 32, 64, symmetric=False)
    planar(7, 64, 64, 32, symmetric=True)
