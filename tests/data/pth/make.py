"""Writes the golden checkpoints of this folder, and what they hold as numbers.

Made with torch 2.13.0 (CPU) and safetensors 0.8.0: `python tests/data/pth/make.py`. Every file is
what torch.save writes; `expected.safetensors` holds each tensor's bytes as torch has them in
memory, made contiguous, under the name that a reader has to give it. Legacy files differ from run
to run: their storages' keys are addresses.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

FOLDER = Path(__file__).parent


def tensors() -> dict[str, torch.Tensor]:
    """All dtypes that are converted, and every way to view a storage."""
    generator = torch.Generator().manual_seed(1)
    base = torch.randn(6, 5, generator=generator)
    found = {
        "contiguous": base,
        "transposed": base.t(),
        "rows": base[1:4],
        "columns": base[:, 1:4],
        "stepped": base[::2, ::3],
        "expanded": base[0].expand(3, 5),
        "permuted": torch.randn(2, 3, 4, generator=generator).permute(2, 0, 1),
        "scalar": torch.tensor(0.5),
        "empty": torch.empty(0, 3),
        "tied": base,
    }
    raw = torch.randint(0, 256, (64,), dtype=torch.uint8, generator=generator)
    for name in DTYPES:
        found[name] = raw.view(getattr(torch, name)).clone()[:3]
    found["bool"] = torch.tensor([True, False, True])
    return found


DTYPES = (
    "uint8 int8 int16 int32 int64 uint16 uint32 uint64 float16 bfloat16 float32 float64 "
    "float8_e4m3fn float8_e5m2 float8_e4m3fnuz float8_e5m2fnuz float8_e8m0fnu"
).split()


def old(found: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Dtypes of their own storage class, which is what old files had."""
    return {name: t for name, t in found.items() if not name.startswith(("uint", "float8"))}


def module() -> Any:
    """A small module whose output layer shares its embedding's weight."""
    torch.manual_seed(2)
    net: Any = torch.nn.Sequential(
        OrderedDict(embed=torch.nn.Embedding(7, 4), norm=torch.nn.BatchNorm1d(4))
    )
    net.out = torch.nn.Linear(4, 7, bias=False)
    net.out.weight = net.embed.weight
    return net


def training(net: Any) -> dict[str, Any]:
    """A checkpoint as training scripts save it."""
    optimiser = torch.optim.AdamW(net.parameters())
    net.embed.weight.sum().backward()
    optimiser.step()
    return {
        "state_dict": net.state_dict(),
        "optimizer": optimiser.state_dict(),
        "epoch": 3,
        "args": {"lr": 1e-3, "name": "golden"},
        "rng": torch.arange(4, dtype=torch.uint8),
    }


def main() -> None:
    found = tensors()
    net = module()
    checkpoint = training(net)
    torch.save(found, FOLDER / "tensors.pth")
    torch.save(old(found), FOLDER / "tensors-legacy.pth", _use_new_zipfile_serialization=False)
    torch.save(dict(net.named_parameters()), FOLDER / "parameters.pth")
    torch.save(checkpoint, FOLDER / "training.pth")
    torch.save(checkpoint, FOLDER / "training-legacy.pth", _use_new_zipfile_serialization=False)
    expected = {f"tensors.{name}": tensor for name, tensor in found.items()}
    for name, tensor in checkpoint["state_dict"].items():
        expected[f"training.{name}"] = tensor
    expected["training.rng"] = checkpoint["rng"]
    for name, tensor in net.named_parameters():
        expected[f"parameters.{name}"] = tensor.data
    save_file(
        {k: t.contiguous().clone() for k, t in expected.items()}, FOLDER / "expected.safetensors"
    )


if __name__ == "__main__":
    main()
