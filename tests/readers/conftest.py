from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from anamnesis.readers.model import load_model
from anamnesis.readers.schemes.base import Tensor


@pytest.fixture
def tensors_of(tmp_path: Path) -> Any:
    """What a checkpoint of these arrays and this `quantization_config` is read as."""

    def read(parts: Mapping[str, Any], about: Any = None) -> dict[str, Any]:
        save_file(dict(parts), tmp_path / "model.safetensors")
        if about is not None:
            (tmp_path / "config.json").write_text(json.dumps({"quantization_config": about}))
        model = load_model(str(tmp_path))
        return {t.name: t for t in model.tensors}

    return read


@pytest.fixture
def one(tensors_of: Any) -> Any:
    """The only tensor of such a checkpoint."""

    def read(parts: Mapping[str, Any], about: Any = None) -> Tensor:
        (only,) = tensors_of(parts, about).values()
        assert isinstance(only, Tensor)
        return only

    return read


@pytest.fixture
def shards(tmp_path: Path, write_safetensors: Callable[..., Path]) -> dict[str, bytes]:
    """Two shards of 4 MiB and their index; tensor b is FP8 with its scale in the other shard."""
    rng = np.random.default_rng(3)
    codes = rng.integers(0, 120, (2048, 2048), np.uint8).tobytes()
    scale = np.float32(0.5).tobytes()
    dense = rng.random((1024, 1024), np.float32).tobytes()
    first = {"a": ("F32", (1024, 1024), dense), "b.weight_scale": ("F32", (), scale)}
    second = {"b.weight": ("F8_E4M3", (2048, 2048), codes)}
    names: dict[str, dict[str, Any]] = {"m-1.safetensors": first, "m-2.safetensors": second}
    index = {"weight_map": {t: n for n, tensors in names.items() for t in tensors}}
    files = {
        n: write_safetensors(tmp_path / n, tensors).read_bytes() for n, tensors in names.items()
    }
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "config.json").write_text(
        json.dumps({"quantization_config": {"quant_method": "fp8"}})
    )
    for name in ("model.safetensors.index.json", "config.json"):
        files[name] = (tmp_path / name).read_bytes()
    return files
