"""Make the layouts of layers that turn their inputs: compressed-tensors' transforms, and FP-Quant.

    cd / && QUTLASS=…/qutlass/tests python …/tests/data/layouts/make_turned.py

Needs compressed-tensors 0.20, transformers 5.23, torch 2.13.0 (CPU), scipy, safetensors, and
the tests of https://github.com/IST-DASLab/qutlass (e74319e), whose reference functions run on a
CPU. What is expected of a layer is what it computes of the unit matrix, by the library's
own code in double: its hooks for compressed-tensors, its matrix for FP-Quant.
"""

from __future__ import annotations

import ast
import os
from pathlib import Path
from typing import Any

import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from compressed_tensors.quantization.utils import calculate_qparams
from compressed_tensors.transform import TransformConfig, apply_transform_config
from layout_files import Tensors, write
from scipy.linalg import hadamard
from torch import nn

torch.manual_seed(29)


class Attention(nn.Module):
    """Two layers of a decoder, by the names that transforms look for."""

    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.q_proj = nn.Linear(64, 32, bias=bias)
        self.o_proj = nn.Linear(64, 64, bias=bias)


class Model(nn.Module):
    """A model of one block, and of a head that nothing turns."""

    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(8, 64)
        self.block = Attention(bias)
        self.lm_head = nn.Linear(64, 8, bias=False)


def _apply(location: str, targets: str = "Linear", inverse: bool = False) -> dict[str, Any]:
    return {
        "targets": [targets],
        "location": location,
        "inverse": inverse,
        "ignore": ["lm_head"],
    }


def _both(kind: str, size: int | None, *, targets: str = "Linear", **more: Any) -> dict[str, Any]:
    """A group for inputs: what is turned on the fly, and what is in the weight."""
    applied = [_apply("input", targets), _apply("weight_input", targets, True)]
    return {"type": kind, "head_dim": size, "apply": applied, **more}


def _outputs(kind: str, size: int, targets: str = "Linear") -> dict[str, Any]:
    applied = [_apply("weight_output", targets), _apply("output", targets, True)]
    return {"type": kind, "head_dim": size, "apply": applied}


GROUPS: dict[str, dict[str, Any]] = {
    "transform-hadamard": {"v": _both("hadamard", 16), "u": _outputs("hadamard", 32)},
    "transform-random": {
        "v": _both("random-hadamard", None, targets="re:.*(q|o)_proj$", randomize=True)
    },
    "transform-matrix": {  # dense: names tell which layers, where a class would not
        "m": _both("random-matrix", 8, targets="re:.*_proj$"),
        "w": _outputs("random-matrix", 16, targets="re:.*_proj$"),
    },
}


