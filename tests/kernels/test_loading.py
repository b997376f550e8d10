"""Threads that ask for a kernel while its module is being imported wait for all of it."""

from __future__ import annotations

import subprocess
import sys

# Threads take turns between any two lines of a module, and each module is imported anew.
CODE = """
import sys, threading
from concurrent.futures import ThreadPoolExecutor
from anamnesis import kernels
names = {row.target.partition(":")[0]: name for name, row in kernels.ENCODINGS.items()}
sys.setswitchinterval(1e-6)
together = threading.Barrier(4)
def load(name):
    together.wait()
    return kernels.decoder(name)
with ThreadPoolExecutor(4) as pool:
    for name in names.values():
        assert len(set(pool.map(load, [name] * 4))) == 1
"""


def test_threads_wait_for_a_module_that_is_being_imported() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, done.stderr
