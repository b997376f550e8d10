"""What is fuzzed of the schemes: names, dtypes, shapes and configuration of a layer of each family.

An input is JSON, `{"config": …, "tensors": {name: [dtype, shape]}, "metadata": {key: text}}`, the
last if the file has some. Numbers are zeros, or the ones that follow the shape as hexadecimal
digits: settings that are stored as tensors. A family takes such a layer, leaves it to another, or
refuses it by a documented error.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

from anamnesis.limits import Limits
from anamnesis.readers.dtypes import DTYPES
from anamnesis.readers.model import load_model

LIMITS = Limits(max_single_alloc=64 << 20, max_total_bytes=1 << 24, max_items=10_000)
_MOST_TENSORS, _MOST_BYTES = 64, 1 << 18
Guard = Callable[[str], AbstractContextManager[None]]


def check_layers(guard: Guard, root: Path, data: bytes) -> None:
    """Open a folder of such tensors under such a configuration."""
    folder = root / "layered"
    folder.mkdir(exist_ok=True)
    if write_layers(folder, data):
        with guard(str(folder)):
            load_model(str(folder), limits=LIMITS)


def write_layers(folder: Path, data: bytes) -> bool:
    """Write the model of an input; False for what is no list of tensors, or a large one."""
    about: Any = None
    with suppress(ValueError, RecursionError):
        about = json.loads(data)
    file = _file(about) if isinstance(about, dict) else None
    if file is None:
        return False
    (folder / "model.safetensors").write_bytes(file)
    (folder / "config.json").write_text(json.dumps(about.get("config", {})))
    return True


def _file(about: dict[str, Any]) -> bytes | None:
    """A safetensors file, or None."""
    tensors, metadata = about.get("tensors"), about.get("metadata")
    if not isinstance(tensors, dict) or len(tensors) > _MOST_TENSORS:
        return None
    header: dict[str, Any] = {}
    data = bytearray()
    if isinstance(metadata, dict):
        header["__metadata__"] = {key: str(text) for key, text in metadata.items()}
    for name, entry in tensors.items():
        if not isinstance(entry, list) or len(entry) not in (2, 3):
            return None
        dtype, shape, digits = (*entry, "")[:3]
        row = DTYPES.get(dtype) if isinstance(dtype, str) else None
        if row is None or not isinstance(shape, list) or len(shape) > 8:
            return None
        if not all(type(size) is int and 0 <= size <= _MOST_BYTES for size in shape):
            return None
        nbytes = math.prod(shape) * row.bits // 8
        header[name] = {
            "dtype": dtype,
            "shape": shape,
            "data_offsets": [len(data), len(data) + nbytes],
        }
        if len(data) + nbytes > _MOST_BYTES:
            return None
        data += _bytes(digits)[:nbytes].ljust(nbytes, b"\0")
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def _bytes(digits: Any) -> bytes:
    with suppress(TypeError, ValueError):
        return bytes.fromhex(digits)
    return b""
