"""Files that are packed while they are decoded, in a store: the bytes that a disk gets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from buckets import files_in_memory

import anamnesis
from anamnesis.errors import IntegrityError
from anamnesis.limits import MiB
from anamnesis.pipeline import plain_file, task
from anamnesis.writers import arrow_pack, upload

WriteSafetensors = Callable[..., Path]


@pytest.fixture
def model(tmp_path: Path, write_safetensors: WriteSafetensors) -> Path:
    """Buffers that shrink, do not, and only begin to; long rows, and tensors without elements."""
    rng = np.random.default_rng(11)

    def noise(*shape: int) -> Any:
        return rng.integers(0, 1 << 32, shape, np.uint32).view("f4")

    begins = noise(600, 5003)
    begins[0, :40] = 0  # its first bytes shrink; all of it grows
    arrays = {
        "a.zeros": np.zeros((900, 1024), "f4"),
        "b.begins": begins,
        "c.none": np.zeros((0, 4), "f4"),
        "d.row": noise(1, 1_250_000),
        "e.rows": np.zeros((3, 0), "f4"),
        "f.noise": noise(200, 1111),
        "g.one": noise(1),
        "h.even": np.repeat(noise(100, 50), 64, 1),
    }
    path = tmp_path / "model.safetensors"
    write_safetensors(path, {n: ("F32", a.shape, a.tobytes()) for n, a in arrays.items()})
    return path


FORMATS = [
    ("/a.arrow", {"compression": "lz4"}),
    ("/a.arrow", {"compression": "zstd", "dtype": "bf16"}),
    ("/a.parquet", {"compression": "zstd"}),
    ("/a.parquet", {"compression": "none", "dtype": "f16"}),
    ("", {"to": "parquet", "max_shard_size": "3MB"}),
]


@pytest.mark.parametrize(("name", "settings"), FORMATS)
@pytest.mark.parametrize("part", [100_000, MiB])
def test_bytes_are_those_of_a_disk(
    memory: Any,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    settings: dict[str, Any],
    part: int,
) -> None:
    rewinds: list[int] = []
    begin = plain_file.PlainFile._from

    def again(self: Any, offset: int) -> Any:
        rewinds.append(offset)
        return begin(self, offset)

    monkeypatch.setattr(arrow_pack, "_CHUNK_BYTES", 4096)
    monkeypatch.setattr(upload, "PART_BYTES", part)
    monkeypatch.setattr(plain_file.PlainFile, "_from", again)
    settings = {"to": "arrow" if "arrow" in name else "parquet", **settings}
    local = tmp_path / f"out{name}"
    anamnesis.convert(model, local, **settings)
    url = f"memory://out{name}"
    anamnesis.convert(model, url, **settings)
    files = [local] if local.is_file() else list(local.iterdir())
    assert files_in_memory("/out") == {
        str(p)[len(str(tmp_path / "out")) :]: p.read_bytes()
        for p in files
        if "anamnesis" not in p.name
    }
    assert anamnesis.verify(url) == anamnesis.verify(local)
    assert bool(rewinds) == ("arrow" in name)


def test_a_tensor_that_was_changed_in_the_store_is_found(memory: Any, model: Path) -> None:
    for name in ("a.parquet", "a.arrow"):
        to, packed = name[2:], {"compression": "zstd"}
        anamnesis.convert(model, f"memory://out/{name}", to=to, **packed)
        data = memory.store[f"/out/{name}"].getbuffer()
        data[len(data) // 2] ^= 1
        del data
        with pytest.raises(IntegrityError):
            anamnesis.verify(f"memory://out/{name}")


def test_a_pack_that_fails_leaves_nothing(
    memory: Any, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: Any) -> None:
        raise OSError("the line is cut")

    monkeypatch.setattr(task, "import_module", lambda name: type("M", (), {"pack": broken}))
    with pytest.raises(OSError, match="the line is cut"):
        anamnesis.convert(model, "memory://out/a.parquet", to="parquet")
    assert files_in_memory("") == {}
