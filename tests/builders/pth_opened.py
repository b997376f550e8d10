"""A checkpoint of given bytes, opened, and the bytes of its tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pth_bytes

from anamnesis.limits import Limits
from anamnesis.readers import open_container
from anamnesis.readers.base import Container
from anamnesis.readers.raw import open_raw
from anamnesis.readers.source import LocalFile

B = pth_bytes


def opened(tmp_path: Path, content: bytes, name: str = "m.pth") -> Container:
    path = tmp_path / name
    path.write_bytes(content)
    return open_container(str(path), Limits())


def values(container: Container, name: str) -> bytes:
    stored = container.stored[name]
    out = np.empty(stored.nbytes, np.uint8)
    with LocalFile(stored.file.path) as file:
        open_raw(stored, file).read_into(0, out)
    return out.tobytes()


def names(tmp_path: Path, entries: Any) -> tuple[list[str], str]:
    """Output names, and all notes, of a checkpoint whose tensors are all one."""
    content = B.pth(B.pickled(B.dict_(entries)), {"0": B.DATA})
    container = opened(tmp_path, content)
    assert all(values(container, name) == B.DATA for name in container.stored)
    return list(container.stored), "; ".join(container.notes)


T = B.tensor(B.storage())


def contents(path: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Dtype, shape and bytes of every tensor of a file."""
    container = open_container(str(path), Limits())
    found = {}
    with LocalFile(path) as file:
        for name, stored in container.stored.items():
            out = np.empty(stored.nbytes, np.uint8)
            open_raw(stored, file).read_into(0, out)
            found[name] = (stored.dtype, stored.shape, out.tobytes())
    return found
