"""The pages on formats name what the tables have, and links lead somewhere."""

from __future__ import annotations

import re
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

import anamnesis
from anamnesis.kernels import ENCODINGS
from anamnesis.readers import READERS
from anamnesis.readers.schemes import SCHEMES

ROOT = Path(__file__).resolve().parents[1]
FORMATS = ROOT / "docs" / "formats"
PAGES = sorted(
    page
    for pattern in ("*.md", "docs/**/*.md", "configs/**/*.md", "kernels/**/*.md")
    for page in ROOT.glob(pattern)
)
_LINK = re.compile(r"\[[^\]\[]*\]\(([^()\s]+)\)")
_FENCE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)


def text_of(page: Path) -> str:
    return _FENCE.sub("", page.read_text())


def words(*pages: Path) -> set[str]:
    """What the pages set in code, and plain words."""
    text = " ".join(page.read_text() for page in pages)
    return set(re.findall(r"`([^`\n]+)`", text)) | set(re.findall(r"[\w-]+", text))


def anchors(page: Path) -> set[str]:
    """The fragments that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", text_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def test_the_index_names_every_row_of_the_tables() -> None:
    named = words(FORMATS / "README.md")
    for table in (READERS, SCHEMES, ENCODINGS):
        assert set(table) - named == set()


def test_the_tables_of_formats_are_made_of_the_codes_own() -> None:
    """`python tests/format_tables.py --write` mends them."""
    spec = spec_from_file_location("format_tables", ROOT / "tests" / "format_tables.py")
    assert spec is not None
    assert spec.loader is not None
    made = module_from_spec(spec)
    spec.loader.exec_module(made)
    for page in made.PAGES:
        assert page.read_text() == made.rewritten(page), page
    pages = {"bnb": "bitsandbytes", "comfy": "comfyui", "mxfp4": "fp4"}
    assert {pages.get(name, name) for name in SCHEMES} <= set(made.FAMILIES)


def test_every_scheme_is_on_the_page_of_its_family() -> None:
    """A page for each row of SCHEMES, and one for what is dense."""
    pages = {"bnb": "bitsandbytes", "comfy": "comfyui", "mxfp4": "fp4"}
    for name in [*SCHEMES, "dense"]:
        page = FORMATS / f"{pages.get(name, name)}.md"
        assert f"({page.name})" in (FORMATS / "README.md").read_text()
        assert {"Tested", "##"} <= set(page.read_text().split())
    by_page = {"fp8": "fp8", "bnb": "bitsandbytes", "awq": "awq", "gptq": "gptq"}
    for encoding, row in ENCODINGS.items():
        if row.ggml_type >= 0:
            kind = encoding.removeprefix("gguf-").upper().replace("-", "_")
            assert kind in words(FORMATS / "gguf.md"), encoding
        else:
            family = by_page.get(row.target.partition(":")[0])
            if family:
                assert encoding in words(FORMATS / f"{family}.md"), encoding


def test_schemes_that_files_show_are_in_the_readme_and_the_index(sample: Path) -> None:
    data = ROOT / "tests" / "data"
    files = [sample, data / "bnb" / "cases.safetensors", *data.glob("layouts/*/*/model.*")]
    shown = {t.scheme for path in files for t in anamnesis.open_model(path).model.tensors}
    assert len(shown) > 15
    assert shown - words(FORMATS / "README.md") == set()
    readme = words(ROOT / "README.md")
    assert {s for s in shown if not s.startswith("gguf-")} - readme == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_resolve(page: Path) -> None:
    for target in _LINK.findall(text_of(page)):
        if re.match(r"[a-z]+:", target):
            assert target.startswith("https://"), target
            continue
        path, _, fragment = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.is_relative_to(ROOT), target
        assert file.exists(), target
        if fragment:
            assert fragment in anchors(file), target


def test_paths_that_pages_name_exist() -> None:
    """`tests/…` and the like in code spans, where a page does not link."""
    for page in PAGES:
        for path in re.findall(
            r"`((?:tests|kernels|readers|writers|pipeline)/[\w/.]+\.py)`", page.read_text()
        ):
            assert (ROOT / path).exists(), (page.name, path)
