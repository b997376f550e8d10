"""Measures of the code that may fall and not rise: parameters, types that say nothing, words."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("analytics", "benchmarks", "cli", "kernels", "model", "names", "pipeline", "readers")
MODULES = sorted(p for room in (*ROOMS, "writers") for p in (ROOT / room).rglob("*.py"))
MOST = 8  # parameters by position
LINES = 400  # of a file

# Longer ones: bodies take arrays flat where a tuple of them would have to be taken apart by every
# caller of a small function.
LONGER = {
    "kernels/bodies/_planar.py:decode_table": 9,
    "kernels/bodies/_fp8_vector.py:look_up": 9,
    "kernels/bodies/fp8.py:_rows": 9,
    "kernels/bodies/fp8.py:scaled": 9,
}
# What users call says each of its keywords, with type and default.
FACES = {
    "analytics/diff/run.py:diff",
    "analytics/stats/run.py:stats",
    "model/api.py:scan",
    "model/conversion.py:convert",
    "model/conversion.py:remember",
}
# Parameters and fields of kernels without a type: mostly arguments of any kernel, and records whose
# fields numpy has no type for.
UNTYPED = 30


@cache
def parts(name: str) -> frozenset[str]:
    """The words of a name."""
    return frozenset(word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name))


class Taken(NamedTuple):
    """How many parameters a function has of each kind."""

    function: str
    by_position: int
    by_either: int
    by_name: int


@cache
def functions() -> list[Taken]:
    return [
        Taken(
            f"{path.relative_to(ROOT)}:{node.name}",
            *map(len, (node.args.posonlyargs, node.args.args, node.args.kwonlyargs)),
        )
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
    ]


def test_no_function_takes_more_than_eight_by_position() -> None:
    found = {
        taken.function: count
        for taken in functions()
        if (count := taken.by_position + taken.by_either) > MOST
    }
    assert found == LONGER


def test_only_what_users_call_has_many_keywords() -> None:
    found = {
        taken.function
        for taken in functions()
        if taken.by_either <= MOST < taken.by_either + taken.by_name
    }
    assert found == FACES


def test_parameters_of_kernels_have_types() -> None:
    text = [p.read_text() for p in MODULES if p.is_relative_to(ROOT / "kernels")]
    assert sum(len(re.findall(r": Any\b", one)) for one in text) <= UNTYPED


def test_the_glossary_is_short() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    words = re.findall(r"^\| ", page.split("## Words")[1], re.MULTILINE)
    assert 10 <= len(words) - 1 <= 20  # a head


# Words of this house that another reader would have to ask about; the glossary has what stays.
# `put` is a request of S3 and an opcode of pickles, and `odd` a number.
DIALECT = {"cycle", "cycles", "strip", "strips", "told", "turn", "turned", "turns", "way", "ways"}
DIALECT_OF_KERNELS = DIALECT - {"turn", "turned", "turns"}  # rows of a block that are transposed


def test_names_are_the_field_s() -> None:
    """Names that are given: of files, functions, classes, arguments, attributes and variables."""
    found = []
    for path in MODULES:
        words = DIALECT_OF_KERNELS if path.is_relative_to(ROOT / "kernels") else DIALECT
        if words & parts(path.stem):
            found.append(str(path.relative_to(ROOT)))
        for node in ast.walk(ast.parse(path.read_text())):
            given = ""
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                given = node.name
            elif isinstance(node, ast.arg):
                given = node.arg
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                given = node.id
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                given = node.attr
            if words & parts(given):
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}: {given}")
    assert not found


@pytest.mark.parametrize("room", ["benchmarks", "tests"])
def test_files_stay_short(room: str) -> None:
    """The other rooms' files are held in tests/test_architecture.py."""
    files = sorted((ROOT / room).rglob("*.py"))
    found = {str(p.relative_to(ROOT)): len(p.read_text().splitlines()) for p in files}
    assert files
    assert {path: lines for path, lines in found.items() if lines > LINES} == {}


def test_pages_are_in_the_field_s_words() -> None:
    """Not what is quoted as code, nor the log of experiments."""
    log = ROOT / "docs" / "performance-experiments.md"
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    words = re.compile(r"\b(strips?|told|turned)\b", re.IGNORECASE)
    found = []
    for page in pages:
        text = re.sub(r"\(\S+\)|`[^`]*`|^```.*?^```", "", page.read_text(), flags=re.M | re.S)
        if page != log and (hit := words.search(text)):
            found.append(
                f"{page.relative_to(ROOT)}: {text[max(0, hit.start() - 40) : hit.end()]!r}"
            )
    assert not found
