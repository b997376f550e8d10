"""The oldest release of every dependency that pyproject allows, a requirement a line for pip.

`python tests/minimum.py` prints those of the package; with names of requirements of the `test`
extra, those too, which is what `make test-minimum` installs.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

PYPROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"
_BOUND = re.compile(r"([\w.-]+)(\[[\w,-]+\])?>=([\w.]+)((?:,(?:<|!=)[\w.*]+)*)")


def pins(*of_tests: str) -> dict[str, str]:
    """`name==oldest` by name, of the package's dependencies and of some that only tests need.

    Raises ValueError for a requirement without a lower bound, or a name that tests do not have.
    """
    project = tomllib.loads(PYPROJECT.read_text())["project"]
    tests = {_parts(line)[0]: line for line in project["optional-dependencies"]["test"]}
    missing = set(of_tests) - set(tests)
    if missing:
        raise ValueError(f"not in the test extra: {', '.join(sorted(missing))}")
    found = [_parts(line) for line in (*project["dependencies"], *(tests[n] for n in of_tests))]
    return {name: f"{name}{extra}=={oldest}" for name, extra, oldest in found}


def _parts(line: str) -> tuple[str, str, str]:
    bound = _BOUND.fullmatch(line.partition(";")[0].strip())
    if bound is None:
        raise ValueError(f"{line}: no lower bound of the form name>=version")
    return bound[1], bound[2] or "", bound[3]


if __name__ == "__main__":
    print("\n".join(pins(*sys.argv[1:]).values()))
