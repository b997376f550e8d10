"""The first object of a process, before anything made the process' own symbols known to LLVM."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

if os.environ.get("NUMBA_DISABLE_JIT", "0") != "0":
    pytest.skip("nothing is compiled", allow_module_level=True)

# int8's body fills an array with zeros, which is a call of memset.
CODE = """
import sys
import numpy as np
from anamnesis.kernels._native import kernel
codes = np.arange(64, dtype=np.uint8)
scales, none = np.ones(2, np.float32).view(np.uint8), np.zeros(8, np.uint8)
room = np.empty(32, np.uint8), *np.empty((2, 1), np.float32), np.empty(0, np.uint32)
out = np.empty(64, np.float32)
place = 1 << 62, 0, 1
kernel("ct:int8")(codes, scales, none, 0, 0, 0, place, np.array([0, 32]), 32, False, room, out)
assert (out == codes).all(), out
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
