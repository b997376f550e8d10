"""Every truncation, and a sample of all one-byte substitutions, of one tiny file of each kind.

Whatever the bytes say, opening and resolving gives a model or one of this package's errors.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from anamnesis.errors import AnamnesisError
from anamnesis.limits import Limits
from anamnesis.readers import open_container
from anamnesis.readers.schemes import resolve
from anamnesis.readers.schemes.base import Ledger


def safetensors_seed(build: Any) -> bytes:
    header = {
        "__metadata__": {"k": "é"},
        "w": {"dtype": "F8_E4M3", "shape": [2, 2], "data_offsets": [0, 4]},
        "w_scale": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]},
    }
    return bytes(build.safetensors(header, bytes(8)))


def gguf_seed(build: Any) -> bytes:
    keys = [
        build.key_value("general.alignment", 4, b"\x20\0\0\0"),
        build.key_value("s", 8, build.string("é")),
        build.key_value("a", 9, build.array(8, 2, build.string("a") + build.string(""))),
        build.key_value("n", 9, build.array(2, 2, bytes(4))),
        build.key_value("b", 7, b"\1"),
    ]
    tensors = [build.tensor("q", [32, 2], 8, 0), build.tensor("w", [3], 0, 96)]
    return bytes(build.gguf(keys, tensors, bytes(96 + 12)))


@pytest.mark.parametrize("make", [safetensors_seed, gguf_seed], ids=["safetensors", "gguf"])
def test_no_foreign_exception(
    make: Callable[[Any], bytes], build: Any, mutants: Any, tmp_path: Path
) -> None:
    seed = make(build)
    path = str(tmp_path / "mutant")
    named = f"{path}.{make.__name__.partition('_')[0]}"
    limits = Limits()
    accepted = 0
    messages: list[str] = []
    for mutant in mutants.written(named, seed):
        try:
            resolve(Ledger(open_container(named, limits)))
        except AnamnesisError as error:
            messages.append(str(error))
        else:
            accepted += 1
            assert accepted > 1 or mutant is seed
    assert accepted > 100
    assert len(messages) > len(seed)
    assert all(named in message and "\n" not in message for message in messages)
