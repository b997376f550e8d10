"""Make the SINQ layouts in this folder, by the package's own code on a CPU.

    cd / && PYTHONPATH=sinq python …/tests/data/layouts/make_sinq.py

Needs sinq 0.2.0 (unpacked, on the module path) and termcolor, transformers 5.23, torch 2.13.0 (CPU)
and safetensors. Layers are quantised, written and dequantised by it; the values that are expected
are its own with a `compute_dtype` of float32.
"""

from __future__ import annotations

import json

import torch
from layout_files import HERE, bf16_bits
from safetensors.torch import save_file
from sinq.patch_model import BaseSINQHFModel
from sinq.quantizer import Quantizer

torch.manual_seed(37)


def make(
    folder: str, bits: int, group: int, method: str = "sinq", aux: bool = False, tiles: str = "1D"
) -> None:
    """A layer `a` of 48 by 128, or 96 by 128 in tiles of `2D`, and its bias.

    With `aux` it is quantised as SINQ's own classes do it, scales and zeros to 8 bits, and its
    settings are in the sidecar that SINQ writes, and nowhere else.
    """
    rows = 48 if tiles == "1D" else 96
    weight = torch.randn(rows, 128) * torch.rand(128)
    about = {"nbits": bits, "group_size": group, "tiling_mode": tiles, "method": method}
    activations = torch.rand(256, 128) if method == "asinq" else None
    internal = {"asinq": "sinq_awq_l1"}.get(method, method) + "_quantAux" * aux
    codes, meta = Quantizer.quantize(
        weight, activations, device="cpu", axis=1, compute_dtype=torch.float32,
        **(about | {"method": internal}),
    )  # fmt: skip
    bias = torch.randn(rows).bfloat16()
    path = HERE / "sinq" / folder
    path.mkdir(parents=True, exist_ok=True)
    if aux:
        names = ("x", "s", "m", "shape")
        meta |= {n: dict(zip(names, meta[n], strict=True)) for n in ("scale", "zero")}
    parts = {"a": {"W_q": codes, "bias": bias, "meta": meta}}
    BaseSINQHFModel.save_weights_safetensors(parts, str(path))
    for about_shards in path.glob("*.index.json*"):  # one shard needs none
        if not (aux and about_shards.name.endswith("meta.json")):
            about_shards.unlink()
    values = {"a.weight": Quantizer.dequantize(codes, dict(meta)), "a.bias": bias}
    expected = {name: bf16_bits(value) for name, value in values.items()}
    save_file(expected, path / "expected.safetensors")
    if aux:
        return
    block = {"quantization_config": {"quant_method": "sinq", **about}}
    (path / "config.json").write_text(json.dumps(block, indent=1) + "\n")


if __name__ == "__main__":
    make("4-bits", 4, 64)
    make("3-bits", 3, 32)
    make("2-bits", 2, 128)
    make("8-bits-awq", 8, 64, "asinq")
    make("4-bits-aux", 4, 64, "sinq", aux=True)
    make("3-bits-awq-aux", 3, 32, "asinq", aux=True)
    make("5-bits", 5, 64)
    make("6-bits", 6, 32)
    make("6-bits-awq-aux", 6, 32, "asinq", aux=True)
    make("nf4", 4, 64, "sinq_nf4")
    make("nf3", 3, 32, "sinq_nf3")
    make("nf4-aux", 4, 32, "sinq_nf4", aux=True)
    make("4-bits-2d", 4, 32, tiles="2D")
    make("3-bits-2d-awq", 3, 32, "asinq", tiles="2D")
    make("5-bits-2d-aux", 5, 32, "sinq", aux=True, tiles="2D")
    make("nf4-2d-aux", 4, 32, "sinq_nf4", aux=True, tiles="2D")
