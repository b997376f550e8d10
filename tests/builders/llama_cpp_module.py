"""llama.cpp's own bindings, for tests that do without them where they cannot be loaded."""

from __future__ import annotations

from typing import Any

import pytest


def llama_cpp_or_skip() -> Any:
    """The module; skips the file where it is not installed, or beside another build of ggml."""
    try:
        import llama_cpp
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"llama-cpp-python (docs/gguf-and-hf.md): {error}", allow_module_level=True)
    return llama_cpp
