"""Make the ParoQuant layouts in this folder, by the code of paroquant, AutoAWQ and GPTQModel.

    cd / && PYTHONPATH=paroquant:GPTQModel:AutoAWQ python …/tests/data/paroquant/make_paroquant.py

Needs paroquant 0.1.16, GPTQModel 7.7.0 and AutoAWQ 0.2.7 (unpacked, on the module path), torch
2.13.0 (CPU) and safetensors. paroquant packs; AutoAWQ's `dequantize_gemm` gives the codes' values
in float32; GPTQModel's reference turns the rows of the identity in double, which is the matrix
that the input goes through.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import torch
from safetensors.torch import save_file

for name in ("paroquant.optim", "paroquant.optim.qexperts", "paroquant.optim.util"):
    sys.modules[name] = stand_in = ModuleType(name)  # what needs a GPU, and packing does not
    for each in ("PseudoQuantizedMoEExperts", "get_named_moe_experts", "is_fused_moe_experts"):
        setattr(stand_in, each, None)
    stand_in.get_named_linears = stand_in.set_module_by_name = None  # type: ignore[attr-defined]

from awq.utils.packing_utils import dequantize_gemm  # noqa: E402
from gptqmodel.utils.paroquant import apply_paroquant_rotation_reference  # noqa: E402
from paroquant.cli.convert import _to_awq_buffers  # noqa: E402

HERE = Path(__file__).resolve().parent
torch.manual_seed(31)


def turns(count: int, inputs: int, group: int) -> dict[str, torch.Tensor]:
    """Random turns of all columns, a few pairs of the first one left out."""
    orders = [torch.randperm(group) for _ in range(count * inputs // group)]
    pairs = torch.cat(orders).to(torch.int16).reshape(count, inputs)
    return {
        "theta": (torch.rand(count, inputs // 2) * 6 - 3).half(),
        "pairs": pairs,
        "channel_scales": (torch.rand(1, inputs) + 0.5).half(),
    }


def layer(inputs: int, outputs: int, group: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """AWQ's buffers, and the values `[in, out]` of their codes."""
    groups = inputs // group
    codes = torch.randint(0, 16, (outputs, inputs), dtype=torch.int32)
    zeros = torch.randint(0, 16, (outputs, groups), dtype=torch.int32)
    buffers = _to_awq_buffers(codes, torch.rand(outputs, groups) / 64, zeros)
    scales = buffers["scales"].float()
    return buffers, dequantize_gemm(buffers["qweight"], buffers["qzeros"], scales, 4, group)


def undone(values: torch.Tensor, by: dict[str, torch.Tensor], group: int) -> torch.Tensor:
    """The weight `[out, in]` for inputs that were neither multiplied nor turned."""
    through = apply_paroquant_rotation_reference(
        torch.eye(len(values), dtype=torch.float64),
        by["pairs"],
        by["theta"],
        by["channel_scales"],
        group,
    )
    return (through @ values.double()).T.float()


def write(folder: str, stored: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    path = HERE / folder
    path.mkdir(parents=True, exist_ok=True)
    save_file({n: t.contiguous() for n, t in stored.items()}, path / "model.safetensors")
    bits = {n: t.to(torch.bfloat16).contiguous().view(torch.uint16) for n, t in expected.items()}
    save_file(bits, path / "expected.safetensors")
    about = {"quant_method": "paroquant", "bits": 4, "group_size": 32, "krot": 3}
    (path / "config.json").write_text(json.dumps({"quantization_config": about}, indent=1) + "\n")


def linear() -> None:
    buffers, values = layer(64, 32, 32)
    by = turns(3, 64, 32)
    by["pairs"][0, :4] = -1  # two pairs that stay
    stored = {f"a.{name}": value for name, value in (buffers | by).items()}
    write("linear", stored, {"a.weight": undone(values, by, 32)})


def experts() -> None:
    """Experts that share what their inputs go through."""
    head = "model.layers.0.mlp.experts."
    shared = {"gate_up": turns(3, 64, 32), "down": turns(3, 32, 32)}
    stored = {f"{head}{n}_weight_{k}": v for n, by in shared.items() for k, v in by.items()}
    expected = {}
    for number in range(2):
        for kind, name, inputs, outputs in (
            ("gate_proj", "gate_up", 64, 32),
            ("up_proj", "gate_up", 64, 32),
            ("down_proj", "down", 32, 64),
        ):
            buffers, values = layer(inputs, outputs, 32)
            stored |= {f"{head}{number}.{kind}.{k}": v for k, v in buffers.items()}
            expected[f"{head}{number}.{kind}.weight"] = undone(values, shared[name], 32)
    write("experts", stored, expected)


if __name__ == "__main__":
    linear()
    experts()
