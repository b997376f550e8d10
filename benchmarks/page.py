"""docs/performance.md, and the speeds of docs/encoding.md: the text is written by hand, what is
between its markers by this file.

`<!-- name -->` and `<!-- /name -->` hold what `sections(page)[name]` makes of
docs/performance.json, the results that are published. What a run keeps in benchmarks/results gets
there by `gather`.
"""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks import prose, tables
from benchmarks.measure import RESULTS, describe, kept

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE, FIGURES = DOCS / "performance.md", DOCS / "performance.json"
ENCODING = DOCS / "encoding.md"
PAGES = (PAGE, ENCODING)
SOURCES = ("kernels", "encoders", "end-to-end", "files", "sizes", "shares", "tasks", "startup")


@cache
def figures() -> dict[str, Any]:
    """The published results by name, each with the machine it was measured on."""
    found: dict[str, Any] = json.loads(FIGURES.read_text())
    return found


def gather() -> None:
    """Publish what runs kept; what was not measured stays as it is."""
    found = figures() if FIGURES.exists() else {}
    for name in SOURCES:
        if (RESULTS / f"{name}.json").exists():
            found[name] = _short(kept(name))
    lines = (f"{json.dumps(name)}: {json.dumps(found[name])}" for name in SOURCES if name in found)
    FIGURES.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    figures.cache_clear()


def _short(value: Any) -> Any:
    """Floats with the digits that mean something."""
    if isinstance(value, dict):
        return {key: _short(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_short(item) for item in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def sections(page: Path) -> dict[str, str]:
    """The generated parts of a page, by the names of their markers."""
    found = figures()
    results = {name: document["results"] for name, document in found.items()}
    kernels, floors = results["kernels"], results["end-to-end"]
    # None before the first are published.
    encoders = results.get("encoders", {"cases": []})["cases"]
    if page == ENCODING:
        return {"encoding-speed": prose.encoding(encoders, floors)}
    return {
        "machine": prose.machines(found, describe),
        "summary": prose.summary(results),
        "kernels": tables.kernels(kernels["cases"]),
        "behind": prose.behind(kernels["cases"]),
        "peers": tables.peers(kernels),
        "encoders": tables.encoders(encoders),
        "encoders-behind": prose.behind(encoders),
        "end-to-end": tables.end_to_end(floors),
        "files": tables.files(results["files"]),
        "sizes": tables.sizes(results["sizes"]),
        "shares": tables.shares(results["shares"]),
        "tasks": tables.tasks(results["tasks"]),
        "startup": tables.startup(results["startup"]),
    }


def rewritten(page: Path) -> str:
    """A page with everything between its markers made anew; ValueError for a missing marker."""
    text = page.read_text()
    for name, made in sections(page).items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        parts = pattern.split(text)
        if len(parts) != 4:
            raise ValueError(f"{page}: {(len(parts) - 1) // 3} places for {name}, not one")
        text = f"{parts[0]}{parts[1]}{made.rstrip()}\n{parts[2]}{parts[3]}"
    return text


def write() -> None:
    """Make the pages anew."""
    for page in PAGES:
        page.write_text(rewritten(page))
