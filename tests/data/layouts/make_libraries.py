"""Make the layouts of ComfyUI, ModelOpt, Gemma, AQLM and MXINT4 in this folder, by their own code.

    cd / && python …/tests/data/layouts/make_libraries.py

Needs auto-round 0.16.1 (on the module path, if it is not installed), comfy-kitchen 0.2.40 (its
eager backend), nvidia-modelopt 0.47.0, transformers 5.23.0, aqlm 1.1.7, torch 2.13.0 (CPU) and
safetensors 0.8; those versions made the files that are here. Expected values are BF16 bits: the
library's float32 result, rounded once. Run it outside the checkout, whose folder `kernels` hides a
package that transformers looks for.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from aqlm.utils import _dequantize_weight, pack_int_data, unpack_int_data
from comfy_kitchen.tensor import QuantizedTensor
from modelopt.torch.export.quant_utils import pack_int4_in_uint8
from modelopt.torch.quantization.qtensor.int8_tensor import INT8QTensor
from modelopt.torch.quantization.qtensor.nvfp4_tensor import NVFP4QTensor
from safetensors.torch import save_file
from transformers.integrations.gemma_quant import QuantizedEmbedding, QuantizedLinear

HERE = Path(__file__).resolve().parent
Tensors = dict[str, torch.Tensor]
torch.manual_seed(17)


def bf16_bits(values: torch.Tensor) -> torch.Tensor:
    return values.float().to(torch.bfloat16).contiguous().view(torch.uint16)


def write(folder: str, stored: Tensors, expected: Tensors, config: Any, metadata: Any) -> None:
    path = HERE / folder
    path.mkdir(parents=True, exist_ok=True)
    stored = {name: tensor.contiguous() for name, tensor in stored.items()}
    save_file(stored, path / "model.safetensors", {"format": "pt", **metadata})
    bits = {name: bf16_bits(values) for name, values in expected.items()}
    save_file(bits, path / "expected.safetensors")
    if config is not None:
        (path / "config.json").write_text(json.dumps(config, indent=1) + "\n")


COMFY = {
    "nvfp4": ("TensorCoreNVFP4Layout", {}, {"format": "nvfp4"}),
    "mxfp8": ("TensorCoreMXFP8Layout", {}, {"format": "mxfp8"}),
    "int8-tensor": ("TensorWiseINT8Layout", {}, {"format": "int8_tensorwise"}),
    "int8-row": (
        "TensorWiseINT8Layout",
        {"per_channel": True},
        {"format": "int8_tensorwise", "per_row": True},
    ),
    "int8-convrot": (
        "TensorWiseINT8Layout",
        {"per_channel": True, "convrot": True, "convrot_groupsize": 256},
        {"format": "int8_tensorwise", "convrot": True},
    ),
    "int8-convrot-16": (
        "TensorWiseINT8Layout",
        {"per_channel": True, "convrot": True, "convrot_groupsize": 16},
        {"format": "int8_tensorwise", "convrot": True, "convrot_groupsize": 16},
    ),
    "convrot-w4a4": (
        "TensorCoreConvRotW4A4Layout",
        {"convrot_groupsize": 64},
        {"format": "convrot_w4a4", "convrot_groupsize": 64, "quant_group_size": 64},
    ),
}

W4A8 = {"format": "asym_w4a8_int8", "group_size": 16, "convrot_groupsize": 64}
COMFY |= {
    f"w4a8-{kind}": (
        "AsymW4A8Int8Layout",
        {"group_size": 16, "convrot_groupsize": 64, **options},
        W4A8,
    )
    for kind, options in {
        "codebook": {},
        "plain-f32": {"codebook": False, "scale_dtype": torch.float32},
        "correction": {"codebook": False, "symmetric": False},
        "6-bits": {"bits": 6},
        "correction-bf16": {"codebook": False, "symmetric": False, "dtype": torch.bfloat16},
    }.items()
}


def comfy(name: str, by_metadata: bool) -> None:
    layout, options, mark = COMFY[name]
    dtype = options.get("dtype", torch.float32)
    options = {key: value for key, value in options.items() if key != "dtype"}
    stored: Tensors = {"norm.weight": torch.ones(8, dtype=torch.bfloat16)}
    expected: Tensors = {}
    layers = {}
    rows = 160 if mark["format"] in ("nvfp4", "mxfp8") else 24  # a tile, and a part of one
    for layer, shape in {"blocks.0.qkv": (rows, 256), "blocks.1.out": (32, 256)}.items():
        weight = (torch.randn(shape) * 0.05).to(dtype)
        quantised = QuantizedTensor.from_float(weight, layout, **options)
        exact = replace(quantised.params, orig_dtype=torch.float32)
        for suffix, part in quantised.state_dict(f"{layer}.weight").items():
            stored[suffix] = part
        whole = QuantizedTensor(quantised._qdata, layout, exact)
        expected[f"{layer}.weight"] = whole.dequantize()
        layers[layer] = mark
        if not by_metadata:
            text = bytearray(json.dumps(mark).encode())
            stored[f"{layer}.comfy_quant"] = torch.frombuffer(text, dtype=torch.uint8)
    about = {"format_version": "1.0", "layers": layers}
    metadata = {"_quantization_metadata": json.dumps(about)} if by_metadata else {}
    kind = "meta" if by_metadata else "mark"
    write(f"comfyui/{name}-{kind}", stored, expected, None, metadata)


def blocks(codes: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """ModelOpt's own product of integers and their scales, for groups of a row's columns."""
    size = codes.shape[-1] // scale.shape[-1]
    tensor = INT8QTensor(codes.shape, torch.float32, codes.to(torch.int8))
    return tensor.dequantize(torch.float32, scale=scale, block_sizes={codes.dim() - 1: size})


def modelopt_config(algo: str) -> Any:
    return {"quantization_config": {"quant_method": "modelopt", "quant_algo": algo}}


def modelopt_int4(algo: str, smooth: bool, stacked: bool) -> None:
    lead = (3,) if stacked else ()
    codes, scale = torch.randint(-8, 8, (*lead, 48, 128)), torch.rand(*lead, 48, 4) + 0.1
    weight = blocks(codes, scale)
    name = "experts.gate_up_proj" if stacked else "a.weight"
    stored = {name: pack_int4_in_uint8(weight, scale, 32), f"{name}_scale": scale}
    if smooth:
        stored["a.pre_quant_scale"] = (torch.rand(128) + 0.5).to(torch.bfloat16)
        weight = weight * stored["a.pre_quant_scale"].float()
    if algo == "W4A8_AWQ":
        stored[f"{name}_scale_2"] = torch.tensor(0.125)
        stored["a.input_scale"] = torch.tensor(0.5)
    folder = f"modelopt/{algo.lower().replace('_', '-')}{'-experts' if stacked else ''}"
    write(folder, stored, {name: weight}, modelopt_config(algo), {})


def modelopt_int8(algo: str, smooth: bool) -> None:
    codes, scale = torch.randint(-128, 128, (40, 72)).to(torch.int8), torch.rand(40) + 0.1
    weight = blocks(codes, scale[:, None])
    stored = {"a.weight": codes, "a.weight_scale": scale}
    if smooth:
        stored["a.pre_quant_scale"] = torch.rand(72) + 0.5
        stored["a.input_scale"] = torch.tensor(0.5)
        weight = weight * stored["a.pre_quant_scale"]
    folder = f"modelopt/{algo.lower().replace('_', '-')}"
    write(folder, stored, {"a.weight": weight}, modelopt_config(algo), {})


def modelopt_nvfp4(algo: str, size: int, smooth: bool, rank: int) -> None:
    source = torch.randn(48, 128) * 0.1
    quantised, scale, double = NVFP4QTensor.quantize(source, size)
    weight = quantised.dequantize(
        torch.float32, scale=scale, double_scale=double, block_sizes={-1: size}
    )
    stored = {
        "a.weight": quantised._quantized_data,
        "a.weight_scale": scale,
        "a.weight_scale_2": double,
        "a.input_scale": torch.tensor(0.5),
    }
    if rank:
        stored["a.svdquant_lora_a"] = (torch.randn(rank, 128) * 0.1).to(torch.bfloat16)
        stored["a.svdquant_lora_b"] = (torch.randn(48, rank) * 0.1).to(torch.bfloat16)
        low = stored["a.svdquant_lora_b"].float() @ stored["a.svdquant_lora_a"].float()
        weight = weight + low
    if smooth:
        stored["a.pre_quant_scale"] = (torch.rand(128) + 0.5).to(torch.bfloat16)
        weight = weight * stored["a.pre_quant_scale"].float()
    folder = f"modelopt/{algo.lower().replace('_', '-')}"
    write(folder, stored, {"a.weight": weight}, modelopt_config(algo), {})


def gemma(bits: int) -> None:
    stored: Tensors = {"norm.weight": torch.ones(64, dtype=torch.bfloat16)}
    expected: Tensors = {}
    linear = QuantizedLinear(64, 24, num_bits=bits)
    table = QuantizedEmbedding(40, 64, torch.float32, num_bits=bits)
    table.embedding_scale = torch.nn.Parameter(torch.ones(40, 4))
    for module in (linear, table):
        for parameter in module.parameters():
            kind = parameter.dtype
            if kind in (torch.uint8, torch.int8):
                low, high = (0, 256) if kind == torch.uint8 else (-128, 128)
                parameter.data = torch.randint(low, high, parameter.shape).to(kind)
            else:
                parameter.data = torch.rand(parameter.shape) + 0.1
    stored |= {f"layers.0.q_proj.{n}": t.data for n, t in linear.named_parameters()}
    stored |= {f"embed_tokens.{n}": t.data for n, t in table.named_parameters()}
    expected["layers.0.q_proj.weight"] = linear._dequantize_weights().detach()
    expected["embed_tokens.weight"] = table.weight.detach()
    config = {
        "hidden_size": 64,
        "quantization_config": {
            "quant_method": "gemma",
            "num_bits": bits,
            "quantize_embeddings": True,
        },
    }
    write(f"transformers/gemma-int{bits}", stored, expected, config, {})


def aqlm(books: int, bits: int, rows: int, columns: int) -> None:
    codes = pack_int_data(torch.randint(0, 2**bits, (24 // rows, 64 // columns, books)), bits)
    vectors = (torch.randn(books, 2**bits, rows, columns) * 0.3).half()
    scales = (torch.rand(24 // rows, 1, 1, 1) + 0.1).half()
    stored = {"a.codes": codes, "a.codebooks": vectors, "a.scales": scales}
    weight = _dequantize_weight(unpack_int_data(codes, bits), vectors.float(), scales.float())
    config = {
        "quantization_config": {
            "quant_method": "aqlm",
            "in_group_size": columns,
            "out_group_size": rows,
            "num_codebooks": books,
            "nbits_per_codebook": bits,
        }
    }
    write(f"transformers/aqlm-{books}x{bits}", stored, {"a.weight": weight}, config, {})


def unpack_int4(codes: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """By AutoRound's own file, without the package: its import wants much that this does not."""
    name = "auto_round/experimental/qmodules/mxint4_utils.py"
    (path,) = (Path(p) / name for p in sys.path if (Path(p) / name).is_file())
    spec = importlib.util.spec_from_file_location("mxint4_utils", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.unpack_int4_from_uint8(codes, rows, columns, torch.float32)


def mxint4() -> None:
    codes = torch.randint(0, 256, (24, 48), dtype=torch.uint8)
    exponents = torch.randint(110, 140, (24, 3), dtype=torch.uint8)
    scales = exponents.view(torch.float8_e8m0fnu).float()
    weight = unpack_int4(codes, 24, 96) * scales.repeat_interleave(32, 1)
    config = {"quant_method": "auto-round", "bits": 4, "data_type": "mx_int"}
    stored = {"a.weight_packed": codes, "a.weight_scale": exponents}
    write("auto-round/mxint4", stored, {"a.weight": weight}, {"quantization_config": config}, {})


if __name__ == "__main__":
    for kind in COMFY:
        if not kind.startswith("w4a8"):
            comfy(kind, by_metadata=kind in ("mxfp8", "int8-row"))
    modelopt_int4("W4A16_AWQ", smooth=True, stacked=False)
    modelopt_int4("W4A16_AWQ", smooth=False, stacked=True)
    modelopt_int4("W4A8_AWQ", smooth=True, stacked=False)
    modelopt_int8("W8A16", smooth=False)
    modelopt_int8("W8A8_SQ_PER_CHANNEL", smooth=True)
    modelopt_nvfp4("NVFP4_AWQ", 16, smooth=True, rank=0)
    modelopt_nvfp4("NVFP4_SVD", 16, smooth=True, rank=8)
    modelopt_nvfp4("W4A8_NVFP4_FP8", 32, smooth=False, rank=0)
    for bits in (2, 4, 8):
        gemma(bits)
    aqlm(2, 8, 1, 8)
    aqlm(1, 9, 2, 4)
    aqlm(3, 5, 1, 4)
    mxint4()
    for kind in COMFY:
        if kind.startswith("w4a8"):
            comfy(kind, by_metadata=False)
