from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def ggml() -> ModuleType:
    """`ggml_oracle.py`: ggml's decoders, raw blocks, and the comparison."""
    path = Path(__file__).with_name("ggml_oracle.py")
    spec = importlib.util.spec_from_file_location("ggml_oracle", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
