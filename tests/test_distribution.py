"""What `make dist` looks for in a wheel and an sdist, and what the README says of installing."""

from __future__ import annotations

import re
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from loaded import loaded

import anamnesis

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
README = (ROOT / "README.md").read_text()
GOOD = {"anamnesis/py.typed": "", "anamnesis/kernels/data/iq.npy": "", "a-1.dist-info/METADATA": ""}


@pytest.fixture(scope="module")
def problems() -> Callable[[Path, tuple[str, ...]], list[str]]:
    found: Callable[[Path, tuple[str, ...]], list[str]] = loaded("distribution.py").problems
    return found


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({}, ""),
        ({"tests/test_a.py": ""}, ": tests"),
        ({"anamnesis/tests/test_a.py": ""}, ": tests"),
        ({"anamnesis/a.py": "# /home/me/work/a.py"}, "anamnesis/a.py names /home/me"),
        ({"anamnesis/a.py": "$x/home/me/a"}, ""),
        ({"anamnesis/py.typed": None}, "no anamnesis/py.typed"),
        ({"anamnesis/kernels/data/iq.npy": None}, "no anamnesis/kernels/data"),
    ],
)
def test_what_does_not_belong_into_a_wheel(
    changes: dict[str, str | None], found: str, tmp_path: Path, problems: Any
) -> None:
    wheel = tmp_path / "a-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in (GOOD | changes).items():
            if text is not None:
                archive.writestr(name, text)
    assert [line.endswith(found) for line in problems(wheel, ("/home/me",))] == [True] * bool(found)


def test_one_version() -> None:
    assert PROJECT["version"] == anamnesis.__version__


def test_one_line_installs_every_extra_that_users_have() -> None:
    line = re.search(r'^\$ pip install "\.\[([\w,]+)\]"$', README, re.MULTILINE)
    assert line is not None
    ours = {"dev", "docs", "fuzz", "test"}
    assert line[1].split(",") == sorted(set(PROJECT["optional-dependencies"]) - ours)


def test_pictures_are_shown_wherever_the_readme_is() -> None:
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README)
    raw = PROJECT["urls"]["Repository"].replace("//github.com", "//raw.githubusercontent.com")
    for picture in pictures:
        assert picture.startswith(f"{raw}/main/")
        assert (ROOT / picture.removeprefix(f"{raw}/main/")).is_file()
    assert pictures


def test_systems_and_pythons_are_those_of_the_readme() -> None:
    kinds = {c.rpartition(" :: ")[2] for c in PROJECT["classifiers"]}
    assert {"Linux", "MacOS", "3.11", "3.14"} <= kinds
    assert not {"OS Independent", "Microsoft", "Windows"} & kinds
    assert "CPython 3.11 to 3.14" in README
    assert "Windows is not supported" in README


def test_every_output_format_is_in_the_table_of_what_loads_it() -> None:
    from anamnesis.writers import WRITERS

    assert {name for name in WRITERS if f"\n| `{name}` |" not in README} == set()
