from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
