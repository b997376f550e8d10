"""The README shows real output of today's code: its commands and its Python are run here."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

Amn = Callable[..., subprocess.CompletedProcess[str]]
Blocks = list[tuple[str, str]]


@pytest.fixture(scope="module")
def blocks(page_blocks: Callable[[Path], Blocks]) -> Blocks:
    return page_blocks(ROOT / "README.md")


def commands(blocks: Blocks) -> list[tuple[str, str]]:
    """Every `$ amn …` of the README with the output that it shows."""
    found = []
    for kind, text in blocks:
        if kind == "console" and "$ amn" in text:
            for part in text.split("$ ")[1:]:
                command, _, output = part.partition("\n")
                found.append((command.partition("  #")[0].strip(), output))
    return found


def test_commands_print_what_the_readme_shows(
    checkout: Path, amn: Amn, blocks: Blocks, as_shown: Callable[[str], list[str]]
) -> None:
    shown = commands(blocks)
    assert len(shown) >= 4
    for command, output in shown:
        done = amn(*shlex.split(command)[1:], cwd=checkout)
        assert done.returncode == 0, (command, done.stderr)
        if output.strip():
            assert as_shown(done.stdout) == as_shown(output), command


def test_the_job_file_is_the_one_in_configs(blocks: Blocks) -> None:
    (shown,) = [text for kind, text in blocks if kind == "yaml"]
    body = [line for line in shown.splitlines() if not line.startswith("#")]
    kept = (ROOT / "configs/quickstart.yaml").read_text().splitlines()
    assert body == [line for line in kept if not line.startswith("#")]


def test_python_runs_and_prints_what_the_readme_shows(checkout: Path, blocks: Blocks) -> None:
    texts = [text for kind, text in blocks if kind == "python"]
    (table,) = [text for kind, text in blocks if kind == ""]
    printed = []
    for text in texts:
        done = subprocess.run(
            [sys.executable, "-c", text], cwd=checkout, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        printed.append(done.stdout)
    assert printed[0].strip() == table.strip()
    for line in printed[1].splitlines():
        assert f"# {line}" in texts[1] or line in texts[1]
