"""A model with what analysts look for, and numpy's answers to their questions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import anamnesis


@dataclass(frozen=True)
class Known:
    """A GGUF of SmolLM2 or an FP8 model, with its values by numpy: `to_numpy`, as float32."""

    path: Path
    values: dict[str, Any]

    def zeros(self) -> dict[str, float]:
        """Share of zeros by tensor."""
        return {name: float(np.mean(v == 0)) for name, v in self.values.items()}

    def dead_rows(self) -> list[tuple[str, int]]:
        """Rows of nothing but zeros, of matrices."""
        return sorted(
            (name, int(row))
            for name, v in self.values.items()
            if v.ndim == 2
            for row in np.flatnonzero(~v.any(1))
        )

    def exponents(self) -> dict[int, int]:
        """How often each exponent field of BF16 occurs."""
        bits = np.concatenate([v.reshape(-1).view(np.uint32) >> 16 for v in self.values.values()])
        found, counts = np.unique(bits >> 7 & 255, return_counts=True)
        return dict(zip(found.tolist(), counts.tolist(), strict=True))


def known(path: Path) -> Known:
    model = anamnesis.open_model(path)
    values = {name: t.to_numpy().astype(np.float32) for name, t in model.items() if t.size}
    return Known(path, values)


@pytest.fixture(scope="session")
def gguf(sample: Path) -> Known:
    """Q4_1, Q8_0 and F32 tensors; F32 values are rounded to BF16, as `decode="bf16"` does."""
    import ml_dtypes

    found = known(sample)
    rounded = {n: v.astype(ml_dtypes.bfloat16).astype("<f4") for n, v in found.values.items()}
    return Known(sample, rounded)


@pytest.fixture
def fp8(tmp_path: Path, write_safetensors: Callable[..., Path]) -> Known:
    """Blocks of 128 by 128 with dead rows, and one with a scale a hundred times the others."""
    rng = np.random.default_rng(9)
    entries: dict[str, Any] = {}
    for layer in range(3):
        for module in ("q_proj", "down_proj"):
            codes = rng.integers(0, 0x7F, (300, 400), dtype=np.uint8)
            codes[rng.integers(0, 300, layer)] = 0
            scales = rng.uniform(0.01, 0.02, (3, 4)).astype("<f4")
            if (layer, module) == (1, "down_proj"):
                scales[2, 1] = 1.5
            name = f"model.layers.{layer}.{module}.weight"
            entries[name] = ("F8_E4M3", codes.shape, codes.tobytes())
            entries[f"{name}_scale_inv"] = ("F32", scales.shape, scales.tobytes())
    return known(write_safetensors(tmp_path / "model.safetensors", entries))
