"""The table of architectures: one module a group of relatives, rows of names and operations.

What is stored under which name, and how its values go over, is as llama.cpp's converter has it
(https://github.com/ggml-org/llama.cpp, conversion/ and gguf-py/gguf/tensor_mapping.py).
"""

from __future__ import annotations

from functools import cache
from importlib import import_module

from anamnesis.names.family import Family

MODULES = (
    "bert",
    "deepseek",
    "gemma",
    "gpt",
    "hybrid",
    "llama",
    "mixture",
    "mamba",
    "others",
    "plamo",
    "qwen",
    "remote",
    "t5",
)


@cache
def families() -> tuple[Family, ...]:
    """Every family, those with more evidence before those with less."""
    found: list[Family] = []
    for name in MODULES:
        found += import_module(f"anamnesis.names.families.{name}").FAMILIES
    return tuple(sorted(found, key=lambda f: (f.name, -f.evidence)))
