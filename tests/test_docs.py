"""The pages on formats name what the tables have, and links lead somewhere."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from loaded import loaded

import anamnesis
from anamnesis.cli.main import cli
from anamnesis.kernels import ENCODINGS
from anamnesis.pipeline.config import schema
from anamnesis.readers import READERS
from anamnesis.readers.schemes import SCHEMES

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
SITE = DOCS / "README.md"
FORMATS = DOCS / "formats"
PAGES = sorted(
    page
    for pattern in ("*.md", "docs/**/*.md", "configs/**/*.md", "kernels/**/*.md")
    for page in ROOT.glob(pattern)
    if page.relative_to(ROOT).parts[:2] not in (("docs", "_build"), ("docs", "reference"))
    and page != ROOT / "docs" / "index.md"
)
_LINK = re.compile(r"\[[^\]\[]*\]\(([^()\s]+)\)")
_WHOLE = re.DOTALL | re.MULTILINE
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
    made = loaded("format_tables.py")
    for page in made.PAGES:
        assert page.read_text() == made.rewritten(page), page


def test_rows_that_are_quoted_are_the_tables_own() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text()
    tables = ("kernels/encoders", "kernels/table", "readers/schemes/__init__", "readers/table")
    own = {
        (ast.unparse(key), ast.unparse(row))
        for table in tables
        for node in ast.walk(ast.parse((ROOT / f"{table}.py").read_text()))
        if isinstance(node, ast.Dict)
        for key, row in zip(node.keys, node.values, strict=True)
        if key is not None
    }
    found = re.findall(r'(?:`|^)("[\w-]+"): (\w+\(.*?\))(?:`|,\n```)', page, re.M | re.S)
    quoted = {tuple(ast.unparse(ast.parse(one, mode="eval")) for one in row) for row in found}
    assert len(quoted) == len(tables)
    assert quoted <= own


def test_every_scheme_is_on_the_page_of_its_family() -> None:
    """A page names the file of each row of SCHEMES; all are in the index, and say their tests."""
    texts = {p.name: p.read_text() for p in FORMATS.glob("*.md") if "\n| Family |" in p.read_text()}
    for name, row in SCHEMES.items():
        file = f"(../../readers/schemes/{row.target.partition(':')[0]}.py)"
        assert file in texts[f"{row.page or name}.md"], name
    for page, text in texts.items():
        assert f"({page})" in (FORMATS / "README.md").read_text()
        assert "\n## Tested\n" in text, page
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
    files = [path for path in files if path.suffix != ".json"]
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


def test_the_site_lists_every_page_once() -> None:
    """README.md is the site's contents; pages of formats are listed by formats/README.md."""
    contents = loaded("../docs/conf.py").pages_of(SITE.read_text())
    listed = [page for _, listing in contents for _, page in listing]
    pages = {p.relative_to(DOCS).with_suffix("").as_posix() for p in DOCS.rglob("*.md")}
    kept = {name for name in pages if not name.startswith(("formats/", "_build", "reference/"))}
    made = {f"reference/{name}" for name in ("cli", "job-file", "python-api")}
    assert sorted(listed) == sorted((kept | made | {"formats/README"}) - {"README", "index"})


def test_a_page_has_one_title() -> None:
    """Of several headings as high as the first, all become a level deeper; code stays."""
    made = loaded("../docs/conf.py").of_one_title
    text = "# a\n## b\n# c\n```sh\n# d\n```\n"
    assert made(text) == "# a\n### b\n## c\n```sh\n# d\n```\n"
    assert made(text.replace("# c", "c")) == text.replace("# c", "c")


def test_the_log_of_experiments_lists_its_entries() -> None:
    text = (DOCS / "performance-experiments.md").read_text()
    entries = re.findall(r"^## ([A-Z]\d+[a-z]?)\. (.+)$", text, re.MULTILINE)
    rows = re.findall(r"^\| ([A-Z]\d+[a-z]?) \| (.+?) \| .+ \| .+ \|$", text, re.MULTILINE)
    assert len(entries) == len(rows) > 100
    assert {number for number, _ in entries} == {number for number, _ in rows}


def test_links_out_of_the_site_lead_into_the_repository() -> None:
    linked = loaded("../docs/conf.py").linked
    text = "[a](../README.md#start) [b](inputs.md) [c](../tests) [d](https://e.org) [f](README.md)"
    text += " [g](nowhere.md)"
    found = re.findall(r"\((.*?)\)", linked(text, DOCS))
    assert found[0].startswith("https://")
    assert found[0].endswith("/blob/main/README.md#start")
    assert found[2].endswith("/tree/main/tests")
    assert [found[1], *found[3:]] == ["inputs.md", "https://e.org", "index.md", "nowhere.md"]


def test_the_reference_names_every_command_flag_key_and_function() -> None:
    reference = loaded("../docs/reference.py")
    commands = reference.command_line()
    for name, command in cli.commands.items():
        assert f"## amn {name}\n" in commands
        for option in command.params:
            assert isinstance(option, click.Argument) or max(option.opts, key=len) in commands
    keys = reference.job_file()
    whole = schema()
    for section in (whole, *(whole["$defs"][name] for name in ("Output", "Run", "Numbers"))):
        assert {key for key in section["properties"] if key not in keys} == set()
    python = reference.python_api()
    tables = [line for page in (commands, keys) for line in page.split("\n") if "---" in line]
    assert {line.count("---") for line in tables} == {2}  # more do not fit a phone
    for name in anamnesis.__all__:
        assert callable(getattr(anamnesis, name)) is (f"## anamnesis.{name}\n" in python)
    assert "include: Patterns = '*'," in python
    for error in ("FormatError", "LimitError"):
        assert f"| `{error}` |" in python


