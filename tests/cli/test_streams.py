"""Standard streams that are closed, and output that a terminal shows and does not obey."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import anamnesis
from anamnesis.cli.streams import print_json

Amn = Callable[..., subprocess.CompletedProcess[str]]
OBEYED = "\x1b[2J\x9b2J\x7f\x07\x85\u202e\u2066\u200b\u2028\ufeff\ud800"
CLI = [sys.executable, "-m", "anamnesis"]


@pytest.fixture
def source(tmp_path: Path, write_safetensors: Callable[..., Path]) -> Path:
    values = np.arange(64, dtype=np.float32).tobytes()
    return write_safetensors(tmp_path / "in.safetensors", {"w": ("F32", (8, 8), values)})


def test_json_is_printable_and_says_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    document = {f"é{OBEYED}": [OBEYED, "漢字 \U0001f600 \U000e0001", 1.5, None]}
    print_json(document)
    text = capsys.readouterr().out
    assert all(line.isprintable() for line in text.splitlines())
    assert json.loads(text) == document
    assert "é" in text
    assert "漢字 \U0001f600" in text


@pytest.mark.parametrize("command", ["inspect", "parse", "stats", "diff"])
def test_every_command_prints_names_so(
    command: str, tmp_path: Path, write_safetensors: Callable[..., Path], amn: Amn
) -> None:
    name = OBEYED.replace("\ud800", "")  # which is no JSON, and so no safetensors file
    values = np.arange(64, dtype=np.float32).tobytes()
    path = write_safetensors(tmp_path / "x.safetensors", {name: ("F32", (8, 8), values)})
    done = amn(command, path, *([path] if command == "diff" else []), "--json")
    assert done.returncode == 0, done.stderr
    assert all(line.isprintable() for line in done.stdout.split("\n"))
    assert command == "inspect" or name in values_of(json.loads(done.stdout))


def values_of(document: object) -> list[object]:
    """All strings and numbers of a JSON document."""
    if isinstance(document, dict | list):
        inner = document.values() if isinstance(document, dict) else document
        return [found for value in inner for found in values_of(value)]
    return [document]


def closed(stream: int, *arguments: object) -> subprocess.CompletedProcess[bytes]:
    command = ["sh", "-c", f'exec "$0" "$@" {stream}>&-', *CLI, *map(str, arguments)]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=240)


@pytest.mark.parametrize("stream", [0, 1, 2])
def test_closed_streams_change_nothing(stream: int, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    done = closed(stream, "remember", source, "-o", out)
    assert done.returncode == 0, done.stderr
    anamnesis.verify(out)
    assert closed(stream, "stats", source, "-o", tmp_path / "x.json").returncode == 0
    assert json.loads((tmp_path / "x.json").read_text())["tensors"] == 1
    assert closed(stream, "inspect", tmp_path / "nothing").returncode == 1


def test_names_that_are_not_utf_8(source: Path, tmp_path: Path, amn: Amn) -> None:
    strange = tmp_path / os.fsdecode(b"caf\xe9.safetensors")
    source.rename(strange)
    for out in (tmp_path / "out.safetensors", tmp_path / os.fsdecode(b"\xff-out"), tmp_path / "o"):
        for more in ((), ("--overwrite",)):
            done = amn("remember", strange, "-o", out, *more)
            assert done.returncode == 0, done.stderr
        done = amn("verify", out)
        assert done.returncode == 0, done.stderr
    assert amn("inspect", strange, "--json").returncode == 0
    assert amn("stats", strange, "--json").returncode == 0
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]
