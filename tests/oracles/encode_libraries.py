"""What the libraries' own code writes for one matrix, without calibration; torch on the CPU.

`written(target, settings, weight)` gives the stored tensors of `X.weight` by what follows `X.`, as
numpy arrays of the stored numbers (BF16 and FP8 as unsigned bits), or raises `KeyError` for a
target that none of them has. `tests/data/encode/make_encode.py` keeps some as files.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

os.environ["TORCHDYNAMO_DISABLE"] = "1"

import torch

Written = dict[str, np.ndarray]
Settings = Mapping[str, Any]
BITS = {1: torch.uint8, 2: torch.uint16}
PLAIN = (torch.float32, torch.int8, torch.uint8, torch.int32, torch.int64)


def stored(tensor: Any) -> np.ndarray:
    tensor = tensor.detach().contiguous()
    if tensor.dtype not in PLAIN:
        tensor = tensor.view(BITS[tensor.element_size()])
    return np.asarray(tensor.numpy())


def _extent(weight: Any, args: Any) -> tuple[Any, Any]:
    """Least and greatest numbers in the shape that the strategy has scales in."""
    if args.strategy == "tensor":
        return weight.amin().reshape(1), weight.amax().reshape(1)
    if args.strategy == "channel":
        return weight.amin(1, keepdim=True), weight.amax(1, keepdim=True)
    if args.strategy in ("group", "tensor_group"):
        grouped = weight.unflatten(-1, (-1, args.group_size))
        return grouped.amin(-1), grouped.amax(-1)
    high, wide = args.block_structure
    rows, columns = weight.shape
    padded = torch.nn.functional.pad(weight, (0, -columns % wide, 0, -rows % high))
    blocks = padded.reshape(padded.shape[0] // high, high, padded.shape[1] // wide, wide)
    return blocks.amin((1, 3)), blocks.amax((1, 3))


def compressed_tensors(weight: Any, scheme: Any) -> Written:
    from compressed_tensors.compressors import ModelCompressor
    from compressed_tensors.quantization import QuantizationConfig, apply_quantization_config
    from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam

    rows, columns = weight.shape
    model = torch.nn.Module()
    model.X = torch.nn.Linear(columns, rows, bias=False, dtype=weight.dtype)
    model.X.weight.data.copy_(weight)
    config = QuantizationConfig(
        config_groups={"group_0": scheme}, quantization_status="initialized"
    )
    apply_quantization_config(model, config)
    args, whole = scheme.weights, None
    if hasattr(model.X, "weight_global_scale"):
        whole = generate_gparam(weight.amin(), weight.amax())
        model.X.weight_global_scale.data.copy_(whole)
    scale, zero = calculate_qparams(*_extent(weight, args), args, global_scale=whole)
    model.X.weight_scale.data.copy_(scale.reshape(model.X.weight_scale.shape))
    if hasattr(model.X, "weight_zero_point"):
        model.X.weight_zero_point.data.copy_(zero.reshape(model.X.weight_zero_point.shape))
    compressor = ModelCompressor.from_pretrained_model(model)
    compressor.compress_model(model)
    state = model.state_dict()
    return {k.removeprefix("X."): stored(v) for k, v in state.items() if "input" not in k}


def _ct(kind: str, settings: Settings) -> Any:
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from compressed_tensors.quantization.quant_scheme import preset_name_to_scheme

    if kind in ("nvfp4", "mxfp4", "mxfp8"):
        return preset_name_to_scheme(f"{kind.upper()}A16", ["Linear"])
    args: dict[str, Any] = {"num_bits": settings.get("bits", 8), "symmetric": True}
    inputs = None
    if kind.startswith("fp8"):
        args |= {"type": "float", "strategy": kind.removeprefix("fp8-")}
        if kind == "fp8-block":
            args["block_structure"] = [settings["block"]] * 2
    else:
        args |= {"type": "int", "symmetric": settings["sym"], "strategy": "channel"}
        if settings["group"]:
            args |= {"strategy": "group", "group_size": settings["group"]}
        if kind == "ct-int-quantized":
            inputs = QuantizationArgs(num_bits=8, strategy="token", dynamic=True)
    return QuantizationScheme(
        targets=["Linear"], weights=QuantizationArgs(**args), input_activations=inputs
    )


def bitsandbytes(weight: Any, kind: str, settings: Settings) -> Written:
    from bitsandbytes import functional

    if kind == "bnb-int8":
        codes, scales, _ = functional.int8_vectorwise_quant(weight.to(torch.float16))
        return {"weight": stored(codes), "SCB": stored(scales)}
    codes, state = functional.quantize_4bit(
        weight,
        blocksize=settings["block"],
        quant_type=kind.removeprefix("bnb-"),
        compress_statistics=settings["nested"],
    )
    parts = state.as_dict(packed=True)
    return {"weight": stored(codes), **{f"weight.{k}": stored(v) for k, v in parts.items()}}


def mlx(weight: Any, kind: str, settings: Settings) -> Written:
    import mlx.core as mx

    mx.set_default_device(mx.cpu)
    dtype = {"bfloat16": mx.bfloat16, "float16": mx.float16, "float32": mx.float32}
    array = mx.array(weight.float().numpy()).astype(dtype[str(weight.dtype).split(".")[1]])
    if kind == "mlx-affine":
        made = mx.quantize(array, group_size=settings["group"], bits=settings["bits"])
    else:
        group, bits = (16 if kind == "nvfp4" else 32), (8 if kind == "mxfp8" else 4)
        made = mx.quantize(array, group_size=group, bits=bits, mode=kind)
    bits_of = [a.view(mx.uint16) if a.dtype in (mx.bfloat16, mx.float16) else a for a in made]
    return dict(zip(("weight", "scales", "biases"), map(np.array, bits_of), strict=False))


def modelopt_experts(weight: Any) -> Written:
    """`_to_oai_mxfp4_weight_only` of ModelOpt's examples/gpt-oss, of one expert, transposed."""
    from modelopt.torch.quantization.qtensor.mxfp4_tensor import MXFP4QTensor

    made, scales = MXFP4QTensor.quantize(weight.clone(), 32)
    shape = (1, weight.shape[0], -1)
    return {
        "gate_up_proj_blocks": stored(made._quantized_data).reshape(*shape, 16),
        "gate_up_proj_scales": stored(scales).reshape(shape),
    }


