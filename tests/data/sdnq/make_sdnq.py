"""Write tests/data/sdnq/: layers as SDNQ stores them, its configuration, and their values.

    ATEN_CPU_CAPABILITY=default SDNQ_USE_TORCH_COMPILE=0 python make_sdnq.py

The first has PyTorch round a product before it is added (`addcmul`), which its code for AVX2 does
not. Made with PyPI sdnq 0.2.8, diffusers 0.42, transformers 5.23, torch 2.13.0 (CPU) and
safetensors 0.8.
`expected` holds the BF16 bits (U16) of SDNQ's own `dequantize_weight` in float32, of layers of low
rank without that part: `NAME.up` and `NAME.down` are added in the order of the rank, in float32, as
docs/formats/sdnq.md says. Of rotated layers, `expected` has SDNQ's float32 values.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from sdnq.dequantizer import dequantize_weight
from sdnq.quantizer import sdnq_quantize_layer_weight
from sdnq.utils import get_minimum_dtype

FOLDER = Path(__file__).parent
INTEGERS = [f"uint{bits}" for bits in range(2, 9)] + [f"int{bits}" for bits in range(2, 9)]
FLOATS = (
    *("float2_e1m0fn", "float3_e1m1fn", "float4_e2m1fn", "float4_e2m2fnu", "float5_e4m1fnu"),
    *("float6_e3m2fn", "float7_e3m3fn", "float8_e3m4fn", "float8_e4m4fnu"),
)
WHOLE = {
    "float8_e4m3fn": {},
    "float8_e5m2": {"group_size": 32},
    "float16": {},
    "bfloat16": {"group_size": 48},
    "float32": {},
    "int16": {"group_size": 24},
    "uint16": {},
}
ACROSS = ("int8", "uint8", "float8_e4m3fn", "float16")
CONVOLUTIONS = (
    ("int8", {"group_size": -1}),
    ("uint8", {"group_size": 16}),
    ("uint4", {}),
    ("int4", {"group_size": -1, "use_svd": True, "svd_rank": 4}),
    ("int5", {"group_size": 16}),
    ("float4_e2m1fn", {}),
    ("float8_e4m3fn", {"group_size": -1}),
    ("int16", {"group_size": -1}),
)
SIZES = {"across": (32, 64), "conv": (16, 32, 3, 3), "turned": (16, 256)}  # others: (16, 192)
NAMES = ("blocks.0.attn.to_q.weight", "blocks.10.ff.net.weight", "proj_out.weight", "t_embedder.w")
RULES = (
    {"int8": ["to_q", "proj_out.weight"], "int6": ["blocks.10.ff.net.weight"]},
    {"int5": ["blocks.*.ff"], "uint6": [".proj"], "int7": ["*embedder"]},
    {"minimum_6bit": ["ff", "to_q"], "minimum_uint7": ["t_embedder"], "4bit": ["proj_out"]},
    {"minimum-3bits": ["blocks"], "uint3": ["blocks.1*", "to"]},
    {"uint4": ["blocks"], "int8": ["to_q", "net"]},
)
generator = torch.Generator().manual_seed(5)


def main() -> None:
    torch.manual_seed(5)  # SVD starts from random numbers
    state: dict[str, torch.Tensor] = {"norm.scale": torch.ones(8)}
    expected: dict[str, torch.Tensor] = {}
    kinds: dict[str, list[str]] = {}
    own: dict[str, dict[str, object]] = {}
    for kind in (*INTEGERS, *FLOATS):
        kinds[kind] = [f"layer.{kind}.weight"]
        keep(f"layer.{kind}", kind, state, expected)
    for name, kind, options in (
        ("svd.a", "uint4", {"use_svd": True, "svd_rank": 8}),
        ("svd.b", "int6", {"use_svd": True, "svd_rank": 4, "group_size": 48}),
        ("turned.a", "uint4", {"use_hadamard": True}),
        ("turned.b", "int8", {"use_hadamard": True, "hadamard_group_size": 16, "group_size": -1}),
        ("turned.c", "uint5", {"use_hadamard": True, "hadamard_group_size": 128}),
        ("row.a", "int8", {"group_size": -1}),
        ("row.b", "uint8", {"group_size": -1}),
        ("row.c", "uint3", {"group_size": -1}),
        ("groups.a", "uint4", {"group_size": 24}),
        ("half.a", "uint4", {"dequantize_fp32": False}),
        *((f"whole.{kind}", kind, options) for kind, options in WHOLE.items()),
        ("turned.d", "float8_e4m3fn", {"use_hadamard": True}),
        ("svd.c", "float16", {"use_svd": True, "svd_rank": 4}),
        # Of 16 outputs or more a multiple of 16; made for a quantised product.
        *((f"across.{kind}", kind, {"use_quantized_matmul": True}) for kind in ACROSS),
        ("across.svd", "int8", {"use_quantized_matmul": True, "use_svd": True, "svd_rank": 8}),
        ("across.packed", "uint4", {"use_quantized_matmul": True, "use_svd": True, "svd_rank": 8}),
        *((f"conv.{at}", *about) for at, about in enumerate(CONVOLUTIONS)),
    ):
        kinds.setdefault(kind, []).append(f"{name}.weight")
        own[f"{name}.weight"] = options
        keep(name, kind, state, expected, **options)
    config = {
        "quant_method": "sdnq",
        "weights_dtype": "uint4",
        "use_hadamard": False,
        "modules_dtype_dict": kinds,
        "modules_quant_config": own,
    }
    (FOLDER / "model" / "config.json").write_text(
        json.dumps({"quantization_config": config}, indent=1)
    )
    found = [
        [rules, kind, name, get_minimum_dtype(kind, name, rules)]
        for rules in RULES
        for kind in ("uint4", "int8")
        for name in NAMES
    ]
    (FOLDER / "names.json").write_text(json.dumps(found) + "\n")
    save_file(state, FOLDER / "model" / "model.safetensors", {"format": "pt"})
    save_file(expected, FOLDER / "expected.safetensors")


def keep(
    name: str,
    kind: str,
    state: dict[str, torch.Tensor],
    expected: dict[str, torch.Tensor],
    **options: object,
) -> None:
    size = SIZES.get(name.partition(".")[0], (16, 192))
    size = (16, 24, 5) if name == "conv.5" else size
    weight = torch.randn(size, generator=generator) * 0.05
    ones = (size[0], *[1] * len(size[1:]))
    weight = (weight * torch.randn(ones, generator=generator).exp()).to(torch.bfloat16)
    layer = {2: "Linear", 3: "Conv1d", 4: "Conv2d"}[len(size)]
    about, parts = sdnq_quantize_layer_weight(
        weight, layer_class_name=layer, weights_dtype=kind, **options
    )
    for part, tensor in parts.items():
        if tensor is not None:
            state[f"{name}.{part}"] = (
                tensor.clone().contiguous()
            )  # SDNQ multiplies float32 in place
    hadamard = None
    if about.use_hadamard:
        from sdnq.quant_utils import get_hadamard

        hadamard = get_hadamard(about.hadamard_group_size, dtype=torch.float32)
    values = dequantize_weight(
        kind,
        parts["weight"],
        parts["scale"].float(),
        zero_point=None if parts["zero_point"] is None else parts["zero_point"].float(),
        hadamard=hadamard,
        group_size=about.group_size,
        dtype=torch.float32,
        result_shape=about.result_shape,
        quantized_weight_shape=about.quantized_weight_shape,
        skip_quantized_matmul=about.use_quantized_matmul,
        re_quantize_for_matmul=about.re_quantize_for_matmul or about.is_packed,
    ).reshape(weight.shape)
    if parts["svd_up"] is not None:
        up, down = parts["svd_up"], parts["svd_down"]
        if about.use_quantized_matmul:
            up, down = up.t(), down.t()
        low = added(values.reshape(up.shape[0], -1), up, down)
        values = torch.from_numpy(low).reshape(values.shape)
    if about.use_hadamard:
        expected[f"{name}.weight"] = values.contiguous()
    else:
        expected[f"{name}.weight"] = values.to(torch.bfloat16).contiguous().view(torch.uint16)


def added(values: torch.Tensor, up: torch.Tensor, down: torch.Tensor) -> np.ndarray:
    """Each product and the sum that it is added to rounded once, in the order of the rank."""
    left, right = up.double().numpy(), down.double().numpy()
    low = np.zeros(values.shape, np.float32)
    for rank in range(left.shape[1]):
        low = (low + left[:, rank : rank + 1] * right[rank]).astype(np.float32)
    return values.numpy() + low


if __name__ == "__main__":
    main()
