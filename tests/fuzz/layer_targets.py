"""What is fuzzed of the schemes: names, dtypes, shapes and configuration of a layer of each family.

An input is JSON, `{"config": …, "tensors": {name: [dtype, shape]}, "metadata": {key: text}}`, the
last if the file has some; numbers are zeros. A family takes such a layer, leaves it to another, or
refuses it by a documented error.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import vendor_seeds

from anamnesis.limits import Limits
from anamnesis.readers.dtypes import DTYPES
from anamnesis.readers.model import load_model

LIMITS = Limits(max_single_alloc=64 << 20, max_total_bytes=1 << 24, max_items=10_000)
_MOST_TENSORS, _MOST_BYTES = 64, 1 << 18
Guard = Callable[[str], AbstractContextManager[None]]
Tensors = Mapping[str, tuple[str, tuple[int, ...]]]


def check_layers(guard: Guard, root: Path, data: bytes) -> None:
    """Open a folder of such tensors under such a configuration."""
    about: Any = None
    with suppress(ValueError, RecursionError):
        about = json.loads(data)
    file = _file(about) if isinstance(about, dict) else None
    if file is None:
        return
    folder = root / "layered"
    folder.mkdir(exist_ok=True)
    (folder / "model.safetensors").write_bytes(file)
    (folder / "config.json").write_text(json.dumps(about.get("config", {})))
    with guard(str(folder)):
        load_model(str(folder), limits=LIMITS)


def _file(about: dict[str, Any]) -> bytes | None:
    """A safetensors file of zeros; None for what is no list of tensors, or a large one."""
    tensors, metadata = about.get("tensors"), about.get("metadata")
    if not isinstance(tensors, dict) or len(tensors) > _MOST_TENSORS:
        return None
    header: dict[str, Any] = {}
    at = 0
    if isinstance(metadata, dict):
        header["__metadata__"] = {key: str(text) for key, text in metadata.items()}
    for name, entry in tensors.items():
        if not isinstance(entry, list) or len(entry) != 2:
            return None
        dtype, shape = entry
        row = DTYPES.get(dtype) if isinstance(dtype, str) else None
        if row is None or not isinstance(shape, list) or len(shape) > 8:
            return None
        if not all(type(size) is int and 0 <= size <= _MOST_BYTES for size in shape):
            return None
        nbytes = math.prod(shape) * row.bits // 8
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + nbytes]}
        at += nbytes
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(at) if at <= _MOST_BYTES else None


def _seed(tensors: Tensors, method: str = "", **block: Any) -> bytes:
    stated = {"quantization_config": {"quant_method": method, **block}} if method else dict(block)
    return json.dumps({"config": stated, "tensors": tensors}).encode()


def _ct(**weights: Any) -> dict[str, Any]:
    return {"config_groups": {"g": {"targets": ["Linear"], "weights": weights}}, "ignore": ["h"]}


def seeds() -> dict[str, bytes]:
    """One of each family, as its page in docs/formats has it."""
    words, scales = ("I32", (8, 4)), ("BF16", (8, 1))
    gptq: Tensors = {
        "a.qweight": ("I32", (4, 8)),
        "a.qzeros": ("I32", (1, 1)),
        "a.scales": ("F16", (1, 8)),
        "a.g_idx": ("I32", (32,)),
    }
    awq: Tensors = {
        "a.qweight": ("I32", (32, 1)),
        "a.qzeros": ("I32", (1, 1)),
        "a.scales": ("F16", (1, 8)),
    }
    packed: Tensors = {"a.weight_packed": words, "a.weight_scale": scales}
    shape: Tensors = {"a.weight_shape": ("I64", (2,)), "a.weight_zero_point": ("I32", (1, 1))}
    nv: Tensors = {"a.weight_packed": ("U8", (8, 16)), "a.weight_scale": ("F8_E4M3", (8, 2))}
    mlx: Tensors = {
        "a.weight": ("U32", (8, 8)),
        "a.scales": ("BF16", (8, 1)),
        "a.biases": ("BF16", (8, 1)),
    }
    hqq: Tensors = {
        "a.W_q": ("U8", (4, 32)),
        "a.scale": ("F16", (1, 32)),
        "a.zero": ("F16", (1, 32)),
        "a.nbits": ("I64", ()),
        "a.shape": ("I64", (2,)),
    }
    hqq_coded = {n: t for n, t in hqq.items() if n not in ("a.scale", "a.zero")}
    hqq_coded["a.axis"] = ("I32", ())
    for side, steps in (("scale", (1, 8)), ("zero", ())):
        hqq_coded[f"a.{side}_q"] = ("U8", (4, 8))
        hqq_coded |= {f"a.meta_{side}.{part}": ("F16", steps) for part in ("scale", "zero")}
    return {
        **vendor_seeds.seeds(),
        "awq": _seed(awq, "awq", bits=4, group_size=32, version="gemm", zero_point=True),
        "awq-stream": _seed(
            {
                "a.qweight": ("I32", (64, 15)),
                "a.qzeros": ("I32", (2, 15)),
                "a.scales": ("F16", (2, 96)),
            },
            "auto-round",
            bits=5,
            group_size=32,
            packing_format="auto_round:auto_awq",
        ),
        "awq-llm": _seed(
            {
                "a.qweight": ("I16", (2, 128)),
                "a.scales": ("F16", (8, 8)),
                "a.scaled_zeros": ("F16", (8, 8)),
            }
        ),
        "bitnet": _seed(
            {"a.weight": ("U8", (2, 8)), "a.weight_scale": ("BF16", (1,))},
            "bitnet",
            linear_class="bitlinear",
        ),
        "bnb": _seed({"a.weight": ("I8", (8, 8)), "a.SCB": ("F32", (8,))}, "bitsandbytes"),
        "ct-int": _seed(
            {"a.weight": ("I8", (8, 32)), "a.weight_scale": ("F32", (8, 1))},
            "compressed-tensors",
            **_ct(num_bits=8, type="int", symmetric=True),
        ),
        "ct-packed": _seed(
            {**packed, **shape},
            "compressed-tensors",
            **_ct(num_bits=4, type="int", symmetric=False, group_size=32),
        ),
        "fp8": _seed(
            {"a.weight": ("F8_E4M3", (8, 8)), "a.weight_scale_inv": ("F32", (1, 1))},
            "fp8",
            weight_block_size=[128, 128],
        ),
        "gemma": _seed({"a.weight": ("U8", (8, 16)), "a.weight_scale": ("F32", (8, 1))}, "gemma"),
        "gptq": _seed(gptq, "gptq", bits=4, group_size=32, sym=True, checkpoint_format="gptq"),
        "hqq": _seed(hqq, "hqq"),
        "hqq-coded": _seed(hqq_coded, "hqq"),
        "marlin": _seed(
            {"a.B": ("I32", (8, 256)), "a.s": ("F16", (1, 128))}, "gptq", is_marlin_format=True
        ),
        "mlx": _seed(mlx, quantization={"bits": 4, "group_size": 64, "mode": "affine"}),
        "modelopt": _seed(
            {
                **{n.replace("_packed", ""): t for n, t in nv.items()},
                "a.weight_scale_2": ("F32", ()),
            },
            "modelopt",
            quant_algo="NVFP4",
        ),
        "modelslim": _seed(
            {
                "a.weight": ("I8", (8, 8)),
                "a.weight_scale": ("F32", (8, 1)),
                "a.weight_offset": ("F32", (8, 1)),
            },
            quantize="w8a8",
        ),
        "mxfp4": _seed(
            {
                "e.gate_up_proj_blocks": ("U8", (2, 8, 1, 16)),
                "e.gate_up_proj_scales": ("U8", (2, 8, 1)),
            },
            "mxfp4",
        ),
        "nvfp4": _seed(
            {**nv, "a.weight_global_scale": ("F32", (1,))},
            "compressed-tensors",
            **_ct(num_bits=4, type="float", group_size=16),
        ),
        "nvfp4-e5m3": _seed(
            {"a.weight_packed": ("U8", (8, 16)), "a.weight_scale": ("U8", (8, 2))},
            "auto-round",
            data_type="nvfp4_v2",
        ),
        "nvfp4-turned": _seed(
            {
                "e.down_proj": ("U8", (2, 8, 8)),
                "e.down_proj_weight_scale": ("F8_E4M3", (2, 1, 8)),
                "e.down_proj_weight_scale_2": ("F32", (2,)),
            },
            "modelopt",
            quant_algo="NVFP4",
        ),
        "quanto": _seed(
            {"a.weight._data": ("I8", (8, 8)), "a.weight._scale": ("F32", (8, 1))}, "quanto"
        ),
        "quark": _seed({"a.weight": ("I32", (32, 1)), "a.weight_scale": ("F32", (1, 8))}, "quark"),
        "torchao": _seed(
            {"a._weight_qdata": ("I8", (8, 8)), "a._weight_scale": ("F32", (8, 1))}, "torchao"
        ),
    }
