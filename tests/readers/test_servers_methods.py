"""What vLLM and SGLang call a method is understood, or refused, as docs/formats/README.md says."""

from __future__ import annotations

from pathlib import Path

from anamnesis.readers.schemes import METHODS
from anamnesis.readers.schemes._refused import REFUSED
from anamnesis.readers.schemes._stated_words import NOT_STATED, canonical

ROOT = Path(__file__).resolve().parents[2]


def test_names_of_servers_are_known_as_the_page_says() -> None:
    text = (ROOT / "docs" / "formats" / "README.md").read_text()
    section = text.partition("## What vLLM and SGLang call them")[2]
    rows = [line.split("|")[1:3] for line in section.splitlines() if line.startswith("| `")][1:]
    for names, said in rows:
        for name in names.replace("`", "").split(","):
            method = canonical(name)
            known = method in (METHODS | NOT_STATED) - REFUSED.keys()
            assert known == (not said.startswith(" refused")), name
    assert len(rows) > 15
