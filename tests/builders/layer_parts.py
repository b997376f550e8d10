"""Small layers by their parts: dense, and one of each scheme that needs no payload."""

from __future__ import annotations

from typing import Any

from small_models import Parts

DENSE: Parts = {"m.weight": ("BF16", (64, 64)), "m.bias": ("BF16", (64,))}
# One complete layer `m` of each scheme that needs no payload, and the method that writes it.
LAYERS: dict[str, tuple[str, Parts]] = {
    "awq": (
        "awq",
        {"m.qweight": ("I32", (64, 4)), "m.qzeros": ("I32", (2, 4)), "m.scales": ("F16", (2, 32))},
    ),
    "bitnet": ("bitnet", {"m.weight": ("U8", (8, 32)), "m.weight_scale": ("BF16", (1,))}),
    "bnb-int8": ("bitsandbytes", {"m.weight": ("I8", (32, 64)), "m.SCB": ("F32", (32,))}),
    "ct-int8": (
        "compressed-tensors",
        {"m.weight": ("I8", (32, 64)), "m.weight_scale": ("BF16", (32, 1))},
    ),
    "fp8": ("fp8", {"m.weight": ("F8_E4M3", (32, 64)), "m.weight_scale": ("F32", ())}),
    "gptq": (
        "gptq",
        {
            "m.qweight": ("I32", (8, 32)),
            "m.qzeros": ("I32", (2, 4)),
            "m.scales": ("F16", (2, 32)),
            "m.g_idx": ("I32", (64,)),
        },
    ),
    "mlx": (
        "mlx",
        {"m.weight": ("U32", (32, 8)), "m.scales": ("F16", (32, 1)), "m.biases": ("F16", (32, 1))},
    ),
    "mxfp4": (
        "mxfp4",
        {"m.down_proj_blocks": ("U8", (2, 4, 1, 16)), "m.down_proj_scales": ("U8", (2, 4, 1))},
    ),
    "nvfp4": (
        "modelopt",
        {
            "m.weight": ("U8", (32, 32)),
            "m.weight_scale": ("F8_E4M3", (32, 4)),
            "m.weight_scale_2": ("F32", ()),
        },
    ),
    "quanto": (
        "quanto",
        {"m.weight._data": ("I8", (32, 64)), "m.weight._scale": ("F32", (32, 1))},
    ),
    "quark": (
        "quark",
        {"m.weight": ("F8_E4M3", (32, 64)), "m.weight_scale": ("F32", ())},
    ),
}


AWQ, FP8 = LAYERS["awq"][1], LAYERS["fp8"][1]
STEMS = {"mxfp4": "m.down_proj_"}


def about(method: str) -> dict[str, Any]:
    """A `quantization_config` that states the method."""
    if method == "mlx":
        return {"quant_method": "mlx", "bits": 4, "group_size": 64}
    return {"quant_method": method}


def within(module: str, parts: Parts) -> Parts:
    """The same parts in a module below."""
    return {f"{module}.{name}": entry for name, entry in parts.items()}
