"""Make Nunchaku's layouts of this folder by deepcompressor's own conversion and packer.

    cd / && PYTHONPATH=DEEPCOMPRESSOR python …/tests/data/layouts/make_nunchaku.py

Needs a checkout of https://github.com/mit-han-lab/deepcompressor (commit 69f3473 made the files
that are here), torch 2.13.0 (CPU) and safetensors 0.8. Codes and scales are known before they are
packed, so the expected values are made of these; the low-rank parts are what
`NunchakuWeightPacker.unpack_lowrank_weight` gives. No library adds these up on a CPU: sums and
products are made here in float32 as kernels/nunchaku.py says, and rounded once to BF16.
"""

from __future__ import annotations

import json
from typing import Any

import torch
from deepcompressor.backend.nunchaku import convert
from deepcompressor.backend.nunchaku.utils import NunchakuWeightPacker
from layout_files import Tensors, write

SHIFT = 0.171875  # nunchaku src/kernels/zgemm/gemm_w4a4_launch_impl.cuh: SHIFT_GELU
E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
NEWER = {
    "smooth_orig": "smooth_factor_orig",
    "smooth": "smooth_factor",
    "lora_down": "proj_down",
    "lora_up": "proj_up",
}
PACKER = NunchakuWeightPacker(bits=4)


class Model:
    """A file as it grows: what is stored, and what comes out."""

    def __init__(self, dtype: torch.dtype, newer: bool) -> None:
        self.dtype, self.newer = dtype, newer
        self.stored: Tensors = {}
        self.expected: Tensors = {}

    def add(self, name: str, made: dict[str, Any]) -> None:
        for part, tensor in made.items():
            part = NEWER.get(part, part) if self.newer else part
            self.stored[f"{name}.{part}"] = tensor

    def random(self, *shape: int) -> torch.Tensor:
        return torch.randn(*shape).to(self.dtype)

    def positive(self, *shape: int) -> torch.Tensor:
        return (torch.rand(*shape) * 0.5 + 0.25).to(self.dtype)

    def w4a4(self, name: str, rows: int, columns: int, rank: int, **how: Any) -> None:
        """`how`: `fused` smoothing, a `moved` input, FP4 with a scale of a `tensor` or of rows."""
        smooth = self.positive(columns)
        bias = self.random(rows)
        low = (self.random(rank, columns), self.random(rows, rank)) if rank else None
        given: dict[str, Any] = {"smooth": smooth, "lora": low, "smooth_fused": how.get("fused")}
        if "tensor" in how:
            codes = E2M1[torch.randint(0, 8, (rows, columns))]
            codes *= torch.randint(0, 2, codes.shape) * 2 - 1
            local = self.positive(rows, columns // 16).to(torch.float8_e4m3fn).float() * 8
            whole = self.positive(1 if how["tensor"] else rows)
            scale = local * whole.float().view(-1, 1)
            given |= {"float_point": True, "scale": whole.view(-1, 1, 1, 1)}
            given["subscale"] = local.to(self.dtype).view(rows, 1, -1, 1)
        else:
            codes = torch.randint(-8, 8, (rows, columns)).float()
            scale = self.positive(rows, columns // 64).float()
            given["scale"] = scale.to(self.dtype).view(rows, 1, -1, 1)
        values = codes * scale.repeat_interleave(columns // scale.shape[1], 1)
        made = convert.convert_to_nunchaku_w4x4y16_linear_state_dict(
            values.to(self.dtype), bias=bias, **given
        )
        self.add(name, made)
        residual = values if how.get("fused") else values / smooth.float()
        sums = torch.zeros(rows, columns)
        if low is not None:
            down = PACKER.unpack_lowrank_weight(made["lora_down"], down=True)
            up = PACKER.unpack_lowrank_weight(made["lora_up"], down=False)
            for k in range(rank):
                sums = (up[:, k, None].double() * down[None, k].double() + sums.double()).float()
        self.expected[f"{name}.weight"] = residual + sums if rank else residual
        if how.get("moved"):
            bias = (residual.double().sum(1) * SHIFT + bias.double()).float()
        self.expected[f"{name}.bias"] = bias

    def w4a16(self, name: str, splits: int, columns: int) -> None:
        """Codes of an adaptive norm, whose outputs its own layer has interleaved."""
        rows = splits * columns
        codes = torch.randint(-7, 9, (rows, columns)).float()
        scale = self.positive(rows, columns // 64)
        values = (codes.view(rows, -1, 64) * scale.float().unsqueeze(-1)).view(rows, columns)
        make = {
            3: convert.convert_to_nunchaku_w4x16_adanorm_single_state_dict,
            6: convert.convert_to_nunchaku_w4x16_adanorm_zero_state_dict,
        }[splits]
        made = make(values.to(self.dtype), scale.view(rows, 1, -1, 1), bias=self.random(rows))
        self.add(name, made)
        order = torch.arange(rows).view(splits, -1).t().reshape(-1)
        lines = scale[order].repeat_interleave(64, 1).float()
        zeros = made["wzeros"][: columns // 64].t().repeat_interleave(64, 1).float()
        self.expected[f"{name}.weight"] = (codes[order] + 7) * lines + zeros
        self.expected[f"{name}.bias"] = made["bias"]


def metadata(kind: str, group: int) -> dict[str, str]:
    """As nunchaku/merge_safetensors.py writes it."""
    half = {"dtype": kind, "scale_dtype": None, "group_size": group}
    block = {"method": "svdquant", "weight": half, "activation": half, "rank": 32}
    return {"quantization_config": json.dumps(block), "model_class": "NunchakuModel"}


def flux_int4() -> None:
    """FLUX's older names, BF16, no metadata: transformer_blocks.safetensors."""
    model = Model(torch.bfloat16, newer=False)
    block = "transformer_blocks.0"
    model.w4a4(f"{block}.qkv_proj", 256, 128, 32)
    model.w4a4(f"{block}.out_proj", 128, 128, 16, fused=True)
    model.w4a4(f"{block}.mlp_fc2", 128, 256, 48, moved=True)
    model.w4a4(f"{block}.mlp_context_fc2", 128, 128, 16, moved=True)
    model.w4a16("single_transformer_blocks.0.norm.linear", 3, 64)
    model.w4a16(f"{block}.norm1.linear", 6, 64)
    write("nunchaku/int4-r32", model.stored, model.expected, None)


def qwen_int4() -> None:
    """Newer names, F16, merged into one file."""
    model = Model(torch.float16, newer=True)
    model.w4a4("transformer_blocks.1.img_mlp.net.0.proj", 128, 256, 16)
    model.w4a4("transformer_blocks.1.img_mlp.net.2", 128, 128, 32, moved=True)
    model.w4a4("transformer_blocks.1.attn.to_qkv", 128, 128, 0)
    write("nunchaku/int4-f16", model.stored, model.expected, None, metadata("int4", 64))


def fp4() -> None:
    """A scale of the tensor, and of each row where projections were made one."""
    model = Model(torch.bfloat16, newer=False)
    model.w4a4("transformer_blocks.0.mlp_fc2", 128, 128, 32, tensor=True)
    model.w4a4("transformer_blocks.0.qkv_proj", 256, 128, 16, tensor=False)
    write("nunchaku/fp4-r32", model.stored, model.expected, None, metadata("fp4_e2m1_all", 16))


if __name__ == "__main__":
    for number, make in enumerate((flux_int4, qwen_int4, fp4)):
        torch.manual_seed(number)
        make()
