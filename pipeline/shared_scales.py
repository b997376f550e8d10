"""Layers that a runtime computes as one, and that have one scale of the tensor between them.

vLLM joins queries, keys and values, and gates and ups, and multiplies the whole with the greatest
of their global scales, so that llm-compressor and ModelOpt take one of all of them. The names are
those of llm-compressor (`observers/helpers.py`, `entrypoints/model_free/microscale.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from anamnesis.kernels.encoders import Setting

TOGETHER = (
    ("q_proj", "k_proj", "v_proj"),
    ("q_a_proj", "kv_a_proj_with_mqa"),
    ("wq_a", "wkv_a_with_mqa"),
    ("gate_proj", "up_proj"),
    ("w1", "w3"),
)
Found = Mapping[str, float]


def joined(tensor: str, target: str, settings: Mapping[str, Setting]) -> str:
    """What layers have in common that a runtime computes as one; empty for one by itself."""
    if target != "nvfp4" or settings["style"] == "mlx":  # which has no scale of the tensor
        return ""
    parent, _, layer = tensor.removesuffix(".weight").rpartition(".")
    for names in TOGETHER:
        if layer in names:
            return f"{parent}.{{{','.join(names)}}} {settings['style']}"
    return ""


def shared(found: Iterable[tuple[str, str, Found]]) -> dict[str, Found]:
    """What was found of tensors: of each its name, what it shares its scale with, and numbers.

    Those that share one have the least and the greatest numbers of all of them.
    """
    found = list(found)
    ends: dict[str, list[Found]] = {}
    for _, group, numbers in found:
        if group:
            ends.setdefault(group, []).append(numbers)
    return {name: _extent(ends[group]) if group else each for name, group, each in found}


def _extent(each: Sequence[Found]) -> Found:
    """A NaN in one of them is in all."""
    least, most = (np.array([numbers[key] for numbers in each]) for key in ("least", "most"))
    return {"least": float(least.min()), "most": float(most.max())}