def transformed(folder: str, bits: int, bias: bool) -> None:
    """A model that was turned, then quantised in groups of 32, or left as it was with 0 bits."""
    model = Model(bias)
    config = TransformConfig(config_groups=GROUPS[folder])
    apply_transform_config(model, config)
    stored: Tensors = {}
    seen: set[int] = set()
    for name, parameter in model.named_parameters():
        turning = "_input." in name or "_output." in name
        if turning and id(parameter) in seen:
            continue  # shared: written once
        seen.add(id(parameter))
        stored[name] = parameter.detach() if turning else parameter.detach().bfloat16()
    about: dict[str, Any] = {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized" if bits else "dense",
        "config_groups": {},
        "transform_config": config.model_dump(mode="json"),
        "ignore": ["lm_head"],
    }
    args = QuantizationArgs(num_bits=bits or 8, strategy="group", group_size=32, symmetric=True)
    decoded: Tensors = {}
    for layer in ("block.q_proj", "block.o_proj"):
        weight = stored[f"{layer}.weight"].float()
        if bits:
            groups = weight.unflatten(1, (-1, 32))
            scale, _ = calculate_qparams(groups.amin(-1), groups.amax(-1), args)
            scheme = QuantizationScheme(targets=["Linear"], weights=args)
            packed = BaseCompressor.get_value_from_registry("pack-quantized")
            parts = packed.compress({"weight": weight, "weight_scale": scale.float()}, scheme)
            del stored[f"{layer}.weight"]
            stored |= {f"{layer}.{part}": value for part, value in parts.items()}
            weight = packed.decompress(dict(parts), scheme)["weight"]
        decoded[f"{layer}.weight"] = weight
    if bits:
        weights = args.model_dump(mode="json")
        about["config_groups"] = {"group_0": {"targets": ["Linear"], "weights": weights}}
    expected: Tensors = {
        name: stored[name].float() for name in ("embed_tokens.weight", "lm_head.weight")
    }
    for layer in ("block.q_proj", "block.o_proj"):
        module = model.get_submodule(layer)
        with torch.no_grad():
            module.weight.copy_(decoded[f"{layer}.weight"])
            if bias:
                module.bias.copy_(stored[f"{layer}.bias"])
            module.double()
            nothing = module(torch.zeros(1, module.in_features).double())[0]
            columns = module(torch.eye(module.in_features).double()) - nothing
        expected[f"{layer}.weight"] = columns.T
        if bias:
            expected[f"{layer}.bias"] = nothing
    write(f"compressed-tensors/{folder}", stored, expected, {"quantization_config": about})


def _reference(file: str) -> dict[str, Any]:
    """The functions of one of qutlass's tests that need no GPU."""
    tree = ast.parse((Path(os.environ["QUTLASS"]) / file).read_text())
    tree.body = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    tree.body = [node for node in tree.body if not node.decorator_list]
    names: dict[str, Any] = {"torch": torch, "hadamard": hadamard}
    exec(compile(tree, file, "exec"), names)  # noqa: S102 - the reference
    return names


def fp_quant(folder: str, kind: str, method: str, size: int) -> None:
    """Codes of a matrix that was turned, with the layer's own matrix and number."""
    reference = _reference(f"{kind}_test.py")
    turn = reference["get_hadamard_matrix"](size, torch.bfloat16, torch.device("cpu"))
    weight = torch.randn(128, 256).bfloat16()
    quest = {"quest": method == "quest"} if kind == "mxfp4" else {}
    alpha = 6.0 if kind == "nvfp4" else 1.0 if method == "quest" else 3.0
    codes, scales, _ = reference["_forward_quantize_ref"](weight, turn, size, **quest)[2]
    stored = {
        "a.qweight": codes.to(torch.uint8),
        "a.scales": scales.view(torch.uint8),
        "a.weight_global_scale": torch.tensor([alpha]).bfloat16(),
        "a.act_global_scale": torch.tensor([alpha]).bfloat16(),
        "a.forward_hadamard_matrix": turn,
        "a.backward_hadamard_matrix": turn.clone(),
        "a.bias": torch.randn(128).bfloat16(),
    }
    plain = reference["_dq_fp4"](stored["a.qweight"], scales, 1.0)[0]
    product = (plain.unflatten(1, (-1, size)) @ turn.double().T).flatten(1)
    expected = {"a.weight": product / alpha, "a.bias": stored["a.bias"]}
    about = {
        "quant_method": "fp_quant",
        "forward_dtype": kind,
        "forward_method": method,
        "hadamard_group_size": size,
        "transform_init": "hadamard",
        "pseudoquantization": False,
        "store_master_weights": False,
    }
    write(f"fp-quant/{folder}", stored, expected, {"quantization_config": about})


if __name__ == "__main__":
    transformed("transform-hadamard", 4, bias=True)
    transformed("transform-random", 8, bias=False)
    transformed("transform-matrix", 0, bias=True)
    fp_quant("mxfp4-quest", "mxfp4", "quest", 32)
    fp_quant("mxfp4-absmax", "mxfp4", "abs_max", 128)
    fp_quant("nvfp4", "nvfp4", "abs_max", 16)
