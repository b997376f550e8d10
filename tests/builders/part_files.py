"""Files of one tensor, made and failing."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from anamnesis.writers import safetensors, writer
from anamnesis.writers.base import Item, OutFile, WriterModule
from anamnesis.writers.part import PartFile

VALUES = np.arange(1000, dtype=np.uint16)
MODULE: WriterModule = writer("safetensors")


def plan(path: Path) -> tuple[OutFile, Any]:
    layout = safetensors.layout([Item("w", (1000,), "BF16", 1000)], path, 1)
    return layout.files[0], layout.places[0][1]


def fill(part: PartFile, slot: Any) -> None:
    """Write the values as a task does: through a descriptor of its own."""
    fd = os.open(part.part, os.O_WRONLY)
    slot.write(fd, 0, VALUES)
    os.close(fd)


def files(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))
