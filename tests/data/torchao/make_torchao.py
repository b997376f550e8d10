"""Write tests/data/torchao/*.safetensors: torchao's tensors as it flattens them, and their values.

Made with torchao 0.18.0, torch 2.13.0 (CPU) and safetensors 0.8. `cases` is what
torchao.prototype.safetensors writes, metadata included. `expected` holds the BF16 bits (U16) of
each weight: of `dequantize(torch.bfloat16)`, of `dequantize()` for IntxUnpackedToInt8Tensor, which
has no other, and of `_int4_row_dequantize_zp` (torchao/prototype/gptq/api.py), in float32, for
Int4Tensor. Under an `act_pre_scale` they are multiplied by it
in float32. Where the library stops at binary16 on its way there is a `NAME.exact` besides, from
float32 scales.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torchao.prototype.awq import AWQConfig
from torchao.prototype.gptq.api import _int4_row_dequantize_zp
from torchao.prototype.mx_formats.mx_tensor import MXTensor
from torchao.prototype.mx_formats.nvfp4_tensor import NVFP4Tensor
from torchao.prototype.safetensors.safetensors_support import flatten_tensor_state_dict
from torchao.prototype.smoothquant import SmoothQuantConfig
from torchao.quantization import (
    Float8Tensor,
    Int4Tensor,
    Int8DynamicActivationInt8WeightConfig,
    Int8Tensor,
    Int8WeightOnlyConfig,
    IntxUnpackedToInt8Tensor,
    MappingType,
    PerRow,
    PerTensor,
    quantize_,
)
from torchao.quantization.granularity import PerBlock, PerGroup

FOLDER = Path(__file__).parent
generator = torch.Generator().manual_seed(7)
state: dict[str, torch.Tensor] = {}
expected: dict[str, torch.Tensor] = {}


def normal(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.randn(*shape, generator=generator).to(dtype)


def keep(name: str, tensor: Any, values: torch.Tensor) -> None:
    state[name] = tensor
    expected[name] = values.to(torch.bfloat16).contiguous().view(torch.uint16)


def float8() -> None:
    for name, shape, granularity, dtype in (
        ("row", (6, 80), PerRow(), torch.float8_e4m3fn),
        ("tensor", (6, 80), PerTensor(), torch.float8_e4m3fn),
        ("e5m2", (6, 80), PerRow(), torch.float8_e5m2),
        ("block", (48, 32), PerBlock([16, 8]), torch.float8_e4m3fn),
        ("experts", (3, 8, 48), PerRow(), torch.float8_e4m3fn),
    ):
        tensor = Float8Tensor.from_hp(normal(*shape), dtype, granularity)
        keep(f"float8.{name}.weight", tensor, tensor.dequantize(torch.bfloat16))
    half = Float8Tensor.from_hp(normal(16, 64, dtype=torch.float16), granularity=PerRow())
    keep("float8.half.weight", half, half.dequantize(torch.bfloat16))
    column = Float8Tensor.from_hp(normal(6, 80), granularity=PerRow(0))
    keep("float8.column.weight", column, column.dequantize(torch.bfloat16))


def int8() -> None:
    asymmetric = MappingType.ASYMMETRIC
    for name, shape, granularity, mapping, dtype in (
        ("row", (6, 80), PerRow(), MappingType.SYMMETRIC, torch.bfloat16),
        ("tensor", (6, 80), PerTensor(), MappingType.SYMMETRIC, torch.bfloat16),
        ("group", (6, 96), PerGroup(32), MappingType.SYMMETRIC, torch.bfloat16),
        ("experts", (3, 8, 48), PerRow(), asymmetric, torch.bfloat16),
        ("asymmetric", (6, 80), PerRow(), asymmetric, torch.bfloat16),
        ("asymmetric-tensor", (6, 80), PerTensor(), asymmetric, torch.float32),
        ("half", (6, 80), PerRow(), MappingType.SYMMETRIC, torch.float16),
    ):
        values = normal(*shape, dtype=dtype) + (0.5 if mapping is asymmetric else 0)
        tensor = Int8Tensor.from_hp(values, granularity, mapping)
        keep(f"int8.{name}.weight", tensor, tensor.dequantize(torch.bfloat16))
    plain = Int8Tensor(
        torch.randint(-128, 128, (8, 64), generator=generator, dtype=torch.int8),
        normal(8, 1, dtype=torch.float32),
        [1, 64],
        torch.bfloat16,
        act_quant_scale=torch.ones(1, 1),
        act_quant_zero_point=torch.zeros(1, 1, dtype=torch.int8),
    )
    keep("int8.no-zeros.weight", plain, plain.dequantize(torch.bfloat16))


def intx() -> None:
    for name, bits, block, mapping, dtype in (
        ("int4", 4, (1, 32), MappingType.ASYMMETRIC, torch.bfloat16),
        ("int4-float32", 4, (1, 16), MappingType.SYMMETRIC, torch.float32),
        ("int2", 2, (1, 64), MappingType.SYMMETRIC, torch.bfloat16),
        ("int8-row", 8, (1, 128), MappingType.ASYMMETRIC, torch.bfloat16),
        ("int3-half", 3, (1, 32), MappingType.ASYMMETRIC, torch.float16),
        ("int8-half-row", 8, (1, 128), MappingType.ASYMMETRIC, torch.float16),
        ("int8-block", 8, (4, 64), MappingType.ASYMMETRIC, torch.bfloat16),
    ):
        tensor = IntxUnpackedToInt8Tensor.from_hp(
            normal(4, 128, dtype=dtype) + 0.25,
            block,
            getattr(torch, f"int{bits}"),
            mapping_type=mapping,
            activation_quantization="int8_asym_per_token" if bits == 4 else None,
        )
        keep(f"intx.{name}.weight", tensor, tensor.dequantize())
        if dtype is torch.float16:
            single = IntxUnpackedToInt8Tensor(
                tensor.qdata,
                tensor.scale.float(),
                tensor.zero_point,
                tensor.target_dtype,
                tensor.block_size,
                torch.float32,
                None,
            )
            values = single.dequantize().to(torch.bfloat16)
            expected[f"intx.{name}.weight.exact"] = values.view(torch.uint16)
    # Scales of another dtype than the weight's: the product is float32.
    tensor = IntxUnpackedToInt8Tensor(
        torch.randint(-128, 128, (8, 64), generator=generator, dtype=torch.int8),
        normal(8, 4, dtype=torch.float16),
        torch.randint(-128, 128, (8, 4), generator=generator, dtype=torch.int8),
        torch.int8,
        [1, 16],
        torch.bfloat16,
        None,
    )
    keep("intx.mixed.weight", tensor, tensor.dequantize())


def pack_int4(codes: torch.Tensor) -> torch.Tensor:
    """The low half of a byte is the even element, as mslk.quantize.shuffle.pack_int4 has it."""
    low, high = codes[..., ::2] & 0xF, codes[..., 1::2] << 4
    return (low | high).to(torch.int8).contiguous()


def int4() -> None:
    for name, shape, size, dtype in (
        ("group32", (6, 96), 32, torch.bfloat16),
        ("group128", (5, 256), 128, torch.bfloat16),
        ("row", (9, 64), 64, torch.bfloat16),
        ("half", (6, 96), 32, torch.float16),
        ("single", (6, 96), 48, torch.float32),
        ("experts", (3, 8, 64), 32, torch.bfloat16),
    ):
        groups = (*shape[:-2], shape[-1] // size, shape[-2])
        codes = torch.randint(-8, 8, shape, generator=generator, dtype=torch.int8)
        scale, zero = normal(*groups, dtype=dtype), normal(*groups, dtype=dtype)
        tensor = Int4Tensor(pack_int4(codes), scale, zero, [*([1] * len(shape[:-1])), size], shape)
        matrices = zip(
            codes.reshape(-1, *shape[-2:]),
            scale.float().reshape(-1, *groups[-2:]),
            zero.float().reshape(-1, *groups[-2:]),
            strict=True,
        )
        values = [_int4_row_dequantize_zp(c, s, z, size) for c, s, z in matrices]
        keep(f"int4.{name}.weight", tensor, torch.stack(values).reshape(shape))


def microscaling() -> None:
    for name, shape, dtype in (
        ("fp8", (6, 96), torch.float8_e4m3fn),
        ("e5m2", (6, 96), torch.float8_e5m2),
        ("fp4", (6, 96), torch.float4_e2m1fn_x2),
        ("experts8", (3, 8, 64), torch.float8_e4m3fn),
        ("experts4", (3, 8, 64), torch.float4_e2m1fn_x2),
    ):
        tensor = MXTensor.to_mx(normal(*shape) * normal(*shape[:-1], 1).exp(), dtype)
        keep(f"mx.{name}.weight", tensor, tensor.dequantize(torch.bfloat16))
    for name, shape, factor in (
        ("plain", (6, 96), None),
        ("tensor", (6, 96), torch.tensor(0.0173)),
        ("experts", (3, 8, 64), None),
        ("experts-tensor", (3, 8, 64), torch.tensor(0.0173)),
    ):
        tensor = NVFP4Tensor.to_nvfp4(normal(*shape), per_tensor_scale=factor)
        keep(f"nv.{name}.weight", tensor, tensor.dequantize(torch.bfloat16))
    tensor = NVFP4Tensor.to_nvfp4(normal(3, 8, 64))
    tensor = NVFP4Tensor(
        tensor.qdata,
        tensor.scale,
        16,
        torch.bfloat16,
        per_tensor_scale=torch.tensor([0.3, 1.7, 0.011]).reshape(3, 1, 1),
        act_per_tensor_scale=torch.tensor(2.0),
    )
    keep("nv.each.gate_up_proj", tensor, tensor.dequantize(torch.bfloat16))


def tiles() -> None:
    """Scales in tiles of 128 rows and 4 blocks, filled up; a stack has whole tiles."""
    for name, shape, dtype in (
        ("fp8", (33, 160), torch.float8_e4m3fn),
        ("e5m2", (33, 32), torch.float8_e5m2),
        ("fp4", (33, 160), torch.float4_e2m1fn_x2),
    ):
        values = normal(*shape) * normal(*shape[:-1], 1).exp()
        tensor = MXTensor.to_mx(values, dtype, is_swizzled_scales=True)
        keep(f"tiles.mx.{name}.weight", tensor, tensor.dequantize(torch.bfloat16))
    for name, shape, factor in (
        ("plain", (130, 80), None),
        ("tensor", (4, 48), torch.tensor(0.0173)),
        ("experts", (2, 128, 16), torch.tensor([0.3, 1.7]).reshape(2, 1, 1)),
    ):
        one = torch.tensor(0.02) if factor is not None else None
        tensor = NVFP4Tensor.to_nvfp4(normal(*shape), per_tensor_scale=one, is_swizzled_scales=True)
        tensor.per_tensor_scale = factor
        keep(f"tiles.nv.{name}.weight", tensor, tensor.dequantize(torch.bfloat16))


class _Model(torch.nn.Module):
    def __init__(self, columns: int) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(columns, 6, bias=False).to(torch.bfloat16)
        self.linear.weight.data = normal(6, columns)

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        return self.linear(value)


def smoothed() -> None:
    """Weights whose inputs are multiplied by `act_pre_scale`: so are their columns, in float32."""
    for name, config, base in (
        ("awq", AWQConfig, Int8WeightOnlyConfig()),
        ("group", AWQConfig, Int8WeightOnlyConfig(granularity=PerGroup(32))),
        ("quant", SmoothQuantConfig, Int8DynamicActivationInt8WeightConfig()),
    ):
        model = _Model(96)
        quantize_(model, config(base, step="prepare"))
        for _ in range(2):
            model(normal(8, 96) * normal(96).exp())
        quantize_(model, config(base, step="convert"))
        weight = model.linear.weight
        values = weight.dequantize(torch.float32) * weight.act_pre_scale.float()
        keep(f"smoothed.{name}.weight", weight.data, values)
    half = state["int4.half.weight"]
    factor = normal(96).exp().half()
    tensor = Int4Tensor(half.qdata, half.scale, half.zero_point, half.block_size, half.shape)
    tensor.act_pre_scale = factor
    codes = torch.stack([half.qdata & 15, half.qdata >> 4], dim=-1).reshape(6, 96)
    codes = torch.where(codes > 7, codes - 16, codes).to(torch.int8)
    values = _int4_row_dequantize_zp(codes, half.scale.float(), half.zero_point.float(), 32)
    keep("smoothed.int4.weight", tensor, values * factor.float())


def main() -> None:
    for part in (float8, int8, intx, int4, microscaling, tiles):
        part()
    state["norm.weight"] = normal(16)
    state["float8.row.bias"] = normal(6, dtype=torch.float32)
    smoothed()
    data, metadata = flatten_tensor_state_dict(state)
    metadata["format"] = "pt"
    save_file(data, FOLDER / "cases.safetensors", metadata)
    save_file(expected, FOLDER / "expected.safetensors")


if __name__ == "__main__":
    main()
