from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FunctionType, MappingProxyType, ModuleType

import pytest

from anamnesis.kernels import _cache, _native

ROOT = Path(__file__).resolve().parents[2]
PLAIN = MappingProxyType({"NUMBA_DISABLE_JIT": "1"})


@pytest.fixture(autouse=True)
def only_object_code(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """No kernel needs numba to run; what is left to numba is tested in two files."""
    prepare = _native.Kernel._prepare

    def checked(kernel: _native.Kernel, key: _native.Key) -> object:
        call = prepare(kernel, key)
        assert call is not None or _native.DISABLED, f"{kernel.label} has no object code for {key}"
        return call

    if request.path.name not in ("test_native_cache.py", "test_native_calls.py"):
        monkeypatch.setattr(_native.Kernel, "_prepare", checked)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that object code of kernels is kept in."""
    cache = tmp_path / "cache"
    cache.mkdir(mode=0o700)
    monkeypatch.setattr(_cache, "FOLDER", str(cache))
    return cache


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of kernels as they are compiled, which the second time none may be."""
    from anamnesis.kernels.bodies import _compile

    names: list[str] = []
    made = _compile.object_code

    def counted(body: FunctionType, key: object) -> bytes:
        names.append(body.__name__)
        return made(body, key)

    monkeypatch.setattr(_compile, "object_code", counted)
    return names


@pytest.fixture(scope="session")
def ggml() -> ModuleType:
    """`ggml_oracle.py`: ggml's decoders, raw blocks, and the comparison."""
    import ggml_oracle

    return ggml_oracle


@pytest.fixture
def elsewhere(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Run tests of the same file in a process of other settings: the same bits come out.

    `elsewhere(chosen, settings)` takes pytest's `-k` and environment variables; by default kernels
    are plain Python there, on numpy twins of the intrinsics.
    """

    def run(chosen: str, settings: Mapping[str, str] = PLAIN) -> None:
        options = ("-q", "-p", "no:cacheprovider", "-k", chosen)
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *options, str(request.path)],
            env={**os.environ, **settings},
            capture_output=True,
            text=True,
            timeout=240,
            cwd=ROOT,
        )
        assert done.returncode == 0, done.stdout[-3000:]

    return run
