"""The first object of a process, before anything made the process' own symbols known to LLVM."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

if os.environ.get("NUMBA_DISABLE_JIT", "0") != "0":
    pytest.skip("nothing is compiled", allow_module_level=True)

# The body of a rotation fills a row with zeros, which is a call of memset.
CODE = """
import sys
import numpy as np
from anamnesis.kernels._native import kernel
numbers, matrix = np.arange(64, dtype=np.float32), np.eye(32, dtype=np.float32)
out = np.empty(64, np.float32)
kernel("folded:rotate")(numbers, matrix, np.empty(32, np.float32), out)
assert (out == numbers).all(), out
assert ("numba" in sys.modules) == (sys.argv[1] == "compiles")
"""


def test_it_may_call_the_c_library(tmp_path: Path) -> None:
    cache = {**os.environ, "ANAMNESIS_CACHE": str(tmp_path)}
    for what in ("compiles", "loads"):
        done = subprocess.run(
            [sys.executable, "-c", CODE, what],
            env=cache,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, (what, done.stderr)
