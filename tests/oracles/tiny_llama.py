"""A tiny Llama, made by transformers, quantised in three ways, and what the libraries read of it.

The weights are quantised here, by rounding to the nearest code; it is the libraries that say what
such a file means: compressed-tensors (FP8 blocks), bitsandbytes (NF4, nested) and GPTQModel.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

Tensors = dict[str, torch.Tensor]
GROUP = 32


@dataclass
class Quantised:
    """What a checkpoint stores, its `quantization_config`, and the BF16 weights it stands for."""

    stored: Tensors
    config: dict[str, Any]
    recovered: Tensors


def save_llama(folder: Path, seed: int) -> Tensors:
    """Config and random BF16 weights as transformers saves them; the weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        hidden_size=128,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=64,
        max_position_embeddings=64,
        tie_word_embeddings=False,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    return load_file(folder / "model.safetensors")


def fp8(name: str, weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
    """E4M3 in blocks of 128 x 128, the last of which are cut."""
    from compressed_tensors.entrypoints.convert import FP8BlockDequantizer

    rows, columns = weight.shape
    padded = torch.zeros(-(-rows // 128) * 128, -(-columns // 128) * 128)
    padded[:rows, :columns] = weight.float()
    scale = padded.view(padded.shape[0] // 128, 128, -1, 128).abs().amax((1, 3)) / 448
    wide = scale.repeat_interleave(128, 0).repeat_interleave(128, 1)
    codes = (padded / wide)[:rows, :columns].to(torch.float8_e4m3fn).contiguous()
    stored = {f"{name}.weight": codes, f"{name}.weight_scale_inv": scale}
    read = FP8BlockDequantizer(targets=[name]).process(dict(stored))
    return stored, read[f"{name}.weight"].to(torch.bfloat16).contiguous()


def nf4(name: str, weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
    """Blocks of 64, their absmax quantised as well."""
    from bitsandbytes import functional

    packed, state = functional.quantize_4bit(
        weight.float(), blocksize=64, quant_type="nf4", compress_statistics=True
    )
    read = functional.dequantize_4bit(packed, state).to(torch.bfloat16)
    state.dtype = torch.bfloat16
    parts = {f"{name}.weight.{k}": v for k, v in state.as_dict(packed=True).items()}
    return {f"{name}.weight": packed, **parts}, read


def gptq(name: str, weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
    """4 bits with act-order: groups of 32 inputs that are shuffled."""
    sys.path.insert(0, str(Path(__file__).parent))
    libraries = importlib.import_module("packed_libraries")
    linear = libraries.load("gptqmodel.nn_modules.qlinear.torch").TorchLinear
    correct = libraries.load("gptqmodel.utils.model_dequant")._correct_gptq_v1_qzeros
    outputs, inputs = weight.shape
    index = torch.arange(inputs)[torch.randperm(inputs)] // GROUP
    grouped = torch.stack([weight.T.float()[index == g] for g in range(inputs // GROUP)])
    scale = ((grouped.amax(1) - grouped.amin(1)) / 15).half()
    zeros = (-grouped.amin(1) / scale.float()).round().clamp(1, 15).int()
    codes = (weight.T.float() / scale.float()[index] + zeros[index]).round().clamp(0, 15).int()
    shifts = torch.arange(0, 32, 4, dtype=torch.int64)
    words = codes.view(inputs // 8, 8, outputs).long() << shifts[None, :, None]
    packed_zeros = (zeros - 1).view(len(zeros), outputs // 8, 8).long() << shifts
    stored = {
        "qweight": words.sum(1).to(torch.int32),
        "qzeros": packed_zeros.sum(2).to(torch.int32),
        "scales": scale,
        "g_idx": index.to(torch.int32),
    }
    module = linear(4, GROUP, False, True, inputs, outputs, pack_dtype=torch.int32)
    module.train()  # the plain path of `dequantize_weight`, without its caches
    for part, tensor in stored.items():
        setattr(module, part, tensor.clone())
    module.qzeros = correct(module.qzeros, 4)
    module.scales = module.scales.float()
    module.post_init()
    read = module.dequantize_weight().T.to(torch.bfloat16).contiguous()
    return {f"{name}.{part}": tensor for part, tensor in stored.items()}, read


METHODS: dict[str, Callable[[str, torch.Tensor], tuple[Tensors, torch.Tensor]]] = {
    "fp8": fp8,
    "gptq": gptq,
    "nf4": nf4,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "fp8": {"quant_method": "fp8", "weight_block_size": [128, 128]},
    "gptq": {
        "quant_method": "gptq",
        "bits": 4,
        "group_size": GROUP,
        "desc_act": True,
        "sym": False,
        "checkpoint_format": "gptq",
    },
    "nf4": {
        "quant_method": "bitsandbytes",
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
        "bnb_4bit_compute_dtype": "bfloat16",
    },
}


def quantise(method: str, weights: Tensors) -> Quantised:
    """All projections quantised; what is left is stored as it is."""
    stored: Tensors = {}
    recovered: Tensors = {}
    for name, weight in weights.items():
        if name.endswith("_proj.weight"):
            parts, recovered[name] = METHODS[method](name.removesuffix(".weight"), weight)
            stored |= parts
        else:
            stored[name] = recovered[name] = weight
    return Quantised(stored, CONFIGS[method], recovered)


def save_quantised(folder: Path, found: Quantised) -> None:
    """Replace the weights in `folder` by two shards; parts of one tensor lie in both of them."""
    (folder / "model.safetensors").unlink()
    names = sorted(found.stored)
    shards = [names[0::2], names[1::2]]
    weight_map = {}
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        tensors = {n: found.stored[n].contiguous() for n in shard}
        save_file(tensors, folder / name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(shard, name)
    total = sum(t.nbytes for t in found.stored.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), "quantization_config": found.config}
    path.write_text(json.dumps(config, indent=1) + "\n")


def available() -> list[str]:
    """The methods whose libraries are here."""
    return [m for m in METHODS if m != "gptq" or "ANAMNESIS_ORACLES" in os.environ]
