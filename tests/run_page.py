"""Run the code blocks of a Markdown page, and say what each printed.

    python tests/run_page.py PAGE.md            # a JSON list: a text a block, or null
    python tests/run_page.py PAGE.md --write    # put what was printed into the page

Blocks run in the order of the page, in the current folder: `python` ones in one namespace, as in a
notebook, and of `console` ones what stands after `$ `. A `text` block after a `python` one is what
that printed. A Python block that needs torch is left out without it, and so are the blocks of the
kinds that are not run, and those below a line `<!-- not run: … -->` that says why.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_NOT_RUN = re.compile(r"^<!-- not run: (.+) -->\n\Z", re.MULTILINE)
_PROGRESS = re.compile(r"^(\d+ %, |shard \d+/|compiling kernels, ).*\n", re.MULTILINE)
_COLOUR = re.compile(r"\x1b\[[\d;]*m")
_COLUMNS = 100


def main(page: str, *flags: str) -> None:
    text = Path(page).read_text()
    blocks = list(FENCE.finditer(text))
    printed = run([("" if reason(text, block) else block[1], block[2]) for block in blocks])
    if "--write" in flags:
        Path(page).write_text(_filled(text, blocks, printed))
    else:
        json.dump(printed, sys.stdout)


def reason(text: str, block: re.Match[str]) -> str:
    """Why a block is not run, as the line above it says: `<!-- not run: … -->`."""
    found = _NOT_RUN.search(text[: block.start()])
    return found[1] if found else ""


def run(blocks: list[tuple[str, str]]) -> list[str | None]:
    """What each block printed; of a console block, with its commands."""
    names: dict[str, Any] = {"__name__": "__main__"}
    with tempfile.TemporaryDirectory() as folder:
        environment = _with_amn(Path(folder))
        found: list[str | None] = []
        for number, (kind, text) in enumerate(blocks):
            if kind == "python" and ("torch" not in text or find_spec("torch")):
                found.append(_python(text, f"<block {number + 1}>", names))
            elif kind == "console" and "$ " in text:
                found.append(_console(text, environment))
            else:
                found.append(None)
    return found


def _python(text: str, where: str, names: dict[str, Any]) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(text, where, "exec"), names)  # noqa: S102 - the page's code is what is tested
    return out.getvalue()


def _console(text: str, environment: dict[str, str]) -> str:
    lines = []
    for line in text.splitlines(keepends=True):
        if line.startswith("$ "):
            done = subprocess.run(
                ["sh", "-c", line[2:]],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
            )
            output = _COLOUR.sub("", _PROGRESS.sub("", done.stdout))
            lines += [line, *(f"{part.rstrip()}\n" for part in output.splitlines())]
    return "".join(lines)


def _with_amn(folder: Path) -> dict[str, str]:
    """The environment of a terminal of 100 columns, where `amn` is this checkout's."""
    command = folder / "amn"
    code = "from anamnesis.cli.main import main; main()"
    command.write_text(f"#!/bin/sh\nexec '{sys.executable}' -c '{code}' \"$@\"\n")
    command.chmod(0o755)
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    terminal = {"FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": str(_COLUMNS)}
    return os.environ | {"PATH": path, "PYTHONIOENCODING": "utf-8"} | terminal


def _filled(text: str, blocks: list[re.Match[str]], printed: list[str | None]) -> str:
    """The page with what was printed; from the end, so that places stay right."""
    for number in range(len(blocks) - 1, -1, -1):
        block, output = blocks[number], printed[number]
        if block[1] == "text" and number and blocks[number - 1][1] == "python":
            output = printed[number - 1]
        elif block[1] != "console":
            continue
        if output is not None:
            lines = "".join(f"{line.rstrip()}\n" for line in output.splitlines())
            text = text[: block.start(2)] + lines + text[block.end(2) :]
    return text


if __name__ == "__main__":
    main(*sys.argv[1:])
