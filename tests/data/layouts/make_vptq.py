"""Make the VPTQ layouts in this folder, by the code of vptq and of GPTQModel.

    cd / && PYTHONPATH=vptq:GPTQModel python …/tests/data/layouts/make_vptq.py

Needs vptq 0.0.5.post1 and GPTQModel 7.7.0 (unpacked, on the module path), torch 2.13.0 (CPU) and
safetensors. `vptq.utils.pack` imports packages that it does not use: they are stood in for. Values
are the libraries' with all tensors as float32, rounded once to BF16.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from safetensors.torch import save_file

for name in ("sentence_transformers", "sentence_transformers.SentenceTransformer"):
    stand_in = ModuleType(name)
    stand_in.SentenceTransformer = object  # type: ignore[attr-defined]
    sys.modules[name] = stand_in

from gptqmodel.nn_modules.qlinear.vptq_torch import VPTQLinear  # noqa: E402
from gptqmodel.utils.vptq import pack_vptq_indices  # noqa: E402
from vptq.ops.quant_gemm import dequant  # noqa: E402
from vptq.utils.pack import pack_index  # noqa: E402

HERE = Path(__file__).resolve().parent
torch.manual_seed(29)


def book(groups: int, width: int) -> torch.Tensor:
    return torch.randn(groups, width).half()


def numbers(most: int, *shape: int) -> torch.Tensor:
    return torch.randint(0, most, shape, dtype=torch.int64)


def by_vptq(folder: str, layer: dict[str, Any], perm: torch.dtype | None) -> None:
    """A layer as vptq packs it, with its own entry in the configuration."""
    one = SimpleNamespace(**layer)
    (wide, length), (apart, vectors) = one.vector_lens, one.num_centroids
    more = one.num_res_centroids[1]
    count = -(-one.out_features // length)
    indices = numbers(vectors, one.group_num, count, one.group_size)
    rest = numbers(more, *indices.shape) if more > 0 else None
    bits = (vectors - 1).bit_length()
    stored = {
        "indices": pack_index(
            indices.to(torch.uint16),
            bits,
            None if rest is None else rest.to(torch.uint16),
            (more - 1).bit_length() if more > 0 else 0,
        ),
        "centroids.weight": book(one.group_num, vectors * length),
    }
    if rest is not None:
        stored["res_centroids.weight"] = book(one.group_num, more * length)
    if one.outlier_size:
        shape = (1, -(-one.out_features // wide), one.outlier_size)
        stored["outlier_indices"] = numbers(apart, *shape).to(torch.uint16).view(torch.int16)
        stored["outlier_centroids.weight"] = book(1, apart * wide)
    if perm is not None:
        order = torch.randperm(one.in_features)
        stored["perm"] = order.to(torch.uint16).view(torch.int16) if perm == torch.int16 else order
    if one.enable_norm:
        stored["weight_scale"] = torch.rand(one.in_features).half()
        stored["weight_bias"] = torch.randn(one.in_features).half()
    floats = {name: value.float() for name, value in stored.items() if value.is_floating_point()}

    def shaped(name: str, groups: int, count: int, size: int) -> torch.Tensor | None:
        return floats[name].view(groups, count, size) if name in floats else None

    weight = dequant(
        indices=stored["indices"],
        centroids=shaped("centroids.weight", one.group_num, vectors, length),
        outlier_indices=stored.get("outlier_indices"),
        outlier_centroids=shaped("outlier_centroids.weight", 1, apart, wide),
        res_indices=None,
        res_centroids=shaped("res_centroids.weight", one.group_num, more, length),
        perm=order.to(torch.uint16).view(torch.int16) if perm is not None else None,
        weight_scale=floats.get("weight_scale"),
        weight_bias=floats.get("weight_bias"),
        is_indice_packed=True,
        enable_outlier=bool(one.outlier_size),
        enable_residual=more > 0,
        enable_perm=perm is not None,
        enable_norm=one.enable_norm,
        num_centroids=vectors,
        num_outlier_centroids=apart,
        num_res_centroids=more,
        padding=-one.out_features % length,
        outlier_padding=-one.out_features % wide if one.outlier_size else 0,
        num_codebooks=one.group_num,
        group_size=one.group_size,
        outlier_size=one.outlier_size,
        vector_len=length,
        outlier_vector_len=wide,
    )
    about = {"config_for_layers": {"a": {**layer, "enable_perm": perm is not None}}}
    write(f"vptq/{folder}", stored, weight, about)


def by_gptqmodel(folder: str, outputs: int, inputs: int, norm_dim: int, about: Any) -> None:
    """A layer as GPTQModel stores it: the last group is short, and one configuration is for all."""
    layer = VPTQLinear(
        bits=2,
        group_size=about["group_size"],
        sym=True,
        desc_act=False,
        in_features=inputs,
        out_features=outputs,
        bias=False,
        vector_lens=about["vector_lens"],
        num_centroids=about["num_centroids"],
        num_res_centroids=about["num_res_centroids"],
        npercent=about["npercent"],
        enable_norm=True,
        norm_dim=norm_dim,
        enable_perm=True,
        dtype=torch.float32,
    )
    groups, size, count = layer.group_num, layer.group_size, layer.num_indices
    indices = numbers(layer.num_centroids, groups, count, size)
    rest = numbers(layer.num_res_centroids, groups, count, size)
    layer.indices.copy_(
        pack_vptq_indices(
            indices, layer.index_bits, res_indices=rest, res_bits=layer.res_index_bits
        )
    )
    layer.outlier_indices.copy_(numbers(layer.outlier_num_centroids, *layer.outlier_indices.shape))
    for part in (layer.centroids, layer.res_centroids, layer.outlier_centroids):
        part.weight.data.copy_(torch.randn(part.weight.shape).bfloat16())
    layer.weight_scale.copy_(torch.rand(layer.weight_scale.shape).bfloat16())
    layer.weight_bias.copy_(torch.randn(layer.weight_bias.shape).bfloat16())
    layer.perm.copy_(torch.randperm(inputs))
    layer._validate_loaded_state()
    stored = {
        name: value.bfloat16() if value.is_floating_point() else value
        for name, value in layer.state_dict().items()
    }
    write(f"gptqmodel/{folder}", stored, layer.dequantize(), {**about, "norm_dim": norm_dim})


def write(folder: str, stored: Any, weight: torch.Tensor, about: Any) -> None:
    path = HERE / folder
    path.mkdir(parents=True, exist_ok=True)
    named = {f"a.{name}": value.contiguous() for name, value in stored.items()}
    save_file(named, path / "model.safetensors", {"format": "pt"})
    expected = weight.float().to(torch.bfloat16).contiguous().view(torch.uint16)
    save_file({"a.weight": expected}, path / "expected.safetensors")
    config = {"quantization_config": {"quant_method": "vptq", **about}}
    (path / "config.json").write_text(json.dumps(config, indent=1) + "\n")


def layer(outputs: int, inputs: int, **about: Any) -> dict[str, Any]:
    return {
        "in_features": inputs,
        "out_features": outputs,
        "vector_lens": [-1, 8],
        "num_centroids": [-1, 256],
        "num_res_centroids": [-1, -1],
        "group_num": 1,
        "group_size": inputs,
        "outlier_size": 0,
        "indices_as_float": False,
        "enable_norm": False,
        "is_indice_packed": True,
        **about,
    }


if __name__ == "__main__":
    by_vptq("v8-k256", layer(48, 40), None)
    by_vptq(
        "v6-k128-16-norm-perm",
        layer(
            50,
            36,
            vector_lens=[-1, 6],
            num_centroids=[-1, 128],
            num_res_centroids=[-1, 16],
            group_num=3,
            group_size=12,
            enable_norm=True,
        ),
        torch.int16,
    )
    by_vptq(
        "v8-outliers-perm-i64",
        layer(
            44,
            34,
            vector_lens=[4, 8],
            num_centroids=[32, 64],
            num_res_centroids=[-1, 64],
            group_num=2,
            group_size=14,
            outlier_size=6,
            enable_norm=True,
        ),
        torch.int64,
    )
    about = {
        "bits": 2,
        "checkpoint_format": "vptq",
        "group_size": 16,
        "vector_lens": [2, 4],
        "num_centroids": [16, 100],
        "num_res_centroids": [-1, 8],
        "npercent": 5.0,
    }
    by_gptqmodel("vptq-short-group", 40, 44, 0, about)
    by_gptqmodel("vptq-norm-of-outputs", 40, 44, 1, about)
