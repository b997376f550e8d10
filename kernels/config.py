"""What `config.json` says of encoded weights, of loaders that take several encoders' layouts.

An encoder's `config_X(settings, kept, dtype)` gives the keys of `config.json`: `kept` are the
modules of matrices that stay as they are, `dtype` their number format in torch's spelling. Sources:
transformers 5.23 `utils/quantization_config.py`, compressed-tensors 0.20
`quantization/quant_config.py`, mlx-lm `utils.py` (`save_config`, `load_model`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Kept = Sequence[str]
Config = dict[str, Any]


def quantization(**block: object) -> Config:
    """A block that transformers reads."""
    return {"quantization_config": block}


def compressed_tensors(form: str, kept: Kept, activations: str = "", **weights: object) -> Config:
    """One `config_group` for all linear layers, in compressed-tensors' format `form`.

    With `activations`, "int" or "float", a loader quantises what goes in, token by token.
    """
    usual = {"num_bits": 8, "type": "float", "symmetric": True, "dynamic": False}
    inputs = usual | {"type": activations, "dynamic": True, "strategy": "token"}
    group = {
        "targets": ["Linear"],
        "weights": usual | weights,
        "input_activations": inputs if activations else None,
        "output_activations": None,
        "format": form,
    }
    return quantization(
        quant_method="compressed-tensors",
        format=form,
        quantization_status="compressed",
        config_groups={"group_0": group},
        ignore=list(kept),
        kv_cache_scheme=None,
    )


def mlx(mode: str, bits: int, group: int, kept: Kept) -> Config:
    """MLX's block, under both of its names: `false` for modules that are kept."""
    block: Config = {"group_size": group, "bits": bits, "mode": mode, **dict.fromkeys(kept, False)}
    return {"quantization": block, "quantization_config": block}
