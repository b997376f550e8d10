"""docs/gguf-and-hf.md says what the tables have. `python tests/names/test_page.py` mends it."""

from __future__ import annotations

import re
from pathlib import Path

from anamnesis.names.families import families
from anamnesis.names.family import Row
from anamnesis.names.gguf_config import WRITTEN
from anamnesis.names.pattern import IDENTITY
from anamnesis.names.vision import TOWERS

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
    towers = ["| projector | class | besides names |", "|---|---|---|"]
    for tower in TOWERS:
        kinds = ", ".join(f"`{name}`" for name in tower.projectors)
        towers.append(f"| {kinds} | `{tower.architecture}` | {changes(tower.rows)} |")
    return {
        "families": "\n".join(rows),
        "towers": "\n".join(towers),
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


if __name__ == "__main__":
    PAGE.write_text(rewritten(PAGE.read_text()))
