"""Names from files that would colour, clear or reprogram a terminal are shown, not sent."""

from __future__ import annotations

import json
import pickle
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from anamnesis.errors import AnamnesisError, FormatError, LimitError

NAMES = (
    "\x1b]52;c;T1dORUQ=\x07",
    "a\x1b[2Jb",
    "line\nline",
    "\u202egnp.exe",
    "[/x]",
    "[bold]b[/bold]",
)


@pytest.mark.parametrize("command", ["inspect", "parse", "remember"])
def test_names_are_shown(
    command: str, tmp_path: Path, amn: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    file = "m\x1b[2J.safetensors"
    folder = tmp_path / "m"
    folder.mkdir()
    save_file({name: np.ones(2, np.float32) for name in NAMES}, folder / file)
    more = ("-o", "out.safetensors") if command == "remember" else ()
    done = amn(command, folder if command != "parse" else "m", *more, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    shown = done.stdout + done.stderr
    assert all(c.isprintable() or c == "\n" for c in shown)
    if command == "parse":
        assert all(repr(name)[1:-1] in shown for name in NAMES)


def test_a_file_name_is_no_markup(
    tmp_path: Path, amn: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    path = tmp_path / "[i]m.safetensors"
    save_file({"w": np.ones(2, np.float32)}, path)
    done = amn("inspect", path)
    assert done.returncode == 0, done.stderr
    assert str(path) in done.stdout


def test_errors_and_notes_are_one_printable_line(
    tmp_path: Path, amn: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    shard = "m\x1b[2J\u202e\n.safetensors"
    index = {"weight_map": {"w\x1b[2J": shard}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    done = amn("inspect", tmp_path)
    assert done.returncode == 3
    assert done.stderr.startswith("error: FormatError: ")
    assert done.stderr.removesuffix("\n").isprintable()


def test_every_error_is_one_line_whatever_it_quotes() -> None:
    error = FormatError("m\n\x1b[2J\u202e.pth: bad")
    assert str(error) == "m\\n\\x1b[2J\\u202e.pth: bad"
    limit = LimitError("a\tb", limit="items", need=2, have=1)
    assert (str(limit), limit.need) == ("a\\tb", 2)
    assert str(pickle.loads(pickle.dumps(limit))) == "a\\tb"


@pytest.mark.parametrize("cls", AnamnesisError.__subclasses__())
def test_errors_come_back_from_workers(cls: type[AnamnesisError]) -> None:
    """Dask has tblib unpickle errors, which calls `__new__` by name."""
    assert str(cls.__new__(cls, "a")) == "a"
    assert str(pickle.loads(pickle.dumps(cls("a\n")))) == "a\\n"
