"""Tests that need torch, which `make test-oracles` installs: only where they are asked for."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Importing these files takes half a minute, which runs of `not oracle` need not wait for."""
    unasked = config.option.markexpr == "not oracle" or find_spec("torch") is None
    return True if unasked and collection_path.name.startswith("test_") else None
