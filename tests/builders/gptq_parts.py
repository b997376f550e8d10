"""The stored parts of layers as GPTQ writes them, and what the scheme makes of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from small_models import ledger_of

from anamnesis.readers.base import Tensor
from anamnesis.readers.schemes import resolve
from anamnesis.readers.schemes.base import Ledger

Shapes = dict[str, tuple[str, tuple[int, ...]]]


def module(
    inputs: int = 256, outputs: int = 96, bits: int = 4, group: int = 64, **other: Any
) -> Shapes:
    """The stored parts of a layer; `other` replaces or, with None, removes some."""
    groups = -(-inputs // group)
    parts: Shapes = {
        "qweight": ("I32", (-(-inputs * bits // 32), outputs)),
        "qzeros": ("I32", (groups, -(-outputs * bits // 32))),
        "scales": ("F16", (groups, outputs)),
        "g_idx": ("I32", (inputs,)),
    }
    parts |= other
    return {role: part for role, part in parts.items() if part}


def ledger(layers: Mapping[str, Shapes], config: Any = None, file: str = "config.json") -> Ledger:
    parts = {
        f"{name}.{role}": part for name, layer in layers.items() for role, part in layer.items()
    }
    if file == "config.json":
        return ledger_of(parts, config)
    return ledger_of(parts, configs={} if config is None else {file: config})


def resolved(parts: Shapes, config: Any = None, file: str = "config.json") -> Tensor:
    book = ledger({"model.q_proj": parts}, config, file)
    resolve(book)
    assert not list(book.free())
    return book.tensors["model.q_proj.weight"]


GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 64, "desc_act": False, "sym": True}


def layer(inputs: int, outputs: int, group: int) -> dict[str, Any]:
    rng = np.random.default_rng(inputs)
    groups = -(-inputs // group) if inputs else 0
    return {
        "a.qweight": rng.integers(-99, 99, (inputs // 8, outputs), dtype=np.int32),
        "a.qzeros": rng.integers(-99, 99, (groups, -(-outputs // 8)), dtype=np.int32),
        "a.scales": rng.standard_normal((groups, outputs)).astype(np.float16),
        "a.g_idx": np.arange(inputs, dtype=np.int32) // group,
        "a.bias": rng.standard_normal(outputs).astype(np.float16),
    }
