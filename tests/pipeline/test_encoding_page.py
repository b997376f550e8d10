"""docs/encoding.md has the code's own table; run this file to mend it."""

from __future__ import annotations

from pathlib import Path

from anamnesis.kernels.encoders import ENCODERS, Key

PAGE = Path(__file__).resolve().parents[2] / "docs" / "encoding.md"
BEGIN, END = "<!-- targets -->\n", "<!-- end -->"


def _shown(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _key(name: str, key: Key) -> str:
    others = [_shown(value) for value in key.allowed if value != key.default]
    return f"`{name}={_shown(key.default)}`" + (f" ({', '.join(others)})" if others else "")


def table() -> str:
    """A row a target: the settings with their defaults, and the encoding that reads it back."""
    lines = ["| target | settings (others allowed) | read back as |", "|---|---|---|"]
    for name, row in ENCODERS.items():
        keys = "; ".join(_key(key, value) for key, value in row.keys.items())
        lines.append(f"| `{name}` | {keys} | `{row.reads_back}` |")
    return "\n".join(lines) + "\n"


def rewritten() -> str:
    before, _, rest = PAGE.read_text().partition(BEGIN)
    return before + BEGIN + table() + END + rest.partition(END)[2]


def test_the_table_of_targets_is_the_codes_own() -> None:
    assert PAGE.read_text() == rewritten()


if __name__ == "__main__":
    PAGE.write_text(rewritten())
