"""Object code of kernels: kept, checked, not used when anything differs, called as numba is."""

from __future__ import annotations

import contextlib
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anamnesis.kernels import _cache, _native, _objects, compiling

if os.environ.get("NUMBA_DISABLE_JIT", "0") != "0":
    pytest.skip("nothing is compiled", allow_module_level=True)
from anamnesis.kernels.bodies import _compile
from anamnesis.kernels.bodies._jit import jit

BITS = np.arange(0x3F00, 0x3F40, dtype=np.uint16)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    cache = tmp_path / "cache"
    cache.mkdir(mode=0o700)
    monkeypatch.setattr(_cache, "FOLDER", str(cache))
    return cache


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of kernels as they are compiled, which the second time none may be."""
    names: list[str] = []
    made = _compile.object_code

    def counted(body: Any, key: Any) -> bytes:
        names.append(body.__name__)
        return made(body, key)

    monkeypatch.setattr(_compile, "object_code", counted)
    return names


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
        _objects._compiler.cache_clear()
        return _objects.file_name("dense:bf16", "()")

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
    names, square = set(), np.empty((4, 4))
    for kernel in ("dense:bf16", "dense:f16", "_codes:spread-3", "_codes:spread-5"):
        for array in (square, square.astype(np.float32), square[:, :2], square[0]):
            for number in (1, True, 2.0, np.float32(2), (1,)):
                key = _native._take((array, number), [])
                names.add(_objects.file_name(kernel, _native._words(key)))
    assert len(names) == 4 * 4 * 5
    assert all("/" not in name and ":" not in name for name in names)


def test_numba_s_version_is_known_without_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "version" in _objects._numba_version()
    monkeypatch.setattr(_objects.Path, "with_name", lambda self, name: Path("/nonexistent"))
    assert "numba" in _objects._numba_version()


# ---- what is left to numba


def through_numba(kernel: _native.Kernel) -> None:
    out = np.empty(BITS.shape, np.uint16)
    for _ in range(2):
        kernel(BITS, out)
        np.testing.assert_array_equal(out, BITS)
    assert list(kernel._calls.values()) == [None]


@pytest.mark.parametrize("code", [b"", None])
def test_without_an_entry_numba_does_it(
    code: bytes | None, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if code is None:  # an object file that has another function
        monkeypatch.setattr(_objects, "ENTRY", "another")
        code = _compile.object_code(_native.Kernel("dense:bf16")._body(), key_of(BITS, BITS))
        monkeypatch.undo()
        monkeypatch.setattr(_cache, "FOLDER", str(folder))
    monkeypatch.setattr(_compile, "object_code", lambda body, key: code)
    through_numba(_native.Kernel("dense:bf16"))


def key_of(*arguments: Any) -> _native.Key:
    return _native._take(arguments, [])


@jit
def allocates(out: Any) -> None:
    out[:] = np.empty(out.shape[0])


def test_a_body_that_needs_numba_to_run_has_no_object_code() -> None:
    assert _compile.object_code(allocates, key_of(np.empty(3))) == b""


@pytest.fixture
def mixed_native(monkeypatch: pytest.MonkeyPatch) -> _native.Kernel:
    """The kernel of `mixed`, of this file."""
    monkeypatch.setattr(_native.Kernel, "_body", lambda self: mixed)
    return _native.Kernel("test:mixed")


@pytest.mark.parametrize("order", ["C", "A"])
def test_no_two_numbers_of_a_block_can_stand_for_each_other(
    order: str, mixed_native: _native.Kernel
) -> None:
    """The self-test sees every exchange, whatever made it."""
    arguments, _ = example(order, 2.5, True)
    key = key_of(*arguments)
    call = mixed_native._prepare(key)
    assert call is not None
    run, pack = call
    assert _native._agrees(run, pack, key)
    count = struct.calcsize(f"=q{_native._format(key)}") // 8
    for first, second in combinations(range(1, count), 2):

        def exchanged(*values: Any, pair: tuple[int, int] = (first, second)) -> bytes:
            block = list(values)
            block[pair[0]], block[pair[1]] = block[pair[1]], block[pair[0]]
            return pack(*block)

        with contextlib.suppress(struct.error):  # a real number for a whole one
            assert not _native._agrees(run, exchanged, key), (first, second)


def test_an_object_that_fails_its_test_is_not_used(
    mixed_native: _native.Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = _native._take

    def reversed_shapes(arguments: Any, values: list[Any]) -> _native.Key:
        key = take(arguments, values)
        if len(arguments) == 8:  # not the tuple in them
            values[2], values[3] = values[3], values[2]
        return key

    monkeypatch.setattr(_native, "_take", reversed_shapes)
    arguments, wanted = example("C", 2.5, True)
    mixed_native(*arguments)
    assert list(mixed_native._calls.values()) == [None]
    np.testing.assert_array_equal(arguments[-1], wanted)


# ---- how it is called


@jit
def mixed(first: Any, pair: Any, last: Any, yes: Any, no: Any, add: Any, by: Any, out: Any) -> None:
    for i in range(out.shape[0]):
        out[i] = first[i, i + 1] * by + last[1, i, 1] + pair[1] + add
        if yes and not no:
            out[i] += pair[0][i]


def example(order: str, by: Any, yes: bool) -> tuple[tuple[Any, ...], Any]:
    """Arguments for `mixed`, the last of which is its output, and what that has to become."""
    first = np.arange(72, dtype=np.int32).reshape(8, 9)
    if order == "F":
        first = np.asfortranarray(first)
    elif order == "A":
        first = np.repeat(np.repeat(first, 2, 0), 3, 1)[::2, ::3]
    numbers = np.linspace(0, 1, 8).astype(np.float32)
    numbers.flags.writeable = False
    last = np.arange(64, dtype=np.int64).reshape(2, 8, 4)[:, ::-1]
    arguments = (first, (numbers, -7), last, yes, not yes, np.int16(5), by)
    wanted = np.diag(first, 1) * np.float64(by) + last[1, :, 1] - 2
    return (*arguments, np.empty(8)), wanted + numbers if yes else wanted


@pytest.mark.parametrize("order", ["C", "F", "A"])
@pytest.mark.parametrize("by", [3, 2.5, np.float32(0.25), np.int8(-3), np.uint32(2**31), True])
def test_arguments_arrive(order: str, by: Any, mixed_native: _native.Kernel) -> None:
    for yes in (True, False):
        arguments, wanted = example(order, by, yes)
        mixed_native(*arguments)
        np.testing.assert_array_equal(arguments[-1], wanted)
    assert None not in mixed_native._calls.values()
    assert len(mixed_native._calls) == 1


def test_arrays_of_nothing(mixed_native: _native.Kernel) -> None:
    arguments, _ = example("C", 3, True)
    mixed_native(*arguments[:-1], np.empty(0))
    mixed_native(np.empty((0, 5), np.int32), *arguments[1:-1], np.empty(0))
    assert None not in mixed_native._calls.values()


def test_types_that_kernels_do_not_take() -> None:
    with pytest.raises(Exception, match="Cannot determine Numba type"):
        _native.Kernel("dense:bf16")(BITS, object())


def test_every_call_is_of_the_types_it_was_compiled_for(mixed_native: _native.Kernel) -> None:
    cases = [example(order, by, yes) for order in "CA" for yes in (True, False) for by in (2.5, 2)]
    for _ in range(2):
        for arguments, wanted in cases:
            mixed_native(*arguments)
            np.testing.assert_array_equal(arguments[-1], wanted)
    assert len(mixed_native._calls) == 4
    assert None not in mixed_native._calls.values()


def test_numbers_that_do_not_fit_are_not_cut(mixed_native: _native.Kernel) -> None:
    arguments, wanted = example("C", 3, True)
    for wrong in (2**63, 2**70):
        with pytest.raises(struct.error):
            mixed_native(*arguments[:6], wrong, arguments[-1])
    mixed_native(*arguments)
    np.testing.assert_array_equal(arguments[-1], wanted)


def test_many_threads_compile_once(compiled: list[str]) -> None:
    kernel = _native.Kernel("dense:bf16")
    outs = [np.empty(BITS.shape, np.uint16) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda out: kernel(BITS, out), outs))
    assert all((out == BITS).all() for out in outs)
    assert compiled == ["bf16"]


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


def test_a_kernel_exists_once_for_its_constants() -> None:
    spread = _native.variants("_codes:spread")
    assert spread(3) is spread(3) is _native.kernel("_codes:spread", 3)
    assert repr(spread(3)) == "<Kernel _codes:spread-3>"
    assert spread(3)._body() is not spread(5)._body()


def test_kernels_run_where_objects_are_not_loaded(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On macOS, where none ever was: by numba, to the same bits, and nothing is kept."""
    expected = decoded()
    (kept,) = folder.iterdir()
    kept.unlink()
    monkeypatch.setattr(_objects, "are_loaded", lambda: False)
    monkeypatch.setattr(_objects, "load", pytest.fail)
    kernel = _native.Kernel("dense:bf16")
    out = np.empty(BITS.shape, np.uint16)
    kernel(BITS, out)
    assert out.tolist() == expected.tolist()
    assert list(kernel._calls.values()) == [None]
    assert not list(folder.iterdir())


@pytest.mark.parametrize(("system", "loaded"), [("linux", True), ("darwin", False)])
def test_objects_are_loaded_on_linux(
    system: str, loaded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.platform", system)
    assert _objects.are_loaded() is loaded