# Pages whose blocks a test runs, and compares what they print with what is shown.
RUN = {
    "README.md": "tests/test_readme.py",
    "docs/analytics.md": "tests/test_analytics_page.py",
    "docs/encoding.md": "tests/pipeline/test_encoding_page.py",
    "docs/gguf-and-hf.md": "tests/names/test_page.py",
    "docs/python.md": "tests/test_python_page.py",
    "docs/tutorials": "tests/test_tutorials.py",
    "docs/untrusted-input.md": "tests/hostile/test_untrusted_docs.py",
}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_every_block_is_run_or_says_why_not(page: Path, checkout: Path) -> None:
    """`<!-- not run: … -->` above a block says why; Python that shows no output is run here."""
    name = page.relative_to(ROOT).as_posix()
    test = next((test for key, test in RUN.items() if name.startswith(key)), None)
    if test is not None:
        text = (ROOT / test).read_text()
        assert page.name in text or page.parent.name in text
        return
    text = page.read_text()
    for block in re.finditer(r"^```(console|python|sh|bash|sql|yaml)\n(.*?)^```", text, _WHOLE):
        if block[1] == "python" and "not run" not in text[: block.start()].rpartition("\n\n")[2]:
            subprocess.run([sys.executable, "-c", block[2]], cwd=checkout, check=True)
            continue
        above = text[: block.start()].rstrip("\n").rpartition("\n")[2]
        assert re.fullmatch(r"<!-- not run: .+ -->", above), text[block.start() :][:80]


def test_paths_that_pages_name_exist() -> None:
    """`tests/…` and the like in code spans, where a page does not link."""
    for page in PAGES:
        for path in re.findall(
            r"`((?:tests|kernels|readers|writers|pipeline)/[\w/.]+\.py)`", page.read_text()
        ):
            assert (ROOT / path).exists(), (page.name, path)


_SHOWN_BY = re.compile(r"`(tests/[\w./-]+\.(?:py|sh))`((?:(?::|,) `\w+`)*)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_tests_that_a_page_names_exist(page: Path) -> None:
    """`tests/x.py`, alone or with names of tests without `test_`, as docs/inputs.md has them."""
    for path, names in _SHOWN_BY.findall(text_of(page)):
        source = ROOT / path
        assert source.is_file(), path
        for name in re.findall(r"`(\w+)`", names):
            assert f"def test_{name}(" in source.read_text(), f"{path}: {name}"


_WHICH = "## Which test shows what"


def _statements(page: str) -> Iterator[str]:
    """What a page says, piece by piece: paragraphs, items of lists, and rows of tables.

    A table that a test makes from the code (`<!-- name -->` above it) is one piece.
    """
    text = re.sub(r"(?ms)^```.*?^```$", "\n", page.partition(_WHICH)[0])
    text = re.sub(r"(?ms)^<!-- (\w+) -->\n.*?^<!-- end -->$", r"\n\ntable of \1\n\n", text)
    text = re.sub(r"(?m)^(?:#.*|<!--.*)$", "", text)
    for piece in re.split(r"\n\s*\n|\n(?=- |\d+\. |\|)", text):
        line = piece.strip().removeprefix("- ").removeprefix("| ").replace("**", "")
        heading = re.search(rf"(?m)^{re.escape(piece.strip())}\n\|-", text) if line else None
        if line and heading is None and not line.startswith("|-"):
            yield line


# Of the pieces below these headings each sentence has its own row, which begins with `… `.
_BY_SENTENCE = (
    *("## Methods that a configuration names", "## Which files of a folder are the model"),
    *("## Edits between the runs", "## Signals"),
    *("## What lies in the place of our files", "## Models with broken shards"),
    *("## What is promised", "## What is not promised", "## Folders from strangers"),
    *("## File systems that lack something", "## Tested"),
    *("## Limits", "## Who is kept out", "## URLs", "## The recipe", "## How it is tested"),
)
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z`\[(\"])")


def _sentences(page: str) -> Iterator[str]:
    """The sentences behind the first of each piece of such a part of a page."""
    for heading in _BY_SENTENCE:
        part = page.partition(f"\n{heading}\n")[2].partition("\n## ")[0]
        for said in _statements(part):
            yield from _SENTENCE.split(" ".join(said.split()))[1:]


@pytest.mark.parametrize("name", ["failures", "inputs", "untrusted-input"])
def test_each_statement_of_these_pages_has_its_tests(name: str) -> None:
    page = (ROOT / "docs" / f"{name}.md").read_text()
    rows = dict(re.findall(r"(?m)^\| (.+?) \| (.+) \|$", page.partition(_WHICH)[2]))
    assert rows.pop("what begins with") == "test"
    statements = list(_statements(page))
    assert len(statements) >= 30
    for said in statements:
        known = [row for row in rows if said.startswith(row)]
        assert known, f"no row of the table for {said[:60]!r}"
    sentences = [f"… {said}" for said in _sentences(page)]
    for said in sentences:
        assert any(said.startswith(row) for row in rows), f"no row of the table for {said[:60]!r}"
    statements += sentences
    for row, shown in rows.items():
        assert any(said.startswith(row) for said in statements), f"nothing begins with {row!r}"
        assert _SHOWN_BY.search(shown) or shown.startswith("none: "), row