def modelopt(weight: Any, settings: Settings) -> Written:
    """nvidia-modelopt 0.47's wheel, unpacked, on PYTHONPATH; the file that has its formulas."""
    from modelopt.torch.quantization.qtensor.nvfp4_tensor import NVFP4QTensor

    made, scale, whole = NVFP4QTensor.quantize(weight.clone(), 16)
    codes = made._quantized_data
    found = {"weight": codes, "weight_scale": scale.reshape(weight.shape[0], -1)}
    return {k: stored(v) for k, v in {**found, "weight_scale_2": whole}.items()}


def quanto(weight: Any, settings: Settings) -> Written:
    from optimum import quanto as library

    model = torch.nn.Module()
    model.X = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=weight.dtype)
    model.X.weight.data.copy_(weight)
    library.quantize(model, weights=getattr(library, settings["type"]))
    library.freeze(model)
    return {k.removeprefix("X."): stored(v) for k, v in model.state_dict().items()}


def transformers_fp8(weight: Any, settings: Settings) -> Written:
    from types import SimpleNamespace

    from transformers.integrations.finegrained_fp8 import Fp8Quantize

    block = settings["block"]
    config = SimpleNamespace(weight_block_size=(block, block), scale_fmt=None)
    made = Fp8Quantize(SimpleNamespace(quantization_config=config)).convert({"weight": weight})
    return {key: stored(value) for key, value in made.items()}


def deepseek_fp8(weight: Any, settings: Settings) -> Written:
    """DeepSeek-V3 `inference/kernel.py`, `act_quant` by blocks: torch's own operations."""
    block = settings["block"]
    rows, columns = weight.shape
    padded = torch.nn.functional.pad(weight.float(), (0, -columns % block, 0, -rows % block))
    blocks = padded.unflatten(1, (-1, block)).unflatten(0, (-1, block))
    scale = blocks.abs().amax((1, 3)) / 448.0
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    codes = (blocks / scale[:, None, :, None]).to(torch.float8_e4m3fn)
    codes = codes.view(torch.uint8).flatten(2).flatten(0, 1)[:rows, :columns]
    return {"weight": codes.contiguous().numpy(), "weight_scale_inv": stored(scale)}


def written(target: str, settings: Settings, weight: Any) -> Written:
    style = settings.get("style", "compressed-tensors")
    if target.startswith("bnb-"):
        return bitsandbytes(weight, target, settings)
    if target == "quanto":
        return quanto(weight, settings)
    if target == "mlx-affine" or style == "mlx":
        return mlx(weight, target, settings)
    if style == "modelopt":
        return modelopt(weight, settings)
    if style == "gpt-oss":
        return modelopt_experts(weight)
    blocks: dict[str, Callable[[Any, Settings], Written]] = {
        "deepseek": deepseek_fp8,
        "transformers": transformers_fp8,
    }
    if style in blocks:
        return blocks[style](weight, settings)
    return compressed_tensors(weight, _ct(target, settings))
