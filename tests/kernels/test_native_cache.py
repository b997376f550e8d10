"""Object code of kernels: kept, checked, and not used when anything differs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anamnesis.kernels import _cache, _native, compiling

if os.environ.get("NUMBA_DISABLE_JIT", "0") != "0":
    pytest.skip("nothing is compiled", allow_module_level=True)

BITS = np.arange(0x3F00, 0x3F40, dtype=np.uint16)
pytestmark = pytest.mark.usefixtures("folder")


def decoded() -> Any:
    """What a kernel that was never called before makes of BITS."""
    kernel = _native.Kernel("dense:bf16")
    out = np.empty(BITS.shape, np.uint16)
    kernel(BITS, out)
    assert all(call is not None for call in kernel._calls.values())
    return out


def the_file(folder: Path) -> Path:
    (path,) = folder.glob("*.kernel")
    return path


# ---- what is kept


def test_compiled_once(folder: Path, compiled: list[str]) -> None:
    told: list[str] = []
    with compiling(told.append):
        for _ in range(3):
            np.testing.assert_array_equal(decoded(), BITS)
    assert told == compiled == ["bf16"]
    assert the_file(folder).stat().st_mode & 0o777 == 0o600


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def another_checksum(path: Path) -> None:
    path.write_bytes(b"0" * 32 + path.read_bytes()[32:])


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def link(path: Path) -> None:
    other = path.with_suffix(".elsewhere")
    path.rename(other)
    path.symlink_to(other)


def shared(path: Path) -> None:
    path.chmod(0o620)


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def huge(path: Path) -> None:
    os.truncate(path, 3 << 30)


def another_kernel(path: Path) -> None:
    """A whole file, with a right checksum, of other code: what a copy gone astray leaves."""
    _cache.write("another.kernel", b"\x7fELF of another")
    path.with_name("another.kernel").replace(path)


def of_other_sources(path: Path) -> None:
    """A whole file of the folder of another version."""
    before = _cache.FOLDER
    _cache.FOLDER = str(path.parent.with_name("0123456789abcdef"))
    os.mkdir(_cache.FOLDER, 0o700)
    _cache.write(path.name, b"1\nx")
    Path(_cache.FOLDER, path.name).replace(path)
    _cache.FOLDER = before


DAMAGES = [flip, another_checksum, cut, empty, link, shared, a_folder, pipe, huge]
DAMAGES += [another_kernel, of_other_sources]


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_or_not_ours_is_compiled_again(
    folder: Path, compiled: list[str], damage: Callable[[Path], None]
) -> None:
    decoded()
    damage(the_file(folder))
    np.testing.assert_array_equal(decoded(), BITS)
    assert compiled == ["bf16"] * 2
    if damage is not a_folder:
        np.testing.assert_array_equal(decoded(), BITS)
        assert len(compiled) == 2  # what was wrong was replaced


def test_another_owner_s_file_is_not_run(
    folder: Path, compiled: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded()
    uid = os.getuid()
    monkeypatch.setattr(_cache.os, "getuid", lambda: uid + 1)
    np.testing.assert_array_equal(decoded(), BITS)
    assert compiled == ["bf16"] * 2


def test_another_owner_s_folder_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANAMNESIS_CACHE", str(tmp_path / "a"))
    monkeypatch.setattr(_cache.tempfile, "gettempdir", lambda: str(tmp_path / "b"))
    mine = _cache._folder()
    assert mine is not None
    assert Path(mine).is_relative_to(tmp_path / "a")
    os.chmod(mine, 0o777)
    second = _cache._folder()
    assert second is not None
    assert Path(second).is_relative_to(tmp_path / "b")
    uid = os.getuid()
    monkeypatch.setattr(_cache.os, "getuid", lambda: uid + 1)
    assert _cache._folder() is None


def test_a_folder_above_that_others_may_write_is_no_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Below it another could have put folders of his, or put them there later."""
    above = tmp_path / "above"
    (above / "cache").mkdir(parents=True, mode=0o700)
    monkeypatch.setenv("ANAMNESIS_CACHE", str(above / "cache"))
    monkeypatch.setattr(_cache.tempfile, "gettempdir", lambda: str(above))
    assert Path(str(_cache._folder())).is_relative_to(above / "cache")
    for mode, safe in ((0o777, False), (0o775, False), (0o1777, True), (0o755, True)):
        above.chmod(mode)
        monkeypatch.setattr(_cache, "_is_private_group", lambda gid: False)
        assert (_cache._folder() is not None) is safe, oct(mode)
    above.chmod(0o775)
    monkeypatch.setattr(_cache, "_is_private_group", lambda gid: True)
    assert _cache._folder() is not None


