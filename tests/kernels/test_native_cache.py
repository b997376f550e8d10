"""Object code of kernels: kept, checked, not used when anything differs, called as numba is."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anamnesis.kernels import _cache, _entry, _native, _objects, compiling, dense

if os.environ.get("NUMBA_DISABLE_JIT", "0") != "0":
    pytest.skip("nothing is compiled", allow_module_level=True)
from anamnesis.kernels import _compile

BITS = np.arange(0x3F00, 0x3F40, dtype=np.uint16)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    cache = tmp_path / "cache"
    cache.mkdir(mode=0o700)
    monkeypatch.setattr(_cache, "FOLDER", str(cache))
    monkeypatch.setattr(_compile._numba, "FOLDER", None)
    return cache


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of kernels as they are compiled, which the second time none may be."""
    names: list[str] = []
    made = _compile.object_code

    def counted(function: Any, arguments: Any, key: Any) -> bytes:
        names.append(function.__name__)
        return made(function, arguments, key)

    monkeypatch.setattr(_compile, "object_code", counted)
    return names


def decoded() -> Any:
    """What a kernel that was never called before makes of BITS."""
    kernel = _native.Kernel(dense._bf16.__wrapped__)
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
    assert told == compiled == ["_bf16"]
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
    _cache.write("another.kernel", _objects.pack([b"\x7fELF of another"]))
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
    assert compiled == ["_bf16"] * 2
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
    assert compiled == ["_bf16"] * 2


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


def test_the_sizes_in_a_file_are_those_of_its_objects() -> None:
    whole = [b"ab", b"cde"]
    assert _objects._unpack(_objects.pack(whole)) == whole
    for data in (b"", b"\n", b"2 4\nabcde", b"2 2\nabcde", b"-1 6\nabcde", b"x\n", b"0 5\nabcde"):
        assert _objects._unpack(data) == []


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


def test_numba_s_own_files_are_left_alone_where_one_is_no_file(folder: Path) -> None:
    (folder / "numba").mkdir()
    (folder / "numba" / "index.nbi").write_bytes(b"x")
    assert _cache.is_plain()
    os.mkfifo(folder / "numba" / "other.nbi")
    assert not _cache.is_plain()


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
        _objects._compiler.cache_clear()
        return _objects.file_name(dense._bf16.__wrapped__, "()")

    before = name()
    cpu, features = _objects.cpu()
    with monkeypatch.context() as patch:
        if what == "cpu":
            patch.setattr(_objects, "cpu", lambda: ("another", features))
        elif what == "features":
            patch.setattr(_objects, "cpu", lambda: (cpu, f"{features},-avx"))
        elif what == "setting":
            patch.setenv("NUMBA_BOUNDSCHECK", "1")
        elif what == "numba":
            patch.setattr(_objects, "_numba_version", lambda: "another")
        elif what == "python":
            patch.setattr(sys, "version", "another")
        else:
            patch.setattr(np, "__version__", "another")
        assert name() != before
    assert name() == before


def test_names_tell_kernels_and_their_arguments_apart() -> None:
    names = set()
    for kernel in (dense._bf16, dense._f16):
        for dtype in (np.uint16, np.float32):
            for writeable in (True, False):
                array = np.empty(4, dtype)
                array.flags.writeable = writeable
                key = _native._key((array, (1, 2.0)))
                names.add(_objects.file_name(kernel.__wrapped__, _native._signature(key)))
    assert len(names) == 8


def test_numba_s_version_is_known_without_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "version" in _objects._numba_version()
    monkeypatch.setattr(_objects.Path, "with_name", lambda self, name: Path("/nonexistent"))
    assert "numba" in _objects._numba_version()


# ---- what is left to numba


def test_without_object_files_numba_does_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_compile, "object_code", lambda *args: _objects.pack([]))
    kernel = _native.Kernel(dense._bf16.__wrapped__)
    out = np.empty(BITS.shape, np.uint16)
    for _ in range(2):
        kernel(BITS, out)
        np.testing.assert_array_equal(out, BITS)
    assert list(kernel._calls.values()) == [None]


def test_another_numpy_is_left_to_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _entry.fits()
    for field in ("_TYPE", "_DATA", "_NDIM", "_SHAPE", "_STRIDES", "_DESCR", "_FLAGS"):
        with monkeypatch.context() as patch:
            patch.setattr(_entry, field, getattr(_entry, field) + 8)
            assert not _entry.fits.__wrapped__()
    monkeypatch.setattr(_entry, "fits", lambda: False)
    kernel = _native.Kernel(dense._bf16.__wrapped__)
    out = np.empty(BITS.shape, np.uint16)
    kernel(BITS, out)
    np.testing.assert_array_equal(out, BITS)
    assert list(kernel._calls.values()) == [None]


# ---- how it is called


def mixed(first: Any, pair: Any, last: Any, yes: Any, add: Any, by: Any, out: Any) -> None:
    scratch = np.empty(out.shape[0], np.float64)
    for i in range(out.shape[0]):
        scratch[i] = first[i, i] * by + last[0, i, 1]
        if yes:
            scratch[i] += pair[0][i]
    for i in range(out.shape[0]):
        out[i] = scratch[i] + pair[1] + add


def divide(first: Any, second: Any, out: Any) -> None:
    out[0] = first // second


