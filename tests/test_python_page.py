"""docs/python.md shows what its blocks print."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "docs" / "python.md"


def test_blocks_print_what_the_page_shows(
    checkout: Path,
    page_blocks: Callable[[Path], list[tuple[str, str]]],
    as_shown: Callable[[str], list[str]],
) -> None:
    command = [sys.executable, str(PAGE.parents[1] / "tests" / "run_page.py"), str(PAGE)]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    printed, blocks = json.loads(done.stdout), page_blocks(PAGE)
    shown = [i for i, (kind, _) in enumerate(blocks) if kind == "text"]
    assert len(shown) > 2
    for i in shown:
        assert as_shown(printed[i - 1]) == as_shown(blocks[i][1])