@pytest.mark.parametrize("level", ["base", "kernels", "digest"])
def test_another_s_folder_below_the_temporary_one_is_no_place(
    level: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else made the fallback before, or a part of it, for all to write."""
    monkeypatch.setenv("ANAMNESIS_CACHE", "/proc/nowhere")
    monkeypatch.setattr(_cache.tempfile, "gettempdir", lambda: str(tmp_path))
    mine = Path(str(_cache._folder()))
    planted = {"base": mine.parents[1], "kernels": mine.parent, "digest": mine}[level]
    uid, real = os.getuid(), os.lstat

    def lstat(path: str) -> os.stat_result:
        status = real(path)
        theirs = str(path) == str(planted)
        return os.stat_result([*status[:4], uid + 1 if theirs else status.st_uid, *status[5:10]])

    monkeypatch.setattr(_cache.os, "lstat", lstat)
    assert _cache._folder() is None


def test_links_on_the_way_count_with_what_they_lead_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    (tmp_path / "to").symlink_to("scratch")
    monkeypatch.setenv("ANAMNESIS_CACHE", str(tmp_path / "to"))
    monkeypatch.setattr(_cache.tempfile, "gettempdir", lambda: "/proc/nowhere")
    assert _cache._folder() is not None
    scratch.chmod(0o777)
    assert _cache._folder() is None
    scratch.chmod(0o700)
    (tmp_path / "to").unlink()
    (tmp_path / "to").symlink_to("to")
    assert _cache._folder() is None


def test_a_new_version_removes_what_is_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = tmp_path / "cache" / "kernels"
    old, fresh, other = kernels / "0123456789abcdef", kernels / ("0" * 16), kernels / "notes"
    for folder in (old, fresh, other, tmp_path / "elsewhere"):
        folder.mkdir(parents=True)
        (folder / "a.kernel").touch()
    (kernels / "fedcba9876543210").symlink_to(tmp_path / "elsewhere")
    for folder in (old, other, tmp_path / "elsewhere"):
        os.utime(folder, (0, 0))
    monkeypatch.setenv("ANAMNESIS_CACHE", str(tmp_path / "cache"))
    mine = _cache._folder()
    assert {p.name for p in kernels.iterdir()} == {
        *("0" * 16, "notes", "fedcba9876543210", Path(str(mine)).name)
    }
    assert (tmp_path / "elsewhere" / "a.kernel").exists()
    os.utime(fresh, (0, 0))
    assert _cache._folder() == mine
    assert fresh.exists()  # only when there is a new version


def test_nowhere_to_keep_it(compiled: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_cache, "FOLDER", None)
    np.testing.assert_array_equal(decoded(), BITS)
    monkeypatch.setattr(_cache, "FOLDER", "/nonexistent")
    np.testing.assert_array_equal(decoded(), BITS)
    assert len(compiled) == 2


@pytest.mark.parametrize("what", ["cpu", "features", "setting", "numba", "python", "numpy"])
def test_another_compiler_is_another_name(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def name() -> str:
        _native._toolchain.cache_clear()
        return _native.file_name("dense:bf16", "()")

    before, features = name(), _native.binding.get_host_cpu_features()
    with monkeypatch.context() as patch:
        if what == "cpu":
            patch.setattr(_native.binding, "get_host_cpu_name", lambda: "another")
        elif what == "features":
            features["another"] = True
            patch.setattr(_native.binding, "get_host_cpu_features", lambda: features)
        elif what == "setting":
            patch.setenv("NUMBA_BOUNDSCHECK", "1")
        elif what == "numba":
            patch.setattr(_native, "_numba_version", lambda: "another")
        elif what == "python":
            patch.setattr(sys, "version", "another")
        else:
            patch.setattr(np, "__version__", "another")
        assert name() != before
    assert name() == before


def test_names_tell_kernels_and_their_arguments_apart() -> None:
    names, square = set(), np.empty((4, 4))
    for kernel in ("dense:bf16", "dense:f16", "_codes:spread-3", "_codes:spread-5"):
        for array in (square, square.astype(np.float32), square[:, :2], square[0]):
            for number in (1, True, 2.0, np.float32(2), (1,)):
                key = _native._take((array, number), [])
                names.add(_native.file_name(kernel, repr(key)))
    assert len(names) == 4 * 4 * 5
    assert all("/" not in name and ":" not in name for name in names)


def test_numba_s_version_is_known_without_numba() -> None:
    from numba import __version__

    assert f'"{__version__}"' in _native._numba_version()


# ---- processes

CODE = """
import sys
import numpy as np
from anamnesis.kernels import dense
out = np.empty(64, np.uint16)
dense._f16(np.arange(0x3C00, 0x3E00, 8, dtype=np.uint16), out)
print(out.tolist(), "numba" in sys.modules)
"""


def test_processes_race_and_the_next_needs_no_numba(tmp_path: Path) -> None:
    environ = {**os.environ, "ANAMNESIS_CACHE": str(tmp_path / "cold")}
    wanted = np.arange(0x3C00, 0x3E00, 8, np.uint16).view(np.float16).astype(np.float32)
    bits = (wanted.view(np.uint32) >> 16).tolist()

    def start() -> subprocess.Popen[str]:
        command = [sys.executable, "-c", CODE]
        return subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True)

    racing = [start() for _ in range(3)]
    found = [process.communicate(timeout=240)[0] for process in racing]
    assert all(text.startswith(str(bits)) for text in found)
    assert [process.returncode for process in racing] == [0] * 3
    assert any(text.endswith("True\n") for text in found)
    assert start().communicate(timeout=240)[0] == f"{bits} False\n"
    assert len(list((tmp_path / "cold").rglob("*.kernel"))) == 1
    assert not list((tmp_path / "cold").rglob("*.part"))


def test_kernels_run_where_objects_are_not_loaded(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On macOS, where none ever was: by numba, to the same bits, and nothing is kept."""
    expected = decoded()
    (kept,) = folder.iterdir()
    kept.unlink()
    monkeypatch.setattr(_native, "LOADS", False)
    monkeypatch.setattr(_native, "_load", pytest.fail)
    kernel = _native.Kernel("dense:bf16")
    out = np.empty(BITS.shape, np.uint16)
    kernel(BITS, out)
    assert out.tolist() == expected.tolist()
    assert list(kernel._calls.values()) == [None]
    assert not list(folder.iterdir())