def total(array: Any) -> Any:
    return array.sum()


@pytest.fixture
def anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels of this file are treated like those of the package."""
    for function in (mixed, divide, total):
        monkeypatch.setattr(function, "__module__", "anamnesis.kernels.mixed")
    monkeypatch.setattr(_compile, "_again", lambda function: _compile._numba.jit(function))


def square(order: str) -> Any:
    array = np.arange(64, dtype=np.int32).reshape(8, 8)
    return {"C": array, "F": np.asfortranarray(array.T), "A": np.tile(array, (2, 2))[::2, ::2]}[
        order
    ]


@pytest.mark.usefixtures("anywhere")
@pytest.mark.parametrize("order", ["C", "F", "A"])
@pytest.mark.parametrize("by", [3, 2.5, np.float32(0.1), np.int8(-3), np.uint32(2**31), np.True_])
def test_arguments_arrive(order: str, by: Any) -> None:
    kernel = _native.Kernel(mixed)
    first, second = square(order), np.linspace(0, 1, 8).astype(np.float32)
    second.flags.writeable = False
    last = np.arange(64, dtype=np.int64).reshape(2, 8, 4)[:, ::-1]
    for yes in (True, False):
        out, wanted = np.empty(8), np.empty(8)
        kernel(first, (second, -7), last, yes, np.int16(5), by, out)
        assert [call is not None for call in kernel._calls.values()] == [True]
        mixed(first, (second, -7), last, yes, 5, by, wanted)
        np.testing.assert_array_equal(out, wanted)


@pytest.mark.usefixtures("anywhere")
def test_exceptions_are_numba_s() -> None:
    kernel, out = _native.Kernel(divide), np.zeros(1, np.int64)
    kernel(7, 2, out)
    assert out[0] == 3
    with pytest.raises(ZeroDivisionError):
        kernel(7, 0, out)
    assert all(call is not None for call in kernel._calls.values())


@pytest.mark.usefixtures("anywhere")
def test_results_are_numba_s() -> None:
    kernel = _native.Kernel(total)
    assert kernel(np.arange(5.0)) == 10
    assert list(kernel._calls.values()) == [None]


def test_types_that_kernels_do_not_take() -> None:
    kernel = _native.Kernel(dense._bf16.__wrapped__)
    with pytest.raises(Exception, match="Cannot determine Numba type"):
        kernel(BITS, object())


@pytest.mark.usefixtures("anywhere")
def test_every_call_is_of_the_types_it_was_compiled_for() -> None:
    kernel = _native.Kernel(mixed)
    out, wanted = np.empty(8), np.empty(8)
    pair = (np.linspace(0, 1, 8), -7)
    last = np.arange(64).reshape(2, 8, 4)
    cases: list[tuple[Any, ...]] = [
        (square(order), p, last, yes, 1, by)
        for order in "CA"
        for p in (pair, (pair[0].astype(np.float32), -7))
        for yes, by in ((True, 2.5), (False, 2))
    ]
    for _ in range(2):
        for case in cases:
            kernel(*case, out)
            mixed(*case, wanted)
            np.testing.assert_array_equal(out, wanted)
    assert len(kernel._calls) == len(cases)
    assert None not in kernel._calls.values()


def test_an_array_in_both_orders_is_in_c_order() -> None:
    row = np.ones((1, 5), np.int32)
    assert row.flags.f_contiguous
    assert _native._key((row,)) == _native._key((np.ones((2, 5), np.int32),))


@pytest.mark.usefixtures("anywhere")
def test_numbers_that_do_not_fit_are_not_cut() -> None:
    kernel, out = _native.Kernel(divide), np.zeros(1, np.int64)
    for wrong in (2**63, 2**70):
        kernel(7, 2, out)
        assert out[0] == 3
        with pytest.raises(Exception, match=r"(?i)int"):
            kernel(wrong, 0, out)
        assert out[0] == 3
    kernel(9, 2, out)
    assert out[0] == 4


def test_many_threads_compile_once(compiled: list[str]) -> None:
    kernel = _native.Kernel(dense._bf16.__wrapped__)
    outs = [np.empty(BITS.shape, np.uint16) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda out: kernel(BITS, out), outs))
    assert all((out == BITS).all() for out in outs)
    assert compiled == ["_bf16"]


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
    found = [process.communicate(timeout=100)[0] for process in racing]
    assert all(text.startswith(str(bits)) for text in found)
    assert [process.returncode for process in racing] == [0] * 3
    assert any(text.endswith("True\n") for text in found)
    assert start().communicate(timeout=100)[0] == f"{bits} False\n"
    assert len(list((tmp_path / "cold").rglob("*.kernel"))) == 1
    assert not list((tmp_path / "cold").rglob("*.part"))


def test_a_variant_has_a_name_and_a_file_of_its_own() -> None:
    from anamnesis.kernels._codes import spread

    three, five = spread(3), spread(5)
    assert three is spread(3)
    assert (three.__name__, repr(three)) == ("spread", "<Kernel anamnesis.kernels._codes.spread-3>")
    assert _objects.file_name(three.__wrapped__, "()") != _objects.file_name(five.__wrapped__, "()")
    again = _compile._again(three.__wrapped__)
    assert again is not _compile._again(five.__wrapped__)
    assert again.py_func.__closure__ is not None
