"""Write tests/data/fp4/*.safetensors: FP4 tensors as tools store them, and what they read back.

Made with compressed-tensors 0.20.0, transformers 5.23.0, nvidia-modelopt 0.47.0, torch 2.13.0
(CPU), safetensors 0.8 and numpy 2. `cases` holds the stored tensors: random codes, and random bytes
for scales but for NaNs and, of exponents, 255, which these libraries do not take for NaN.
`expected` holds the BF16 bits of each tensor that comes out (U16): `NAME`, and `NAME.reference`
where the library stops at BF16 on its way; `NAME` is then its result from the same global scale in
one dimension, with which it does not.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from modelopt.torch.quantization.qtensor.mxfp4_tensor import MXFP4QTensor
from modelopt.torch.quantization.qtensor.nvfp4_tensor import NVFP4QTensor
from safetensors.torch import save_file
from transformers.integrations.finegrained_fp8 import Fp8Dequantize
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

FOLDER = Path(__file__).parent
rng = np.random.default_rng(4)
stored: dict[str, torch.Tensor] = {}
expected: dict[str, torch.Tensor] = {}


def random_bytes(*shape: int) -> torch.Tensor:
    return torch.from_numpy(rng.integers(0, 256, shape, np.uint8))


def e4m3(*shape: int) -> torch.Tensor:
    """Every code but the NaNs."""
    codes = rng.integers(0, 254, shape, np.uint8)
    return torch.from_numpy(codes + (codes >= 0x7F)).view(torch.float8_e4m3fn)


def e8m0(*shape: int) -> torch.Tensor:
    """Every exponent but that of NaN."""
    return torch.from_numpy(rng.integers(0, 255, shape, np.uint8))


def keep(name: str, parts: dict[str, torch.Tensor], values: torch.Tensor) -> None:
    """Enter the stored tensors `NAMEpart`, and what comes out of them."""
    stored.update({f"{name}{part}": tensor.clone() for part, tensor in parts.items()})
    expect(f"{name}.weight" if any(".weight" in part for part in parts) else name, values)


def expect(name: str, values: torch.Tensor) -> None:
    assert values.dtype == torch.bfloat16
    expected[name] = values.contiguous().clone().view(torch.uint16)


def scheme(group_size: int, bits: int = 4) -> QuantizationScheme:
    strategy = "tensor_group" if group_size == 16 else "group"
    args: dict[str, Any] = {"num_bits": bits, "type": "float", "strategy": strategy}
    return QuantizationScheme(
        targets=["Linear"], weights=QuantizationArgs(**args, group_size=group_size)
    )


def decompressed(
    kind: str, parts: dict[str, torch.Tensor], group_size: int, bits: int = 4
) -> torch.Tensor:
    compressor = BaseCompressor.get_value_from_registry(kind)
    values: torch.Tensor = compressor.decompress(
        {name.removeprefix("."): t.clone() for name, t in parts.items()}, scheme(group_size, bits)
    )["weight"]
    return values


def compressed_tensors() -> None:
    for name, factor in (("one", [731.25]), ("scalar", 1234.5), ("small", [0.0123])):
        parts = {
            ".weight_packed": random_bytes(24, 48),
            ".weight_scale": e4m3(24, 6),
            ".weight_global_scale": torch.tensor(factor),
        }
        one = {**parts, ".weight_global_scale": parts[".weight_global_scale"].reshape(1)}
        keep(f"ct.nv.{name}", parts, decompressed("nvfp4-pack-quantized", one, 16))
        if not parts[".weight_global_scale"].ndim:
            values = decompressed("nvfp4-pack-quantized", parts, 16)
            expect(f"ct.nv.{name}.weight.reference", values)
    parts = {".weight_packed": random_bytes(16, 64), ".weight_scale": e8m0(16, 4)}
    keep("ct.mx", parts, decompressed("mxfp4-pack-quantized", parts, 32))
    parts = {".weight_packed": random_bytes(8, 96), ".weight_scale": e8m0(8, 4)}
    keep("ct.mx6", parts, decompressed("mxfp6-pack-quantized", parts, 32, 6))


def modelopt() -> None:
    shapes: dict[str, tuple[tuple[int, ...], torch.Tensor]] = {
        "plain": ((24, 48), torch.tensor(0.00123)),
        "experts": ((3, 8, 48), torch.tensor(0.25)),
        "each": ((3, 8, 48), torch.tensor([0.25, 3e-4, 17.0])),
    }
    for name, (shape, factor) in shapes.items():
        codes, scale = random_bytes(*shape), e4m3(*shape[:-1], shape[-1] // 8)
        full = torch.Size((*shape[:-1], shape[-1] * 2))
        spread = factor.reshape(-1, 1, 1) if factor.ndim else factor
        values = NVFP4QTensor(full, torch.bfloat16, codes).dequantize(
            torch.bfloat16, scale=scale, double_scale=spread, block_sizes={-1: 16}
        )
        more = {"_scale": scale, "_scale_2": factor}
        parts = {".weight": codes, **{f".weight{part}": t for part, t in more.items()}}
        keep(f"mo.nv.{name}", {**parts, ".input_scale": torch.tensor(0.5)}, values)
        keep(
            f"mo.nv.fused_{name}",
            {"": codes, **{f"_weight{p}": t for p, t in more.items()}},
            values,
        )
    codes, scale = random_bytes(8, 64), e8m0(8, 4)
    values = MXFP4QTensor(torch.Size((8, 128)), torch.bfloat16, codes).dequantize(
        torch.bfloat16, scale=scale.reshape(-1), block_sizes={-1: 32}
    )
    keep("mo.mx", {".weight": codes, ".weight_scale": scale}, values)


def transformers() -> None:
    one: Any = Fp8Dequantize(None)  # type: ignore[no-untyped-call]
    for name, shape in (("plain", (24, 48)), ("experts", (3, 8, 64))):
        codes, scale = random_bytes(*shape), e8m0(*shape[:-1], shape[-1] // 16)
        codes, scale = codes.view(torch.int8), scale.view(torch.float8_e8m0fnu)
        for part in ("scale", "weight_scale_inv"):
            values = one._dequantize_one(codes, scale, torch.bfloat16)
            keep(f"ds.{name}.{part}", {".weight": codes, f".{part}": scale}, values)
    for name, blocks_shape in (
        ("mlp.experts.gate_up_proj", (2, 40, 3, 16)),
        ("mlp.experts.down_proj", (2, 70, 2, 16)),
        ("square.experts.down_proj", (1, 64, 2, 16)),
    ):
        blocks, scales = random_bytes(*blocks_shape), e8m0(*blocks_shape[:-1])
        values = convert_moe_packed_tensors(blocks, scales, dtype=torch.bfloat16)
        keep(name, {"_blocks": blocks, "_scales": scales}, values)
        keep(
            f"original.{name}_weight",
            {".blocks": blocks, ".scales": scales},
            values.transpose(1, 2),
        )


compressed_tensors()
modelopt()
transformers()
stored["norm.weight"] = torch.ones(7, dtype=torch.bfloat16)
stored["mlp.experts.down_proj_bias"] = torch.ones(2, 70, dtype=torch.bfloat16)
save_file(stored, FOLDER / "cases.safetensors")
save_file(expected, FOLDER / "expected.safetensors")
