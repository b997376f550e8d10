"""Rows C05 and C06: a small address space, and several readers of one bad file at once."""

from __future__ import annotations

import io
import json
import resource
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from anamnesis.errors import AnamnesisError
from anamnesis.limits import Limits
from anamnesis.readers import open_container

SPACE = 512 << 20


def _bombs(build: Any) -> dict[str, bytes]:
    """Small files that announce far more than there is room for, one of each container."""
    huge = {"w": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}
    pickle = b"\x80\x02" + b"]q\x00" + b"(h\x00h\x00l" * 100_000 + b"."
    npy = (
        b"\x93NUMPY\1\0v\0" + b"{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,)}"
    )
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("w.npy", npy.ljust(128) + bytes(200 << 20))
    checkpoint = io.BytesIO()
    with zipfile.ZipFile(checkpoint, "w") as file:
        file.writestr("m/data.pkl", pickle)
    return {
        "header.safetensors": struct.pack("<Q", 1 << 40) + b"{}",
        "shape.safetensors": build.safetensors(huge),
        "string.gguf": build.gguf([build.key_value("k", 8, struct.pack("<Q", 1 << 40))]),
        "array.gguf": build.gguf([build.key_value("k", 9, build.array(0, 1 << 40))]),
        "shape.npy": npy.ljust(128),
        "ratio.npz": archive.getvalue(),
        "memory.pth": checkpoint.getvalue(),
        "legacy.pth": pickle,
        "model.safetensors.index.json": json.dumps({"weight_map": "[" * 100_000}).encode(),
    }


@pytest.fixture(scope="module")
def bombs(build: Any, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("bombs")
    paths = []
    for name, content in _bombs(build).items():
        paths.append(folder / str(len(paths)) / name)
        paths[-1].parent.mkdir()
        paths[-1].write_bytes(content)
    return paths


def _limited() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (SPACE, SPACE))


def test_c05_refused_in_512_mib_of_address_space(bombs: list[Path]) -> None:
    for path in bombs:
        done = subprocess.run(
            [sys.executable, "-m", "anamnesis", "inspect", str(path)],
            capture_output=True,
            text=True,
            timeout=240,
            preexec_fn=_limited,
        )
        assert done.returncode in (3, 5), (path.name, done.returncode, done.stderr)
        assert done.stderr.startswith(("error: FormatError: ", "error: LimitError: "))
        assert done.stderr.count("\n") == 1
        assert path.name in done.stderr


def _told(path: str) -> str:
    try:
        open_container(path, Limits())
    except AnamnesisError as error:
        return f"{type(error).__name__}: {error}"
    return "accepted"


def test_c06_every_reader_of_one_bad_file_is_told_the_same(bombs: list[Path]) -> None:
    pools: list[Callable[..., Any]] = [
        lambda: ThreadPoolExecutor(8),
        lambda: ProcessPoolExecutor(2, mp_context=get_context("spawn")),
    ]
    paths = [str(path) for path in bombs if path.suffix != ".json"]
    alone = [_told(path) for path in paths]
    assert "accepted" not in alone
    for make in pools:
        with make() as pool:
            assert list(pool.map(_told, paths * 2)) == alone * 2
