"""Layers of ComfyUI, EXL2, SINQ, 2:4 sparsity and weights in another basis, for `layer_targets`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

Entry = tuple[str, tuple[int, ...]]
_CT = "compressed-tensors"

# ComfyUI's layers by the format of their mark, which stands in the file's metadata.
_COMFY: dict[str, tuple[dict[str, Any], dict[str, Entry]]] = {
    "asym_w4a8_int8": (
        {"group_size": 16},
        {
            "weight": ("I8", (8, 16)),
            "weight_s_rel": ("F8_E4M3", (8, 2)),
            "weight_s_channel": ("F32", (8,)),
            "weight_codebook": ("F32", (16,)),
            "weight_correction": ("F32", (2, 8)),
        },
    ),
    "awq_w4a16": (
        {},
        {
            "weight": ("I8", (8, 64)),
            "weight_scale": ("F16", (2, 8)),
            "weight_zero": ("F16", (2, 8)),
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


def _seed(tensors: Mapping[str, Entry], block: Any = None, metadata: Any = None) -> bytes:
    about = {"config": {} if block is None else {"quantization_config": block}, "tensors": tensors}
    return json.dumps(about | ({"metadata": metadata} if metadata else {})).encode()


def seeds() -> dict[str, bytes]:
    """One of each, as its page in docs/formats has it."""
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
    fp_quant: dict[str, Entry] = {
        "a.qweight": ("U8", (8, 16)),
        "a.scales": ("U8", (8, 1)),
        "a.weight_global_scale": ("BF16", (1,)),
        "a.act_global_scale": ("BF16", (1,)),
        "a.forward_hadamard_matrix": ("BF16", (32, 32)),
        "a.backward_hadamard_matrix": ("BF16", (32, 32)),
    }
    exl2: dict[str, Entry] = {
        "a.q_weight": ("I32", (4, 8)),
        "a.q_groups": ("I16", (2,)),
        "a.q_scale": ("I32", (1, 1)),
        "a.q_scale_max": ("F16", (1,)),
        "a.q_invperm": ("I32", (32,)),
    }
    sinq: dict[str, Entry] = {
        "a.W_q": ("U8", (4, 32)),
        "a.meta.scale": ("F32", (8, 1)),
        "a.meta.zero": ("F32", (8, 1)),
        "a.meta.scale2": ("F32", (1, 64)),
    }
    tiles: dict[str, Entry] = {
        "a.W_q": ("U8", (8, 4)),
        "a.bias": ("F32", (8,)),
        "a.meta.scale": ("F32", (4, 4, 1)),
        "a.meta.zero": ("F32", (4, 4, 1)),
        "a.meta.scale2": ("F32", (4, 1, 4)),
    }
    marlin_24: dict[str, Entry] = {
        "a.weight_packed": ("I32", (1, 128)),
        "a.meta": ("I16", (1, 128)),
        "a.scale_packed": ("F16", (1, 64)),
    }
    four: dict[str, Entry] = {
        "a.quantized_weight_values": ("U8", (128, 32)),
        "a.quantized_weight_scale_factors": ("F8_E4M3", (512,)),
        "a.quantized_weight_amax": ("F32", ()),
        "a.quantized_weight_metadata": ("I64", (6,)),
    }
    first: dict[str, Entry] = {
        "a.qweight": ("I32", (8, 8)),
        "a.scales": ("F32", (8, 1)),
        "a.zeros": ("F32", (8, 1)),
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
    qqq: dict[str, Entry] = {
        "a.B": ("I32", (1, 128)),
        "a.s_channel": ("F32", (1, 64)),
        "a.s_group": ("F16", (1, 64)),
    }
    aux = {name: entry for name, entry in sinq.items() if name[-5:] not in ("scale", ".zero")}
    for side in ("scale", "zero"):
        aux |= {f"a.meta.{side}.x": ("U8", (2, 4))}
        aux |= {f"a.meta.{side}.{part}": ("F32", (1, 4)) for part in "sm"}
    tinygemm = {
        "_type": "Int4TilePackedTo4dTensor",
        "_data": {"block_size": [1, 32], "shape": [15, 60]},
        "_tensor_data_names": ["qdata", "scale_and_zero"],
    }
    transform = {"quant_method": _CT, "transform_config": {"config_groups": groups}}
    return {
        **comfy,
        "ct-sparse": _seed(sparse, {"quant_method": _CT}),
        "ct-transform": _seed(turned, transform),
        "exl2": _seed(exl2, {"quant_method": "exl2"}),
        "fouroversix": _seed(four, {"quant_method": "fouroversix", "scale_rule": "mse"}),
        "gptq-for-llama": _seed(first, {"bits": 4}),
        "marlin-24": _seed(marlin_24, {"quant_method": _CT, "format": "marlin-24"}),
        "nunchaku": _seed(nunchaku),
        "nunchaku-fp4": _seed(nunchaku_fp4, {"method": "svdquant"}),
        "nunchaku-w4a16": _seed(nunchaku_w4a16),
        "qqq": _seed(qqq, {"quant_method": "qqq", "bits": 4}),
        "w4afp8": _seed(
            {"a.weight": ("I8", (8, 64)), "a.weight_scale_inv": ("F32", (8, 1))},
            {"quant_method": "w4afp8"},
        ),
        "sdnq": _seed(
            {
                "a.weight": ("U8", (16, 5)),
                "a.scale": ("F32", (8, 2, 1)),
                "a.zero_point": ("F32", (8, 2, 1)),
                "a.svd_up": ("BF16", (8, 2)),
                "a.svd_down": ("BF16", (2, 16)),
            },
            {
                "quant_method": "sdnq",
                "weights_dtype": "uint4",
                "modules_dtype_dict": {"minimum_uint5bit": ["a"]},
                "use_hadamard": True,
            },
        ),
        "sinq-aux": _seed(aux, {"quant_method": "sinq", "method": "sinq", "nbits": 4}),
        "sinq-table": _seed(sinq, {"quant_method": "sinq", "method": "sinq_nf4", "nbits": 4}),
        "sinq-2d": _seed(tiles, {"quant_method": "sinq", "method": "sinq", "nbits": 4}),
        "sinq-words": _seed(
            {**sinq, "a.W_q": ("I32", (-(-sinq["a.meta.scale"][1][0] // 5), sinq["a.W_q"][1][1]))},
            {"quant_method": "sinq", "method": "sinq", "nbits": 6},
        ),
        "sinq": _seed(sinq, {"quant_method": "sinq", "method": "sinq", "nbits": 4}),
        "torchao-tinygemm": _seed(
            {
                "a._weight_qdata": ("I32", (2, 2, 32, 1)),
                "a._weight_scale_and_zero": ("BF16", (2, 16, 2)),
            },
            None,
            {"tensor_names": '["a.weight"]', "a.weight": json.dumps(tinygemm)},
        ),
        "fp-quant": _seed(fp_quant, {"quant_method": "fp_quant", "hadamard_group_size": 32}),
    }
