"""Fixtures that every room's tests share."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_server import CommandServer, environment
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parents[1]

# Hundreds of tests start a process: it takes half as long when the package is not compiled anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False


# How long an example takes says how busy a machine is.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


def _load_benchmarks() -> None:
    """`benchmarks` is no part of the distribution: tests import it from the checkout."""
    folder = ROOT / "benchmarks"
    spec = importlib.util.spec_from_file_location(
        "benchmarks", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None
    assert spec.loader is not None
    sys.modules["benchmarks"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)


_load_benchmarks()
SAMPLE = ROOT / "configs" / "sample" / "smollm2-135m-layer0.gguf"

Entries = Mapping[str, tuple[str, tuple[int, ...], bytes]]


@pytest.fixture(scope="session")
def sample() -> Path:
    """A real GGUF: Q4_1, Q8_0 and F32 tensors of SmolLM2-135M."""
    return SAMPLE


@pytest.fixture
def write_safetensors() -> Callable[[Path, Entries], Path]:
    """Write a safetensors file from `name -> (dtype, shape, bytes)`, any dtype."""

    def write(path: Path, entries: Entries) -> Path:
        header: dict[str, Any] = {}
        offset = 0
        for name, (dtype, shape, data) in entries.items():
            end = offset + len(data)
            header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, end]}
            offset = end
        text = json.dumps(header).encode()
        with path.open("wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            for _, _, data in entries.values():
                file.write(data)
        return path

    return write


@pytest.fixture
def fp8_model(tmp_path: Path, write_safetensors: Callable[[Path, Entries], Path]) -> Path:
    """FP8 tensors of every granularity, ragged edges and dense neighbours; 30 MiB decoded."""
    rng = np.random.default_rng(7)

    def codes(*shape: int) -> tuple[str, tuple[int, ...], bytes]:
        raw = rng.integers(0, 256, shape, dtype=np.uint8)
        raw[(raw & 0x7F) == 0x7F] = 0  # NaN
        return "F8_E4M3", shape, raw.tobytes()

    def scales(*shape: int) -> tuple[str, tuple[int, ...], bytes]:
        return "F32", shape, rng.random(shape, dtype=np.float32).tobytes()

    entries = {
        "a.weight": codes(1000, 5000),
        "a.weight_scale_inv": scales(8, 40),
        "b.weight": codes(3000, 3333),
        "b.weight_scale": scales(3000, 1),
        "c.weight": codes(700, 300),
        "c.weight_scale": scales(),
        "c.input_scale": scales(),
        "norm.weight": ("F32", (5000,), rng.random(5000, dtype=np.float32).tobytes()),
        "ids": ("I64", (3,), np.arange(3, dtype="<i8").tobytes()),
        "empty": ("BF16", (0, 7), b""),
    }
    return write_safetensors(tmp_path / "model.safetensors", entries)


@pytest.fixture(scope="session")
def command_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandServer]:
    server = CommandServer(tmp_path_factory.mktemp("commands"))
    yield server
    server.close()


@pytest.fixture
def amn(command_server: CommandServer) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command line in a process of its own, anew where a test changes the environment."""

    def run(*arguments: object, **settings: Any) -> subprocess.CompletedProcess[str]:
        code = "from anamnesis.cli.main import main; main()"
        command = [sys.executable, "-c", code, *map(str, arguments)]
        settings = {"capture_output": True, "text": True, "timeout": 240, **settings}
        usual = settings.keys() <= {"capture_output", "text", "timeout", "cwd"}
        if usual and environment() == command_server.environment:
            cwd, timeout = settings.get("cwd"), settings["timeout"]
            return subprocess.CompletedProcess(
                command, *command_server.run(command[3:], cwd, timeout)
            )
        return subprocess.run(command, check=False, **settings)

    return run


@pytest.fixture
def memory() -> Iterator[Any]:
    """fsspec's file system in memory, empty before and after; clients of stores are made anew."""
    import fsspec

    from anamnesis.writers import stores

    fs = fsspec.filesystem("memory")
    fs.store.clear()
    stores.forget()
    yield fs
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes of every read of a local file from here on."""
    counted: list[int] = []
    preadv = os.preadv

    def counting(fd: int, views: list[memoryview], offset: int) -> int:
        got = preadv(fd, views, offset)
        counted.append(got)
        return got

    monkeypatch.setattr(os, "preadv", counting)
    return counted


@pytest.fixture(scope="session")
def page_blocks() -> Callable[[Path], list[tuple[str, str]]]:
    """The code blocks of a Markdown page: the kind and the text of each."""

    def blocks(page: Path) -> list[tuple[str, str]]:
        return re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)

    return blocks


@pytest.fixture(scope="session")
def as_shown() -> Callable[[str], list[str]]:
    """The lines of an output, without what differs from run to run: seconds and rates."""

    def lines(text: str) -> list[str]:
        steady = re.sub(r"in [\d.]+ s \([\d.]+ [kMG]?B/s\)", "in T", text.strip())
        return [line.rstrip() for line in steady.splitlines()]

    return lines


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the commands of the pages need."""
    folder = tmp_path_factory.mktemp("checkout")
    shutil.copytree(ROOT / "configs", folder / "configs")
    return folder
