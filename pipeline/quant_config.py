"""What a loader has to know of encoded weights: the blocks of `config.json`, by method.

| targets | block |
|---|---|
| `fp8-block` | `quantization_config`: fp8, `weight_block_size`, `modules_to_not_convert` |
| compressed-tensors | `quantization_config`: a `config_group` a target, `ignore` |
| `bnb-*` | `quantization_config`: bitsandbytes, `llm_int8_skip_modules` |
| `nvfp4` modelopt | `quantization_config`: modelopt, `quant_algo`, `exclude_modules` |
| `mxfp4` gpt-oss | `quantization_config`: mxfp4, `modules_to_not_convert` |
| `gptq`, `awq` | `quantization_config` of gptqmodel and AutoAWQ, with what is kept |
| MLX | `quantization`, and the same as `quantization_config`: `false` for what is kept |

Sources: transformers 5.23 `utils/quantization_config.py`, compressed-tensors 0.20
`quantization/quant_config.py`, mlx-lm `utils.py` (`save_config`, `load_model`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from anamnesis.errors import UnsupportedError
from anamnesis.pipeline.targets import Choice, Target

Chosen = Sequence[tuple[str, Choice]]
_Blocks = Callable[[Chosen, str], dict[str, Any]]
_CT_FORMATS = {
    "ct-int-quantized": "int-quantized",
    "ct-pack-quantized": "pack-quantized",
    "fp8-block": "float-quantized",
    "fp8-channel": "float-quantized",
    "fp8-tensor": "float-quantized",
    "mxfp4": "mxfp4-pack-quantized",
    "mxfp8": "mxfp8-quantized",
    "nvfp4": "nvfp4-pack-quantized",
}


def config_blocks(choices: Chosen, dtype: str) -> dict[str, Any]:
    """The keys of `config.json` that speak of the encoded tensors of a model; empty for none.

    `dtype` is the number format of what is kept, in torch's spelling. Raises UnsupportedError for
    targets that no loader takes in one model.
    """
    targets = {str(c.target): c.target for _, c in choices if c.target is not None}
    if not targets:
        return {}
    methods = {_method(target) for target in targets.values()}
    if len(methods) > 1 or (methods != {_ct} and len(targets) > 1):
        raise UnsupportedError(
            f"output.encode: {', '.join(targets)}: no loader takes these in one model; "
            + _advice(list(targets), {target.name for target in targets.values()})
        )
    (method,) = methods
    return method(choices, dtype)


def _advice(targets: Sequence[str], names: set[str]) -> str:
    """What to write in place of targets that no loader takes together.

    Those of one name differ where the settings of some follow what is quantised already.
    """
    if len(names) > 1:
        return "compressed-tensors' targets can be mixed with each other"
    followed = next(text for text in targets if ":" in text)
    return f"{followed}, with the settings of what is quantised already, holds for all of them"


def metadata_blocks(choices: Chosen) -> tuple[tuple[str, str], ...]:
    """What `config_blocks` says, as `__metadata__` of files that have no `config.json` beside them.

    Nothing for targets that no loader takes in one model.
    """
    try:
        blocks = config_blocks(choices, "")
    except UnsupportedError:
        return ()
    key = "quantization" if "quantization" in blocks else "quantization_config"
    return tuple((key, json.dumps(blocks[key])) for key in [key] if key in blocks)


def _method(target: Target) -> _Blocks:
    style = target.settings.get("style")
    return _BY_STYLE[style] if style in _BY_STYLE else _BY_NAME[target.name]


def _module(name: str) -> str:
    return name.removesuffix(".weight")


def _kept(choices: Chosen) -> list[str]:
    """Modules of matrices that stay as they are."""
    return [_module(n) for n, c in choices if c.target is None and n.endswith(".weight") and c.wide]


def _targets(choices: Chosen) -> dict[str, tuple[Target, list[str]]]:
    found: dict[str, tuple[Target, list[str]]] = {}
    for name, choice in choices:
        if choice.target is not None:
            found.setdefault(str(choice.target), (choice.target, []))[1].append(_module(name))
    return found


def _fp8(choices: Chosen, dtype: str) -> dict[str, Any]:
    ((target, _),) = _targets(choices).values()
    block = target.settings["block"]
    found: dict[str, Any] = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic"}
    found["weight_block_size"] = [block, block]
    found["modules_to_not_convert"] = _kept(choices)
    return {"quantization_config": found}


def _modelopt(choices: Chosen, dtype: str) -> dict[str, Any]:
    found: dict[str, Any] = {"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 16}
    found |= {"kv_cache_quant_algo": None, "exclude_modules": _kept(choices)}
    return {"quantization_config": {**found, "ignore": found["exclude_modules"]}}


def _mxfp4(choices: Chosen, dtype: str) -> dict[str, Any]:
    found = {"quant_method": "mxfp4", "modules_to_not_convert": _kept(choices)}
    return {"quantization_config": found}


def _gptq(choices: Chosen, dtype: str) -> dict[str, Any]:
    ((target, _),) = _targets(choices).values()
    settings = target.settings
    found: dict[str, Any] = {"quant_method": "gptq", "bits": settings["bits"]}
    found |= {"group_size": settings["group"], "sym": settings["sym"], "desc_act": False}
    found |= {"checkpoint_format": "gptq" if settings["version"] == 1 else "gptq_v2"}
    found |= {"pack_dtype": "int32", "lm_head": False}
    # gptqmodel's rules: a minus leaves the modules alone that a pattern fits.
    kept: dict[str, Any] = {f"-:^{re.escape(module)}$": {} for module in _kept(choices)}
    return {"quantization_config": {**found, "dynamic": kept} if kept else found}


def _awq(choices: Chosen, dtype: str) -> dict[str, Any]:
    ((target, _),) = _targets(choices).values()
    found: dict[str, Any] = {"quant_method": "awq", "bits": 4, "version": "gemm"}
    found |= {"group_size": target.settings["group"], "zero_point": True}
    return {"quantization_config": {**found, "modules_to_not_convert": _kept(choices)}}


def _ct(choices: Chosen, dtype: str) -> dict[str, Any]:
    rows = list(_targets(choices).values())
    alone = len(rows) == 1
    groups = {}
    for number, (target, modules) in enumerate(rows):
        form = _CT_FORMATS[target.name]
        groups[f"group_{number}"] = {
            "targets": ["Linear"] if alone else modules,
            "weights": _ct_weights(target),
            "input_activations": None,
            "output_activations": None,
            "format": form,
        }
    formats = {group["format"] for group in groups.values()}
    found = {
        "quant_method": "compressed-tensors",
        "format": formats.pop() if len(formats) == 1 else "mixed-precision",
        "quantization_status": "compressed",
        "config_groups": groups,
        "ignore": _kept(choices) if alone else [],
        "kv_cache_scheme": None,
    }
    return {"quantization_config": found}


def _ct_weights(target: Target) -> dict[str, Any]:
    settings = target.settings
    found: dict[str, Any] = {"num_bits": 8, "type": "float", "symmetric": True, "dynamic": False}
    if target.name.startswith("ct-"):
        group = settings["group"]
        found |= {"num_bits": settings["bits"], "type": "int", "symmetric": settings["sym"]}
        found |= {"strategy": "group", "group_size": group} if group else {"strategy": "channel"}
    elif target.name == "nvfp4":
        found |= {"num_bits": 4, "strategy": "tensor_group", "group_size": 16}
        found |= {"scale_dtype": "torch.float8_e4m3fn", "zp_dtype": "torch.float8_e4m3fn"}
    elif target.name.startswith("mxfp"):
        found |= {"num_bits": int(target.name[-1]), "strategy": "group", "group_size": 32}
        found |= {"scale_dtype": "torch.uint8", "zp_dtype": "torch.uint8"}
    else:
        found["strategy"] = target.name.removeprefix("fp8-")
        if target.name == "fp8-block":
            found["block_structure"] = [settings["block"]] * 2
    return found


def _bitsandbytes(choices: Chosen, dtype: str) -> dict[str, Any]:
    ((target, _),) = _targets(choices).values()
    four = target.name != "bnb-int8"
    found: dict[str, Any] = {"quant_method": "bitsandbytes", "load_in_4bit": four}
    found |= {"load_in_8bit": not four, "llm_int8_skip_modules": _kept(choices)}
    if four:
        found |= {
            "bnb_4bit_quant_type": target.name.removeprefix("bnb-"),
            "bnb_4bit_use_double_quant": target.settings["nested"],
            "bnb_4bit_compute_dtype": dtype,
            "bnb_4bit_quant_storage": "uint8",
        }
    return {"quantization_config": found}


def _mlx(choices: Chosen, dtype: str) -> dict[str, Any]:
    ((target, _),) = _targets(choices).values()
    mode = target.name.removeprefix("mlx-")
    if mode == "affine":
        found: dict[str, Any] = {"group_size": target.settings["group"]}
        found["bits"] = target.settings["bits"]
    else:
        found = {"group_size": 16 if mode == "nvfp4" else 32, "bits": int(mode[-1])}
    found["mode"] = mode
    found |= dict.fromkeys(_kept(choices), False)
    return {"quantization": found, "quantization_config": found}


# By target, but for the styles of other tools.
_BY_NAME: Mapping[str, _Blocks] = {
    **dict.fromkeys(_CT_FORMATS, _ct),
    "awq": _awq,
    "bnb-fp4": _bitsandbytes,
    "bnb-int8": _bitsandbytes,
    "bnb-nf4": _bitsandbytes,
    "gptq": _gptq,
    "mlx-affine": _mlx,
}
_BY_STYLE: Mapping[object, _Blocks] = {
    "deepseek": _fp8,
    "gpt-oss": _mxfp4,
    "mlx": _mlx,
    "modelopt": _modelopt,
    "transformers": _fp8,
}


def described(config: Mapping[str, Any], choices: Iterable[tuple[str, Choice]]) -> dict[str, Any]:
    """A model's config with what loaders need of its encoded weights."""
    dtype = str(config.get("dtype") or config.get("torch_dtype") or "bfloat16")
    return {**config, **config_blocks(list(choices), dtype)}
