"""Seeds of the target `layers`: what `layer_targets` says an input is.

One of each encoding is made by the function that its row names for benchmarks; here are layouts
that no benchmark has.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.models import Layer

_SIZES = 128, 256  # rows and columns
_MOST_SETTING = 256  # bytes
_CT = "compressed-tensors"
Entry = tuple[str, tuple[int, ...]]

# ComfyUI's layers by the format of their mark, which stands in the file's metadata.
_COMFY: dict[str, tuple[dict[str, Any], dict[str, Entry]]] = {
    "asym_w4a8_int8": (
        {"group_size": 16, "convrot_groupsize": 16},
        {
            "weight": ("I8", (8, 16)),
            "weight_s_rel": ("F8_E4M3", (8, 2)),
            "weight_s_channel": ("F32", (8,)),
            "weight_codebook": ("F32", (16,)),
            "weight_correction": ("F32", (2, 8)),
        },
    ),
    "convrot_w4a4": (
        {"convrot_groupsize": 16},
        {"weight": ("I8", (8, 16)), "weight_scale": ("F32", (8,))},
    ),
    "int8_blockwise": ({}, {"weight": ("I8", (8, 32)), "weight_scale": ("F32", (1, 1))}),
    "int8_tensorwise": (
        {"convrot": True, "convrot_groupsize": 16},
        {"weight": ("I8", (8, 32)), "weight_scale": ("F32", (8, 1))},
    ),
    "mxfp8": ({}, {"weight": ("F8_E4M3", (8, 32)), "weight_scale": ("F8_E8M0", (128, 4))}),
    "nvfp4": (
        {},
        {
            "weight": ("U8", (8, 16)),
            "weight_scale": ("F8_E4M3", (128, 4)),
            "weight_scale_2": ("F32", ()),
        },
    ),
    "svdquant_w4a4": (
        {},
        {
            "weight": ("I8", (8, 64)),
            "weight_scale": ("F16", (2, 8)),
            "proj_down": ("F16", (128, 4)),
            "proj_up": ("F16", (8, 4)),
            "smooth_factor": ("F16", (128,)),
        },
    ),
}


def _seed(tensors: Mapping[str, Entry], config: Any = None, metadata: Any = None) -> bytes:
    about = {"config": config or {}, "tensors": tensors}
    return json.dumps(about | ({"metadata": metadata} if metadata else {})).encode()


def _stated(method: str, **block: Any) -> dict[str, Any]:
    return {"quantization_config": {"quant_method": method, **block}}


def of_encodings() -> dict[str, bytes]:
    """A small layer of each encoding that safetensors hold, as the benchmarks have it."""
    from benchmarks.cases import CASES

    found = {}
    for case in CASES.values():
        layer = case.make(*_SIZES)
        if layer.container == "safetensors" and case.encoding not in found:
            found[case.encoding] = _of_layer(layer)
    return found


def _of_layer(layer: Layer) -> bytes:
    """Settings of a layer, which are small, with their numbers; of the others the shapes."""
    from benchmarks.models import safetensors_header

    tensors = json.loads(safetensors_header(layer, 1)[8:])
    metadata = tensors.pop("__metadata__")
    for (name, entry), stored in zip(list(tensors.items()), layer.entries, strict=True):
        data = stored.array.tobytes() if stored.array.nbytes <= _MOST_SETTING else b""
        tensors[name] = [entry["dtype"], entry["shape"], *([data.hex()] if any(data) else [])]
    return json.dumps({"config": layer.config, "tensors": tensors, "metadata": metadata}).encode()


def seeds() -> dict[str, bytes]:
    """What `of_encodings` has, and layouts besides as their pages in docs/formats have them."""
    comfy = {}
    for kind, (options, parts) in _COMFY.items():
        marks = {"format_version": "1.0", "layers": {"a": {"format": kind, **options}}}
        tensors = {f"a.{name}": entry for name, entry in parts.items()}
        comfy[f"comfy-{kind}"] = _seed(tensors, None, {"_quantization_metadata": json.dumps(marks)})
    sparse: dict[str, Entry] = {
        "a.compressed": ("I8", (8, 16)),
        "a.bitmask": ("U8", (8, 4)),
        "a.weight_scale": ("F32", (8, 1)),
        "a.shape": ("I64", (2,)),
    }
    turned: dict[str, Entry] = {
        "a.weight": ("I8", (8, 32)),
        "a.weight_scale": ("F32", (8, 1)),
        "a.bias": ("BF16", (8,)),
        "a.v_input.weight": ("F32", (16, 16)),
        "a.v_input.perm": ("I64", (16,)),
        "a.u_output.weight": ("F64", (8, 8)),
    }
    apply = {"targets": ["re:a$"], "inverse": False, "ignore": ["h"]}
    groups = {
        "v": {"type": "hadamard", "randomize": True, "apply": [{**apply, "location": "input"}]},
        "u": {"type": "random-matrix", "apply": [{**apply, "location": "output"}]},
    }
    nunchaku: dict[str, Entry] = {
        "mlp_fc2.qweight": ("I8", (128, 64)),
        "mlp_fc2.wscales": ("BF16", (2, 128)),
        "mlp_fc2.smooth": ("BF16", (128,)),
        "mlp_fc2.lora_down": ("BF16", (128, 16)),
        "mlp_fc2.lora_up": ("BF16", (128, 16)),
        "mlp_fc2.bias": ("BF16", (128,)),
    }
    nunchaku_fp4: dict[str, Entry] = {
        "a.qweight": ("I8", (128, 64)),
        "a.wscales": ("F8_E4M3", (8, 128)),
        "a.wcscales": ("F16", (128,)),
        "a.wtscale": ("F16", (1,)),
        "a.smooth_factor": ("F16", (128,)),
        "a.bias": ("F16", (128,)),
    }
    nunchaku_w4a16: dict[str, Entry] = {
        "a.qweight": ("I32", (4, 32)),
        "a.wscales": ("BF16", (16, 16)),
        "a.wzeros": ("BF16", (16, 16)),
    }
    transform = _stated(_CT, transform_config={"config_groups": groups})
    return {
        **of_encodings(),
        **comfy,
        "ct-sparse": _seed(sparse, _stated(_CT)),
        "ct-transform": _seed(turned, transform),
        "gemma": _seed(
            {"a.weight": ("U8", (8, 16)), "a.weight_scale": ("F32", (8, 1))}, _stated("gemma")
        ),
        "int8-block": _seed(
            {"a.weight": ("I8", (136, 160)), "a.weight_scale_inv": ("F32", (2, 2))},
            _stated("blockwise_int8"),
        ),
        "modelslim": _seed(
            {
                "a.weight": ("I8", (8, 8)),
                "a.weight_scale": ("F32", (8, 1)),
                "a.weight_offset": ("F32", (8, 1)),
            },
            {"quantize": "w8a8"},
        ),
        "nunchaku-int4": _seed(nunchaku),
        "nunchaku-fp4": _seed(nunchaku_fp4, {"quantization_config": {"method": "svdquant"}}),
        "nunchaku-w4a16": _seed(nunchaku_w4a16),
        "nvfp4-e5m3": _seed(
            {"a.weight_packed": ("U8", (8, 16)), "a.weight_scale": ("U8", (8, 2))},
            _stated("auto-round", data_type="nvfp4_v2"),
        ),
        "sdnq-across": _seed(
            {
                "a.weight": ("I8", (16, 32)),
                "a.scale": ("F32", (1, 32)),
                "a.svd_up": ("BF16", (2, 32)),
                "a.svd_down": ("BF16", (16, 2)),
            },
            _stated("sdnq", weights_dtype="int8", use_quantized_matmul=True),
        ),
        "sdnq-conv": _seed(
            {
                "a.weight": ("U8", (288,)),
                "a.scale": ("F32", (8, 2, 1, 3, 3)),
                "a.zero_point": ("F32", (8, 2, 1, 3, 3)),
            },
            _stated("sdnq", weights_dtype="uint4", quant_conv=True),
        ),
        "sdnq-svd": _seed(
            {
                "a.weight": ("U8", (16, 5)),
                "a.scale": ("F32", (8, 2, 1)),
                "a.zero_point": ("F32", (8, 2, 1)),
                "a.svd_up": ("BF16", (8, 2)),
                "a.svd_down": ("BF16", (2, 16)),
            },
            _stated(
                "sdnq",
                weights_dtype="uint4",
                modules_dtype_dict={"minimum_uint5bit": ["a"]},
                use_hadamard=True,
            ),
        ),
        "w4afp8": _seed(
            {"a.weight": ("I8", (8, 64)), "a.weight_scale_inv": ("F32", (8, 1))},
            _stated("w4afp8"),
        ),
    }
