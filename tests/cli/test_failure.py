"""What an error is called, and its exit code; a bug is never taken for the file system's no."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from anamnesis.cli.failure import INTERNAL, SeveralError, exit_code, line
from anamnesis.errors import FormatError, LimitError

Amn = Callable[..., subprocess.CompletedProcess[str]]

BUGS = [
    KeyError("x"),
    TypeError("x"),
    ValueError("x"),
    RuntimeError("x"),
    AssertionError(),
    RecursionError("x"),
    UnicodeEncodeError("utf-8", "\udce9", 0, 1, "surrogates not allowed"),
    EOFError(),
]


@pytest.mark.parametrize("error", BUGS, ids=lambda e: type(e).__name__)
def test_a_bug_is_called_one(error: Exception) -> None:
    assert exit_code(error) == INTERNAL
    assert line(error).startswith(f"internal: {type(error).__name__}")
    assert line(error).isprintable()


NO_MEMORY = [
    MemoryError(),
    OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
    RuntimeError("can't start new thread"),
    ImportError("libx.so: failed to map segment from shared object"),
]


@pytest.mark.parametrize("error", NO_MEMORY, ids=lambda e: type(e).__name__)
def test_the_end_of_memory_is_a_limit(error: Exception) -> None:
    assert exit_code(error) == LimitError.exit_code
    assert line(error).startswith("LimitError: out of memory")


def test_of_several_failures_a_bug_gives_the_code() -> None:
    format_error, disk = FormatError("a: x"), OSError(errno.EIO, "Input/output error", "b")
    assert exit_code(SeveralError([("a", format_error), ("b", disk)], 2)) == 3
    assert exit_code(SeveralError([("b", disk), ("a", format_error)], 2)) == 1
    both = SeveralError([("a", format_error), ("c", KeyError("x"))], 3)
    assert exit_code(both) == INTERNAL
    assert line(both) == "FormatError: 2 of 3 inputs failed, the first: a: x"


_BROKEN = """
import sys
{patch}
from anamnesis.cli.main import main
main(sys.argv[1:])
"""
PATCHES = {
    "planning": "import anamnesis.pipeline.jobs as m; m.open_named = lambda *a, **b: {}['no']",
    "a task": "import anamnesis.pipeline.task as m; m._run_piece = lambda *a: {}['no']",
    "a writer": "import anamnesis.writers.safetensors as m\nm.RawSlot.write = lambda *a: {}['no']",
    "the end": "import anamnesis.pipeline.run as m; m.write_manifest = lambda *a, **b: {}['no']",
}


@pytest.mark.parametrize("where", PATCHES)
def test_a_bug_anywhere_in_a_run_ends_with_70(where: str, fp8_model: Path, tmp_path: Path) -> None:
    code = _BROKEN.format(patch=PATCHES[where])
    command = [sys.executable, "-c", code, "remember", str(fp8_model), "-o", str(tmp_path / "o")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == INTERNAL, done.stderr
    told, report = done.stderr.splitlines()[-2:]
    assert told == "error: internal: KeyError: 'no'"
    assert "please report it" in report
    assert "Traceback" not in done.stderr
    assert not [p for p in tmp_path.rglob("*") if p.name.endswith((".part", ".lock"))]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_an_address_space_that_is_too_small_is_a_limit(fp8_model: Path) -> None:
    """Wherever it hits: in an import, in a thread's start or in a buffer."""
    code = (
        "import sys; from resource import RLIM_INFINITY, RLIMIT_AS, setrlimit\n"
        "import numpy\n"  # OpenBLAS ends the process by itself where it gets no memory
        "from anamnesis.cli.main import main\n"
        "kib = int(open('/proc/self/status').read().split('VmSize:')[1].split()[0])\n"
        "setrlimit(RLIMIT_AS, [(kib << 10) + int(sys.argv.pop())] * 2)\n"
        "main(sys.argv[1:])"
    )
    codes = set()
    for mib in (1, 32, 64, 128):
        command: list[Any] = [sys.executable, "-c", code, "inspect", fp8_model, str(mib << 20)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240)
        codes.add(done.returncode)
        assert done.returncode in (0, LimitError.exit_code), done.stderr
    assert LimitError.exit_code in codes


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
@pytest.mark.skipif("NUMBA_DISABLE_JIT" in os.environ, reason="nothing is compiled")
def test_a_kernel_is_not_compiled_where_llvm_would_end_the_process(
    fp8_model: Path, tmp_path: Path
) -> None:
    """With nothing kept of earlier runs; what is needed more than what is left is told."""
    code = (
        "import sys; from resource import RLIM_INFINITY, RLIMIT_AS, setrlimit\n"
        "from anamnesis import address_space\n"
        "def check(need, what, usual=address_space.check):\n"
        "    taken = int(open('/proc/self/statm').read().split()[0]) * 4096\n"
        "    'compile' in what and setrlimit(RLIMIT_AS, (taken + (need >> 1), RLIM_INFINITY))\n"
        "    usual(need, what)\n"
        "address_space.check = check\n"
        "from anamnesis.cli.main import main\n"
        "main(sys.argv[1:])"
    )
    out = tmp_path / "out"
    done = subprocess.run(
        [sys.executable, "-c", code, "remember", str(fp8_model), "-o", str(out)],
        env={**os.environ, "ANAMNESIS_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == LimitError.exit_code, done.stderr
    assert "bytes; 134,217,728 are needed to compile a kernel" in done.stderr
    assert done.stderr.count("error: ") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"cache", fp8_model.name}


def test_debug_still_shows_where(amn: Amn, tmp_path: Path) -> None:
    done = amn("inspect", tmp_path / "nothing", "--debug")
    assert "Traceback" in done.stderr
