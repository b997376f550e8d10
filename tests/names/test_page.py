"""docs/gguf-and-hf.md says what the tables have, and real output.

`PYTHONPATH=tests/builders python tests/names/test_page.py` mends the tables.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from llama_folder import llama_folder

import anamnesis
from anamnesis.names.config_rows import CLASSES
from anamnesis.names.families import families
from anamnesis.names.family import Row
from anamnesis.names.gguf_config import WRITTEN
from anamnesis.names.pattern import IDENTITY
from anamnesis.names.tower_rows import TOWERS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "gguf-and-hf.md"


def changes(rows: tuple[Row, ...]) -> str:
    """What rows do besides renaming, in the order in which they come."""
    found: dict[str, None] = {}
    for row in rows:
        hf, gguf = row.pattern.hf, row.pattern.gguf
        if row.value:
            found[f"`{row.value}`"] = None
        if "{x}" in row.hf:
            found["experts stacked"] = None
        elif hf.join >= 0 or gguf.join >= 0:
            found["parts split or joined"] = None
        if row.pattern != IDENTITY and "{x}" not in row.hf and hf.join < 0:
            flat = [[a for dim in side.dims for a in dim] for side in (hf, gguf)]
            moved = [a for a in flat[0] if a in flat[1]] != [a for a in flat[1] if a in flat[0]]
            found["elements moved" if moved else "reshaped"] = None
    return ", ".join(found)


def tables() -> dict[str, str]:
    """The generated parts of the page."""
    rows = ["| GGUF | classes | besides names |", "|---|---|---|"]
    for family in families():
        names = ", ".join(f"`{name}`" for name in family.gguf)
        classes = ", ".join(f"`{name}`" for name in family.architectures)
        rows.append(f"| {names} | {classes} | {changes(family.rows)} |")
    towers = ["| projector | classes | besides names |", "|---|---|---|"]
    for tower in TOWERS:
        kinds = ", ".join(f"`{name}`" for name in tower.projectors)
        classes = ", ".join(f"`{name}`" for name in tower.classes)
        towers.append(f"| {kinds} | {classes} | {changes(tower.rows)} |")
    lacks = ["| class | what a GGUF does not say, and what is taken |", "|---|---|"]
    absent = ["| class | instead |", "|---|---|"]
    for name, row in CLASSES.items():
        if row.lacks:
            lacks.append(f"| `{name}` | {row.lacks} |")
        if row.same_as or row.remote:
            instead = f"`{row.same_as}`" if row.same_as else "the model's own code"
            absent.append(f"| `{name}` | {instead} |")
    return {
        "absent": "\n".join(absent),
        "lacks": "\n".join(lacks),
        "families": "\n".join(rows),
        "towers": "\n".join(dict.fromkeys(towers)),
        "written": ", ".join(f"`{name}`" for name in sorted(WRITTEN)) + ".",
    }


def rewritten(text: str) -> str:
    """The page with its generated parts as the tables are now."""
    for name, body in tables().items():
        text = re.sub(
            rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)",
            lambda match, body=body: f"{match[1]}{body}\n{match[2]}",  # type: ignore[misc]
            text,
            flags=re.DOTALL,
        )
    return text


def test_the_page_says_what_the_tables_have() -> None:
    text = PAGE.read_text()
    assert text == rewritten(text)


def test_commands_print_what_the_page_shows(
    tmp_path: Path,
    page_blocks: Callable[[Path], list[tuple[str, str]]],
    as_shown: Callable[[str], list[str]],
) -> None:
    pytest.importorskip("gguf")
    source = llama_folder(tmp_path / "llama-fp8", "fp8")
    anamnesis.convert(source, tmp_path / "llama.gguf", to="gguf")
    command = [sys.executable, str(PAGE.parents[1] / "tests" / "run_page.py"), str(PAGE)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    shown = [text for kind, text in page_blocks(PAGE) if kind == "console"]
    printed = [text for text in json.loads(done.stdout) if text is not None]
    assert [as_shown(text) for text in printed] == [as_shown(text) for text in shown]
    assert len(shown) == 2
    assert not any("error: " in text for text in printed)


if __name__ == "__main__":
    PAGE.write_text(rewritten(PAGE.read_text()))
