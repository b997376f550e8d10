"""The tables of families in README.md and docs/formats/README.md, from pages and tables of code.

A page of docs/formats says what its family is in a table at the top; pages that the index does not
list yet come last.

python tests/format_tables.py            # says which page differs
python tests/format_tables.py --write    # mends it
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from anamnesis.kernels import ENCODINGS
from anamnesis.readers.gguf_types import GGML_TYPES, encoding_of
from anamnesis.readers.schemes import SCHEMES
from anamnesis.readers.schemes._refused import table as refused

ROOT = Path(__file__).resolve().parents[1]
PAGES = (ROOT / "README.md", ROOT / "docs/formats/README.md")


FORMATS = ROOT / "docs" / "formats"
CELLS = ("Family", "Holds", "Containers", "Known by", "Schemes", "Oracle")


def _code(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def pages() -> dict[str, dict[str, str]]:
    """What each family's page says of it, in the order of the index."""
    listed = re.findall(r"\[([\w-]+)\]\(\1\.md\) \|$", (FORMATS / "README.md").read_text(), re.M)
    on_disk = sorted(p.stem for p in FORMATS.glob("*.md") if "\n| Family |" in p.read_text())
    return {name: _cells(FORMATS / f"{name}.md") for name in dict.fromkeys([*listed, *on_disk])}


def _cells(page: Path) -> dict[str, str]:
    head = page.read_text().partition("\n\n")[2].partition("\n\n")[0]
    found = dict(re.findall(r"^\| ([A-Z][\w ]+) \| (.+) \|$", head, re.M))
    if tuple(found) != CELLS:
        raise ValueError(f"{page}: its first table says {', '.join(found)}; not {', '.join(CELLS)}")
    return found


def families(folder: str) -> str:
    """Names and schemes, for readers in a hurry."""
    lines = ["| family | what of it | schemes |", "|---|---|---|"]
    for page, row in pages().items():
        title = row["Family"].partition(":")[0]
        lines.append(f"| [{title}]({folder}{page}.md) | {row['Holds']} | {row['Schemes']} |")
    return "\n".join(lines)


def index() -> str:
    """All that pages say."""
    lines = [
        "| family | container | known by | schemes | oracle | page |",
        "|---|---|---|---|---|---|",
    ]
    for page, row in pages().items():
        cells = [row[name] for name in CELLS if name != "Holds"]
        lines.append(f"| {' | '.join(cells)} | [{page}]({page}.md) |")
    return "\n".join(lines)


def tables() -> str:
    """The rows of the code's tables."""
    ggml = [name for name, row in ENCODINGS.items() if row.block_bytes]
    others = [name for name in ENCODINGS if name not in ggml]
    together = sorted(encoding_of(kind.name) for kind in GGML_TYPES.values() if kind.rows > 1)
    return "\n".join(
        (
            f"- Block types of GGUF, each a scheme and an encoding: {_code(ggml)}.",
            "- Rows repacked together, schemes of `interleaved` and `gguf-iq1-rows`: "
            f"{_code(together)}.",
            "- `SCHEMES` ([readers/schemes](../../readers/schemes/__init__.py)) says where a "
            f"family is read: {_code(list(SCHEMES))}.",
            "- `ENCODINGS` ([kernels](../../kernels/table.py)) says how it is decoded: "
            f"{_code(others)}, and the block types.",
        )
    )


def rewritten(page: Path) -> str:
    """The page with its generated parts made again."""
    parts = {
        "families": lambda: families("docs/formats/"),
        "index": index,
        "refused": refused,
        "tables": tables,
    }

    def made(match: re.Match[str]) -> str:
        return f"<!-- {match[1]} -->\n{parts[match[1]]()}\n<!-- /{match[1]} -->"

    pattern = rf"<!-- ({'|'.join(parts)}) -->\n.*?<!-- /\1 -->"
    return re.sub(pattern, made, page.read_text(), flags=re.DOTALL)


if __name__ == "__main__":
    for path in PAGES:
        text = rewritten(path)
        if text != path.read_text():
            done = "written" if "--write" in sys.argv else "differs"
            print(f"{path.relative_to(ROOT)}: {done}")
            if "--write" in sys.argv:
                path.write_text(text)
