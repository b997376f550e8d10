"""A first run says that it compiles kernels; the next has nothing to say, and loads no numba."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

CODE = """
import sys
from anamnesis.cli.main import main
try:
    main()
finally:
    print("numba" in sys.modules, "dask" in sys.modules)
"""


@pytest.mark.skipif("NUMBA_DISABLE_JIT" in os.environ, reason="nothing is compiled")
def test_compiling_is_told_once(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_file({name: np.ones((4, 8), np.float16) for name in "ab"}, path)

    def run(cache: str, out: str, *flags: str) -> tuple[str, str]:
        job = tmp_path / f"{out}.yaml"
        job.write_text(
            f"inputs: [{path}]\noutput: {{path: {tmp_path / out}.safetensors}}\n"
            "numbers: {passthrough: bf16}\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", CODE, "run", str(job), *flags],
            env={**os.environ, "ANAMNESIS_CACHE": str(tmp_path / cache)},
            capture_output=True,
            text=True,
            check=True,
            timeout=240,
        )
        return done.stdout.splitlines()[-1], done.stderr

    modules, notes = run("first", "a")
    assert modules == "True False"
    assert notes.count("compiling kernels") == 1
    modules, notes = run("first", "b")
    assert modules == "False False"
    assert "compiling kernels" not in notes
    assert run("second", "c", "--quiet") == ("True False", "")
