"""Help, tables and completions where there is little room, and no colour."""

from __future__ import annotations

import fcntl
import os
import pty
import shutil
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from anamnesis.cli.main import cli

Amn = Callable[..., subprocess.CompletedProcess[str]]
WIDTH = 60


def on_terminal(arguments: list[str], columns: int, **environment: str) -> str:
    """What the program prints on a terminal that is so wide."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    code = "from anamnesis.cli.main import main; main()"
    env = {**os.environ, "TERM": "xterm-256color", **environment}
    with subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=theirs, stderr=theirs, env=env
    ):
        os.close(theirs)
        found = bytearray()
        try:
            while data := os.read(ours, 1 << 16):
                found += data
        except OSError:  # Linux says so that the other side is closed
            pass
        finally:
            os.close(ours)
    return found.decode().replace("\r\n", "\n")


@pytest.mark.parametrize("name", ["", *sorted(cli.commands)])
def test_no_line_of_a_help_is_longer_than_the_terminal(name: str) -> None:
    parent = click.Context(cli, info_name="amn", terminal_width=WIDTH)
    command = cli.commands[name] if name else cli
    context = click.Context(command, parent, name, terminal_width=WIDTH) if name else parent
    lines = command.get_help(context).splitlines()
    assert [line for line in lines if len(line) > WIDTH] == []
    assert [line for line in lines[1:] if line.endswith("...")] == []


@pytest.mark.parametrize("command", ["inspect", "stats", "diff"])
def test_no_colour_is_no_escape_in_tables(command: str, sample: Path) -> None:
    arguments = [command, *[str(sample)] * (1 + (command == "diff"))]
    if command in ("stats", "diff"):
        arguments += ["--include", "output_norm*"]
    shown = on_terminal(arguments, 100, NO_COLOR="1")
    table = shown[shown.rindex(f"{sample}") :]
    assert "\x1b" not in table
    assert "output_norm" in table or command == "inspect"
    if command == "inspect":
        assert "\x1b[1m" in on_terminal(arguments, 100, NO_COLOR="")


def test_a_narrow_terminal_gets_names_and_sizes_whole(sample: Path) -> None:
    shown = on_terminal(["inspect", str(sample)], 40, NO_COLOR="1")
    assert next(line for line in shown.splitlines() if line.startswith("gguf-q8-0 ")).endswith(
        "KiB"
    )
    assert "passthrough " in shown


def test_fish_is_given_whole_descriptions(amn: Amn, tmp_path: Path) -> None:
    """Click's own script ends them at a comma."""
    script = amn("completion", "fish").stdout
    assert script.count('string split --max 1 ","') == 2
    assert 'string split ","' not in script
    if not shutil.which("fish"):
        return
    command = tmp_path / "amn"
    code = "from anamnesis.cli.main import main; main()"
    command.write_text(f"#!/bin/sh\nexec '{sys.executable}' -c '{code}' \"$@\"\n")
    command.chmod(0o755)
    env = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    env["HOME"] = str(tmp_path)
    ask = 'amn completion fish | source; complete -C "amn diff --o"; complete -C "amn ins"'
    done = subprocess.run(["fish", "-c", ask], env=env, capture_output=True, text=True, check=True)
    assert "--out\tWrite the table here: .parquet, .arrow, .csv or .json." in done.stdout
    assert "inspect\tSay what PATH holds, from its headers alone (alias: info)." in done.stdout
