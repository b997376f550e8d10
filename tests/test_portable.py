"""Machines that are not this one: without Linux's own calls, Windows, and an old Python."""

from __future__ import annotations

import ast
import errno
import fcntl
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import anamnesis
from anamnesis import owned

ROOT = Path(__file__).resolve().parents[1]
# Of https://docs.python.org/3/library/os.html, what is not said to be there on macOS.
LINUX_ONLY = {
    *("copy_file_range", "eventfd", "fdatasync", "getrandom", "memfd_create", "pidfd_open"),
    *("pipe2", "posix_fadvise", "posix_fallocate", "splice", "O_DIRECT", "O_PATH", "O_TMPFILE"),
    *("getresuid", "getxattr", "listxattr", "setxattr", "setns", "unshare", "RWF_NOWAIT"),
    *("sched_getaffinity", "sched_getparam", "sched_getscheduler", "sched_setaffinity"),
}
SOURCES = [
    path
    for path in sorted(ROOT.rglob("*.py"))
    if path.relative_to(ROOT).parts[0] not in ("benchmarks", "build", "docs", "tests")
    and not path.relative_to(ROOT).parts[0].startswith(".")
]


def of_os(tree: ast.AST) -> set[str]:
    """The names `os.NAME` that a file uses, but for those that it asks `hasattr(os, …)` for."""
    used, asked = set(), set()
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id="os"), attr=name):
                used.add(name)
            case ast.Call(
                func=ast.Name(id="hasattr"), args=[ast.Name(id="os"), ast.Constant(name)]
            ):
                asked.add(name)
    return used - asked


def test_calls_that_macos_lacks_are_asked_for_first() -> None:
    assert len(SOURCES) > 100
    found = {str(p.relative_to(ROOT)): of_os(ast.parse(p.read_text())) for p in SOURCES}
    assert {name: bad for name, names in found.items() if (bad := names & LINUX_ONLY)} == {}
    assert of_os(ast.parse("os.pipe2(0); os.fdatasync(1)")) == {"pipe2", "fdatasync"}


# Run by every interpreter that starts with its folder on the path, the workers' too.
_WITHOUT = f"""
import os
import re
import shutil
for name in {sorted(LINUX_ONLY)!r}:
    if hasattr(os, name):
        delattr(os, name)
os.process_cpu_count = os.cpu_count  # as it is where Python 3.13 and newer find no affinity
"""


@pytest.mark.parametrize("executor", ["serial", "threads", "distributed"])
def test_a_job_runs_without_them(executor: str, sample: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(_WITHOUT)
    job = tmp_path / "job.yaml"
    job.write_text(
        f"inputs: [{sample}]\noutput: {{path: {tmp_path}/out.safetensors}}\n"
        f"run: {{executor: {executor}, threads: {1 if executor == 'serial' else 2}}}\n"
    )
    code = "import os; assert not hasattr(os, 'fdatasync')\n"
    code += "from anamnesis.cli.main import main; main()"
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-c", code, "run", str(job)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    anamnesis.remember(sample, tmp_path / "here.safetensors")
    made, here = ((tmp_path / f"{name}.safetensors").read_bytes() for name in ("out", "here"))
    assert made == here


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is asked of a system whose fsync leaves bytes in the drive, as macOS has it."""
    calls: list[str] = []
    monkeypatch.setattr(fcntl, "F_FULLFSYNC", 51, raising=False)
    monkeypatch.setattr(fcntl, "fcntl", lambda fd, what: calls.append(f"fcntl {what}"))
    monkeypatch.setattr(os, "fsync", lambda fd: calls.append("fsync"))
    monkeypatch.delattr(os, "fdatasync", raising=False)
    return calls


def test_bytes_leave_the_drive_where_fsync_does_not_see_to_it(synced: list[str]) -> None:
    owned.sync(3)
    owned.sync_data(3)
    assert synced == ["fcntl 51", "fcntl 51"]


@pytest.mark.parametrize("code", [errno.ENOTSUP, errno.EINVAL, errno.ENOTTY, errno.EIO])
def test_only_a_file_system_without_that_call_gets_another(
    synced: list[str], monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(fd: int, what: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    if code == errno.EIO:
        with pytest.raises(OSError, match="Input/output"):
            owned.sync(3)
    else:
        owned.sync(3)
    assert synced == ([] if code == errno.EIO else ["fsync"])


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("from anamnesis.cli.main import main; main()", 4),
        ("import runpy; runpy.run_module('anamnesis', run_name='__main__')", 4),
        ("import anamnesis; anamnesis.open_model", 1),
    ],
)
def test_windows_is_refused_in_one_line(code: str, status: int) -> None:
    hidden = "".join(
        f"sys.modules[{name!r}] = None\n" for name in ("fcntl", "grp", "pwd", "resource")
    )
    start = f"import sys, runpy\nsys.platform = 'win32'\n{hidden}{code}"
    done = subprocess.run(
        [sys.executable, "-c", start, "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == status, done.stderr
    assert done.stderr.count("\n") == 1 or status == 1
    last = done.stderr.splitlines()[-1]
    assert "UnsupportedError: Windows is not supported; Linux and macOS are" in last


def test_make_names_the_python_that_is_needed(tmp_path: Path) -> None:
    old = tmp_path / "python3"
    old.write_text(
        f'#!/bin/sh\n[ "$1" = -c ] || {{ touch {tmp_path}/used; exit 1; }}\n'
        f'exec {sys.executable} -c "import sys; sys.version_info = (3, 9, 2)\n'
        'exec(sys.argv[1])" "$2"\n'
    )
    old.chmod(0o755)
    done = subprocess.run(
        ["make", "-C", str(ROOT), "demo", f"VENV={tmp_path}/venv"],
        env={**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    first = done.stderr.splitlines()[0]
    assert first == (
        "error: Python 3.11 or newer is needed, and python3 is 3.9; name another: "
        "make PYTHON=python3.12"
    )
    assert not (tmp_path / "used").exists()


def test_make_says_what_a_silent_installation_does() -> None:
    done = subprocess.run(
        ["make", "-C", str(ROOT), "-n", "demo", "VENV=/nonexistent/venv"],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.splitlines()
    at = next(i for i, line in enumerate(lines) if " install " in line and " -e " in line)
    assert lines[at - 1].startswith('echo "installing anamnesis and its dependencies into ')


def test_make_installs_again_for_a_file_that_is_new(tmp_path: Path) -> None:
    """The editable install links file by file, those too that git does not know yet."""

    def stamp() -> str:
        done = subprocess.run(
            ["make", "-n", "demo", "VENV=venv"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        return re.findall(r"venv/run-\d+", done.stdout)[-1]

    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "pyproject.toml").touch()
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    before = stamp()
    (tmp_path / "scheme.py").touch()
    new = stamp()
    subprocess.run(["git", "-C", str(tmp_path), "add", "scheme.py"], check=True)
    assert before != new == stamp()
