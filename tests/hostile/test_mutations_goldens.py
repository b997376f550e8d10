"""Changed copies of every golden file: opened and decoded, or refused, and never anything else.

A digit of its header is another, a byte is, or it ends early; so are digits of the JSON files
beside it.
"""

from __future__ import annotations

import os
import random
import shutil
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

import anamnesis
from anamnesis.errors import AnamnesisError

DATA = Path(__file__).parents[1] / "data"
SUFFIXES = (".bin", ".gguf", ".npz", ".onnx", ".pt", ".pth", ".safetensors")
EACH = 60 if os.environ.get("MUTATIONS") == "1" else 2
HEAD = 4096  # bytes, in which headers of small files lie, but for those at the end of a ZIP
MOST = 1 << 20  # elements that are decoded of a mutant


def goldens() -> list[str]:
    found = (p for p in DATA.rglob("*") if p.suffix in SUFFIXES and "expected" not in p.name)
    return sorted(str(path.relative_to(DATA)) for path in found)


def changed(data: bytes, rng: random.Random) -> bytes:
    """The bytes with one change; of what is text, mostly of a digit."""
    digits = [at for at in range(min(HEAD, len(data))) if 48 <= data[at] <= 57]
    kind = rng.random()
    if kind < 0.1:
        return data[: rng.randrange(len(data))]
    if digits and kind < 0.7:
        at, byte = rng.choice(digits), rng.choice(b"0123456789")
    else:
        near = rng.random() < 0.5
        at = rng.randrange(min(HEAD, len(data)) if near else len(data))
        byte = rng.randrange(256)
    return data[:at] + bytes((byte,)) + data[at + 1 :]


def mutants(golden: str, folder: Path) -> Iterator[Path]:
    """A copy of the file and of the JSON files beside it, changed once, time after time."""
    source, rng = DATA / golden, random.Random(zlib.crc32(golden.encode()))
    beside = sorted(source.parent.glob("*.json"))
    for path in beside:
        shutil.copyfile(path, folder / path.name)
    copy = folder / source.name
    for _ in range(EACH):
        target = rng.choice(beside) if beside and rng.random() < 0.2 else source
        shutil.copyfile(source, copy)
        data = target.read_bytes()
        (folder / target.name).write_bytes(changed(data, rng))
        yield copy
        shutil.copyfile(target, folder / target.name)


@pytest.mark.parametrize("golden", goldens())
def test_no_foreign_exception(golden: str, tmp_path: Path) -> None:
    for path in mutants(golden, tmp_path):
        with suppress(AnamnesisError), np.errstate(all="ignore"):
            model = anamnesis.open_model(path)
            for tensor in list(model.values())[:8]:
                if tensor.size < MOST:
                    tensor.to_numpy()


def test_all_goldens_are_found() -> None:
    assert len(goldens()) > 150
