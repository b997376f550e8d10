"""The table of output formats: layout before data, any window at its offset.

A row's module gives `layout(items, path, max_shard_bytes) -> Layout`, which fixes every byte of
every output file except the values, and `check(path, out_file)`, which reopens a finished file
before it gets its final name.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module

from anamnesis.writers.base import WriterModule


@dataclass(frozen=True, slots=True)
class Writer:
    """A row: the module, the file name ending that means one file, and the dtypes it can store."""

    module: str
    suffix: str
    dtypes: tuple[str, ...]


WRITERS: dict[str, Writer] = {
    "arrow": Writer("arrow", ".arrow", ("bf16", "f16", "f32")),
    "safetensors": Writer("safetensors", ".safetensors", ("bf16", "f16", "f32")),
}


def writer(name: str) -> WriterModule:
    """The module of an output format, imported on first use."""
    module: WriterModule = import_module(f"anamnesis.writers.{WRITERS[name].module}")
    return module
