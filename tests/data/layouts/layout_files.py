"""How the scripts of this folder write a layout: the model as stored, and the bits expected."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

HERE = Path(__file__).resolve().parent
Tensors = dict[str, torch.Tensor]


def bf16_bits(values: torch.Tensor) -> torch.Tensor:
    return values.float().to(torch.bfloat16).contiguous().view(torch.uint16)


def write(folder: str, stored: Tensors, expected: Tensors, config: Any, metadata: Any = ()) -> None:
    """`folder/model.safetensors`, `expected.safetensors` and, if it is not None, `config.json`."""
    path = HERE / folder
    path.mkdir(parents=True, exist_ok=True)
    stored = {name: tensor.contiguous() for name, tensor in stored.items()}
    save_file(stored, path / "model.safetensors", {"format": "pt", **dict(metadata)})
    bits = {name: bf16_bits(values) for name, values in expected.items()}
    save_file(bits, path / "expected.safetensors")
    if config is not None:
        (path / "config.json").write_text(json.dumps(config, indent=1) + "\n")
