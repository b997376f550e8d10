"""The stored parts of layers as compressed-tensors writes them."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

Tensors = dict[str, Any]
CT: dict[str, Any] = {"quant_method": "compressed-tensors", "version": "0.20.0"}


def config(bits: int, version: str = "0.20.0", **other: Any) -> dict[str, Any]:
    weights = {"num_bits": bits, "type": "int", "symmetric": True, **other}
    groups = {"group_0": {"targets": ["re:(a+)+$", "Linear"], "weights": weights}}
    return {**CT, "config_groups": groups, "version": version}


def packed(
    rows: int = 16,
    inputs: int = 64,
    bits: int = 4,
    groups: int = 2,
    *,
    padded: bool = False,
    words: int | None = None,
    zeros: int | None = None,
    name: str = "m.q_proj.",
    **other: Any,
) -> Tensors:
    """The tensors of one layer; `zeros` words of zero points."""
    if words is None:
        words = -(-inputs // (32 // bits)) if padded else -(-inputs * bits // 32)
    parts: Tensors = {
        "weight_packed": np.ones((rows, words), np.int32),
        "weight_scale": np.ones((rows, groups), ml_dtypes.bfloat16),
        "weight_shape": np.array([rows, inputs], np.int64),
    }
    if zeros is not None:
        parts["weight_zero_point"] = np.ones((zeros, groups), np.int32)
    return {f"{name}{role}": part for role, part in (parts | other).items() if part is not None}


def int8(rows: int = 16, inputs: int = 64, scale: Any = None, **other: Any) -> Tensors:
    parts: Tensors = {
        "weight": np.ones((rows, inputs), np.int8),
        "weight_scale": np.ones((rows, 1), np.float32) if scale is None else scale,
    }
    return {f"m.q_proj.{role}": part for role, part in (parts | other).items()}
