"""The oldest release of every dependency that pyproject allows, a requirement a line for pip.

`python tests/minimum.py` prints those of the package; with names of requirements of the `test`
extra, those too, which is what `make test-minimum` installs. With `--any` the bounds themselves.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

PYPROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"
_BOUND = re.compile(r"([\w.-]+)(\[[\w,-]+\])?>=([\w.]+)((?:,(?:<|!=)[\w.*]+)*)")


def requirements(*of_tests: str) -> list[str]:
    """The package's dependencies and some that only tests need, as pyproject has them.

    Raises ValueError for a name that tests do not have.
    """
    project = tomllib.loads(PYPROJECT.read_text())["project"]
    tests = {_parts(line)[0]: line for line in project["optional-dependencies"]["test"]}
    missing = set(of_tests) - set(tests)
    if missing:
        raise ValueError(f"not in the test extra: {', '.join(sorted(missing))}")
    return [*project["dependencies"], *(tests[name] for name in of_tests)]


def pins(*of_tests: str) -> dict[str, str]:
    """`name==oldest` by name, of `requirements`; ValueError for one without a lower bound."""
    found = map(_parts, requirements(*of_tests))
    return {name: f"{name}{extra}=={oldest}" for name, extra, oldest in found}


def _parts(line: str) -> tuple[str, str, str]:
    bound = _BOUND.fullmatch(line.partition(";")[0].strip())
    if bound is None:
        raise ValueError(f"{line}: no lower bound of the form name>=version")
    return bound[1], bound[2] or "", bound[3]


if __name__ == "__main__":
    names = sys.argv[1:]
    if "--any" in names:
        print("\n".join(requirements(*(name for name in names if name != "--any"))))
    else:
        print("\n".join(pins(*names).values()))
