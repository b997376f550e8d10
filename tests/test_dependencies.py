"""What the package imports is declared, with bounds that `make test-minimum` installs."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from loaded import loaded

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
# Modules whose distribution has another name.
DISTRIBUTION = {"yaml": "PyYAML", "zlib_ng": "zlib-ng", "distributed": "dask", "torch": ""}
DISTRIBUTION["azure"] = "azure-storage-blob"


@pytest.fixture(scope="module")
def minimum() -> ModuleType:
    return loaded("minimum.py")


def executed(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a file but for what stands there for type checkers alone."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        yield node
        yield from executed(node)


def imported() -> set[str]:
    """Top names of what the package's files import, wherever in them, but for Python's own."""
    found: set[str] = set()
    packages = PROJECT["tool"]["setuptools"]["packages"]
    for package in packages:
        folder = ROOT.joinpath(*package.split(".")[1:])
        for path in folder.glob("*.py"):
            for node in executed(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    found.update(alias.name for alias in node.names)
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    found.add(node.module)
    return {name.partition(".")[0] for name in found} - sys.stdlib_module_names - {"anamnesis"}


def test_what_is_imported_is_declared() -> None:
    project = PROJECT["project"]
    extras = project["optional-dependencies"]
    lines = [*project["dependencies"]]
    lines += [
        line for name, extra in extras.items() if name not in ("dev", "test") for line in extra
    ]
    declared = {re.match(r"[\w.-]+", line)[0].lower() for line in lines}  # type: ignore[index]
    used = {DISTRIBUTION.get(name, name).lower() for name in imported()} - {""}
    assert used - declared == set()


def test_every_bound_names_an_oldest_release(minimum: ModuleType) -> None:
    pins = minimum.pins("pytest")
    assert "dask[distributed]==" in pins["dask"]
    assert set(pins) >= {"click", "llvmlite", "numba", "numpy", "pyarrow", "pytest"}
    with pytest.raises(ValueError, match="not in the test extra: nothing"):
        minimum.pins("nothing")


@pytest.mark.skipif("ANAMNESIS_MINIMUM" not in os.environ, reason="is of make test-minimum")
def test_the_oldest_releases_are_those_installed(minimum: ModuleType) -> None:
    """No pin was raised by what another one asks for."""
    assert sys.version_info[:2] == (3, 11)
    for name, pin in minimum.pins().items():
        oldest = pin.partition("==")[2].split(".")
        installed = importlib.metadata.version(name).split(".")
        assert installed[: len(oldest)] == oldest, name
        assert not any(part.strip("0") for part in installed[len(oldest) :]), name


def test_extras_are_quoted() -> None:
    """zsh takes the brackets of a bare one for a pattern, and installs nothing."""
    texts = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "words.py"]
    bare = re.compile(r"(?<![\"'])(?:anamnesis-arrow|\s\.)\[[a-z,{]")
    assert [str(path) for path in texts if bare.search(path.read_text())] == []
    others = {"tests", "build"}  # an editable install links the sources below the second
    python = [
        path for path in ROOT.glob("[a-z]*/**/*.py") if path.parts[len(ROOT.parts)] not in others
    ]
    assert [str(path) for path in python if "anamnesis-arrow[" in path.read_text()] == []
