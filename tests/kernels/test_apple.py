"""What macOS has otherwise: its name of the architecture."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest


@pytest.mark.parametrize(
    ("triple", "converts"),
    [
        ("arm64-apple-darwin23.0.0", True),
        ("aarch64-unknown-linux-gnu", True),
        ("x86_64-unknown-linux-gnu", False),
    ],
)
def test_every_arm_converts_binary16(triple: str, converts: bool) -> None:
    vector = pytest.importorskip("anamnesis.kernels.bodies._fp8_vector")
    codegen = SimpleNamespace(magic_tuple=lambda: (triple, "generic", "+neon"))
    context: Any = SimpleNamespace(codegen=lambda: codegen)
    assert ("+f16c" in vector._features(context)) is converts
