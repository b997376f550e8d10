"""Every truncation, and a sample of all one-byte substitutions, of tiny .npy and .npz files.

Whatever the bytes say, opening, resolving and reading every value gives a model or one of this
package's errors; an archive that is read after all gives the values that it had.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anamnesis.errors import AnamnesisError, IntegrityError
from anamnesis.pipeline.members import check_members
from anamnesis.pipeline.values import to_numpy
from anamnesis.readers.files import Files
from anamnesis.readers.model import load_model

ARRAYS: dict[str, Any] = {"f": np.asfortranarray(np.arange(4, dtype=">i2").reshape(2, 2))}


def npy() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, ARRAYS["f"])
    return buffer.getvalue()


def npz() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **ARRAYS)
    return buffer.getvalue()


def npz_deflated() -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **ARRAYS)
    return buffer.getvalue()


def values(path: str) -> dict[str, bytes]:
    model = load_model(path)
    files = Files()
    try:
        found = {tensor.name: to_numpy(tensor, files).tobytes() for tensor in model.tensors}
        check_members(model.members, (), files)
        return found
    finally:
        files.close()


@pytest.mark.parametrize("make", [npy, npz, npz_deflated])
def test_no_foreign_exception(make: Callable[[], bytes], mutants: Any, tmp_path: Path) -> None:
    seed = make()
    path = str(tmp_path / f"f.{make.__name__.partition('_')[0]}")
    accepted = damaged = 0
    messages: list[str] = []
    for _ in mutants.written(path, seed):
        try:
            found = values(path)
        except AnamnesisError as error:
            messages.append(str(error))
            damaged += type(error) is IntegrityError
        else:
            accepted += 1
            if make is not npy:
                assert list(found.values()) == [ARRAYS["f"].astype("<i2").tobytes()]
    assert accepted > 100
    assert damaged > 1000 or make is npy
    assert len(messages) > len(seed)
    assert all(path in message and "\n" not in message for message in messages)
