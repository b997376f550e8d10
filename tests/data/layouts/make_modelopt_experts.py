"""Make ModelOpt's stacked experts, and the low-rank parts of its exports of transformers' models.

    cd / && python …/tests/data/layouts/make_modelopt_experts.py

Needs nvidia-modelopt 0.47.0, torch 2.13.0 (CPU) and safetensors 0.8; those versions made the files
that are here. Experts of Llama-4 and gpt-oss are turned before and after they are packed, as
`_export_quantized_weight` does; a leading dimension of 1 is taken from scales, as
`_maybe_squeeze_scale` does. Expected values are BF16 bits: the library's float32 result, rounded
once.
"""

from __future__ import annotations

import torch
from layout_files import Tensors, write
from modelopt.torch.export.quant_utils import (
    QUANTIZATION_FP8,
    QUANTIZATION_MXFP8,
    QUANTIZATION_NVFP4,
    _maybe_squeeze_scale,
    _postprocess_single_tensor,
    maybe_transpose_expert_weight_dimensions,
    to_quantized_weight,
)
from modelopt.torch.quantization.qtensor.mxfp8_tensor import MXFP8QTensor
from modelopt.torch.quantization.qtensor.nvfp4_tensor import NVFP4QTensor

torch.manual_seed(47)


def config(algo: str) -> dict[str, object]:
    return {"quantization_config": {"quant_method": "modelopt", "quant_algo": algo}}


def nvfp4_experts(folder: str, experts: int, shape: tuple[int, int], each: bool) -> None:
    """Experts `[experts, in, out]`, packed along their inputs; `each` has a global scale."""
    name = "model.layers.0.feed_forward.experts.gate_up_proj"
    source = torch.randn(experts, *shape).to(torch.bfloat16)
    weight, _ = maybe_transpose_expert_weight_dimensions(source)
    double = weight.abs().amax(dim=(1, 2)).float() / (6 * 448) * torch.arange(1, experts + 1)
    double = double if each else double.max()
    lead = double.view(-1, 1, 1) if each else double
    scale = NVFP4QTensor.get_weights_scaling_factor(weight, 16, lead)[0]
    codes = to_quantized_weight(weight, scale, QUANTIZATION_NVFP4, double, 16)
    whole = NVFP4QTensor(weight.shape, torch.float32, codes).dequantize(
        torch.float32, scale=scale, double_scale=lead, block_sizes={-1: 16}
    )
    expected, _ = maybe_transpose_expert_weight_dimensions(whole)
    codes, scale = maybe_transpose_expert_weight_dimensions(codes, scale)
    key = f"{name}_weight_scale"
    stored = {name: codes, key: _maybe_squeeze_scale(key, scale), f"{key}_2": double}
    stored[f"{name}_input_scale"] = torch.tensor(0.25)
    write(folder, stored, {name: expected}, config("NVFP4"))


def fp8_experts() -> None:
    """A scale for each of three experts, and E8M0 exponents of one expert alone."""
    source = torch.randn(3, 48, 64)
    scale = source.abs().amax(dim=(1, 2)) / 448
    name = "experts.down_proj"
    codes = to_quantized_weight(source, scale.view(3, 1), QUANTIZATION_FP8)
    stored: Tensors = {name: codes, f"{name}_weight_scale": scale}
    expected = {name: codes.float() * scale.view(3, 1, 1)}
    one, key = torch.randn(1, 48, 64), "other.experts.down_proj"
    exponents = MXFP8QTensor.get_weights_scaling_factor(one)
    codes = to_quantized_weight(one, exponents, QUANTIZATION_MXFP8)
    expected[key] = MXFP8QTensor(one.shape, torch.float32, codes).dequantize(
        torch.float32, scale=exponents
    )
    stored |= {
        key: codes,
        f"{key}_weight_scale": _maybe_squeeze_scale(f"{key}_weight_scale", exponents),
    }
    write("modelopt/fp8-experts", stored, expected, config("MIXED_PRECISION"))


def svd_of_transformers() -> None:
    """NVFP4_SVD, with the names that stay with the quantiser, and an affine key/value cache."""
    source = torch.randn(48, 128) * 0.1
    quantised, scale, double = NVFP4QTensor.quantize(source, 16)
    weight = quantised.dequantize(
        torch.float32, scale=scale, double_scale=double, block_sizes={-1: 16}
    )
    b, a = (torch.randn(48, 8) * 0.1).bfloat16(), (torch.randn(8, 128) * 0.1).bfloat16()
    factor = (torch.rand(128) + 0.5).bfloat16()
    parts = {
        "k_proj.weight": quantised._quantized_data,
        "k_proj.weight_scale": scale,
        "k_proj.weight_scale_2": double,
        "k_proj.weight_quantizer._svdquant_lora_a": a,
        "k_proj.weight_quantizer._svdquant_lora_b": b,
        "k_proj.input_quantizer._pre_quant_scale": factor,
        "k_bmm_quantizer._amax": torch.tensor(3.0),
        "k_bmm_quantizer._bias_value": torch.randn(1, 2, 1, 24).bfloat16(),
    }
    found = [_postprocess_single_tensor(key, t, 448.0, "FP8") for key, t in parts.items()]
    stored = {key: tensor for key, tensor in found if key is not None}
    expected = (weight + b.float() @ a.float()) * factor.float()
    write(
        "modelopt/nvfp4-svd-of-transformers",
        stored,
        {"k_proj.weight": expected},
        config("NVFP4_SVD"),
    )


if __name__ == "__main__":
    nvfp4_experts("modelopt/nvfp4-experts-turned", 3, (64, 40), each=False)
    nvfp4_experts("modelopt/nvfp4-experts-turned-each", 3, (96, 72), each=True)
    nvfp4_experts("modelopt/nvfp4-experts-turned-one", 1, (32, 34), each=False)
    fp8_experts()
    svd_of_transformers()
